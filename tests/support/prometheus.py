"""A real Prometheus for tests: Debian's package `prometheus`, which brings promtool, or a release's folder.

The programs are looked for on PATH, and before it in the folder that $PROMETHEUS_BIN names. Where they are missing, tests that
need them are skipped, aloud; BULLPEN_REQUIRE=prometheus makes that a failure.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import requirements

Sample = tuple[dict[str, str], float]


def program(name: str) -> Path:
    """The program, or the end of the test."""
    places = os.pathsep.join(part for part in (os.environ.get("PROMETHEUS_BIN"), os.environ.get("PATH")) if part)
    found = shutil.which(name, path=places)
    if found is None:
        requirements.missing("prometheus", f"{name} is not installed: no rule and no dashboard is tried")
    return Path(found)


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes what a test serves."""

    url: str

    def query(self, expression: str) -> list[Sample]:
        """Evaluate an expression now. Raises ValueError with what Prometheus has against it."""
        answer = self._get("/api/v1/query", query=expression)
        result = answer["result"]
        if answer["resultType"] == "scalar":
            return [({}, float(result[1]))]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def rules(self) -> dict[str, str]:
        """Give the rules that could not be evaluated, and why."""
        groups = self._get("/api/v1/rules")["groups"]
        assert groups, "no rules are loaded"
        return {
            rule["name"]: rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] == "err"
        }

    def wait(self, expression: str, *, seconds: float = 30.0) -> list[Sample]:
        """Wait until an expression gives something."""
        until = time.monotonic() + seconds
        while not (found := self.query(expression)):
            assert time.monotonic() < until, f"{expression} gave nothing within {seconds:g} s"
            time.sleep(0.1)
        return found

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)["data"]
                return found
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {json.load(error)['error']}") from None


@contextlib.contextmanager
def serving(
    folder: Path, targets: list[dict[str, Any]], *, port: int, rules: Path | None = None
) -> Iterator[Prometheus]:
    """Run Prometheus, which scrapes each second; `targets` are scrape_configs. It ends with the context."""
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "scrape_configs": targets,
                "rule_files": [str(rules)] if rules else [],
            }
        )
    )
    url = f"http://127.0.0.1:{port}"
    command = [
        *(str(program("prometheus")), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not _ready(url):
            assert process.poll() is None, f"prometheus ended:\n{log.read_text()}"
            assert time.monotonic() < until, f"prometheus is not ready:\n{log.read_text()}"
            time.sleep(0.1)
        yield Prometheus(url)
    finally:
        process.kill()
        process.wait(timeout=60)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
