"""Every pytest run loads our plugin: it must not load the harness."""

import subprocess
import sys


def test_the_plugin_imports_little() -> None:
    script = "import sys, bullpen.testing.plugin; print(*[name for name in sys.modules if 'harness' in name or 'redis.' in name])"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    names = set(found.stdout.split())
    assert not {name for name in names if name.startswith("bullpen.testing.")} - {"bullpen.testing.plugin"}
    assert "redis.client" not in names


def test_the_names_are_there() -> None:
    from bullpen import testing

    assert {getattr(testing, name).__name__ for name in testing.__all__} == set(testing.__all__)
