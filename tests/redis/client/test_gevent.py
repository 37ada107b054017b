"""A blocking client among greenlets."""

import json
import subprocess
import sys
from pathlib import Path


def test_greenlets_share_a_client_and_one_that_waits_holds_no_other(bullpen_redis: str) -> None:
    program = Path(__file__).parent / "greenlets.py"
    done = subprocess.run(
        [sys.executable, str(program), bullpen_redis], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"ids": 100, "order": ["counted", "waited"], "child": True}
