"""The reference page of the configuration leaves nothing out: variables, options, metrics."""

import re

import pytest

from bullpen_cli.__main__ import COMMANDS
from bullpen_worker.reports.exposition import WorkerMetrics
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
SOURCES = [path for part in ("client", "worker", "cli") for path in (ROOT / part).rglob("*.py")]
TYPERS_OWN = {"BULLPEN_COMPLETE"}


def test_every_environment_variable_stands_on_the_page():
    named = re.compile(r"\bBULLPEN(?:_[A-Z]+)+\b|(?<=\")REDIS(?:_[A-Z]+)+(?=\")")
    in_code = {name for path in SOURCES for name in named.findall(path.read_text(encoding="utf-8"))}
    assert len(in_code) > 20
    assert {name for name in in_code - TYPERS_OWN if f"`{name}`" not in PAGE} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_on_the_page(command):
    app = COMMANDS[command].load()
    options = {name for parameter in app.params for name in parameter.opts if name.startswith("--")}
    assert {name for name in options - {"--help"} if not re.search(rf"`[^`]*{name}(?![\w-])[^`]*`", PAGE)} == set()


def test_every_metric_stands_on_the_page():
    worker = WorkerMetrics("emails")
    worker.last_fetch = 1.0
    families = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}"
        for family in worker.collect()
        if family.name.startswith("bullpen_")
    }
    assert len(families) == 8
    assert {name for name in families if f"`{name}`" not in PAGE} == set()
