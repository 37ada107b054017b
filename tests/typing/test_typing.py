"""Both checkers accept what the documentation writes, and refuse each wrong line, for the reason given on it.

A refused line ends in ``# E: <mypy's codes> | <pyright's rules>``; a file may have no complaint but these.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ACCEPTED = sorted((HERE / "accepted").glob("*.py"))
REFUSED = sorted((HERE / "refused").glob("*.py"))
FILES = [str(path.relative_to(ROOT)) for path in (*ACCEPTED, *REFUSED)]

_MARK = re.compile(r"# E: (?P<mypy>[a-z, -]+) \| (?P<pyright>[A-Za-z, ]+)$")


def expected(checker: str) -> list[str]:
    """What a checker is to say: file, line and codes."""
    found = []
    for file in FILES:
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), start=1):
            mark = _MARK.search(line)
            if mark is not None:
                found.append(f"{file}:{number}: {', '.join(sorted(re.findall('[A-Za-z-]+', mark[checker])))}")
    return sorted(found)


def told(complaints: list[tuple[str, int, str]]) -> list[str]:
    """What a checker says, in the same form."""
    codes: dict[tuple[str, int], set[str]] = defaultdict(set)
    for file, line, code in complaints:
        codes[file, line].add(code)
    return sorted(f"{file}:{line}: {', '.join(sorted(found))}" for (file, line), found in codes.items())


@pytest.mark.timeout(600)
def test_mypy_strict_accepts_and_refuses() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--output", "json", *FILES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in {0, 1}, done.stderr
    complaints = [json.loads(line) for line in done.stdout.splitlines()]
    errors = [each for each in complaints if each["severity"] == "error"]
    assert told([(each["file"], each["line"], each["code"]) for each in errors]) == expected("mypy")


@pytest.mark.timeout(600)
def test_pyright_strict_accepts_and_refuses() -> None:
    if shutil.which("node") is None:
        message = "pyright needs Node"
        if "node" in os.environ.get("BULLPEN_REQUIRE", "").split(","):
            pytest.fail(message)
        pytest.skip(message)
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *FILES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in {0, 1}, done.stderr
    complaints = json.loads(done.stdout)["generalDiagnostics"]
    errors = [
        (str(Path(each["file"]).relative_to(ROOT)), each["range"]["start"]["line"] + 1, each.get("rule", "syntax"))
        for each in complaints
        if each["severity"] == "error"
    ]
    assert told(errors) == expected("pyright")


def test_every_refused_file_has_refused_lines() -> None:
    marked = {line.partition(":")[0] for line in expected("mypy")}
    assert marked == {str(path.relative_to(ROOT)) for path in REFUSED}
