"""The page on troubleshooting has every reason that a condition can have, and none that there is not."""

import re

import pytest

from bullpen.scaling import Reason
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
OPERATOR = ROOT / "operator" / "bullpen_operator"
WRITTEN = re.compile(
    r"""(?:Problem|Refused|Verdict)\(\s*(?:"(?:True|False|Unknown)",\s*)?"(?!(?:True|False|Unknown)")([A-Z][A-Za-z]+)"|^\s+reason = "([A-Z][A-Za-z]+)"$""",
    re.MULTILINE,
)
CALM = {
    "NoInversion",
    "NotStalled",
    "NotRead",
    "Running",
    "UpToDate",
    "JobsWaiting",
    "JobsRunning",
    "OldestJob",
    "Idle",
}
"""What a condition says while nothing is the matter with it, or the demand itself: needs no advice."""


def written():
    """Give the reasons that stand in the operator's code."""
    found = set()
    for module in OPERATOR.rglob("*.py"):
        if module.parent.name == "connections" and module.name in {"pool.py", "controller.py", "health.py"}:
            continue  # conditions of connections: docs/how-to/offer-redis.md
        for match in WRITTEN.finditer(module.read_text(encoding="utf-8")):
            found.add(match[1] or match[2])
    return found | {reason.value for reason in Reason}


def told():
    """Give the reasons that the page explains: the first cells of its tables."""
    cells = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([A-Za-z]+)`", cell)} | set(
        re.findall(r"\(`([A-Za-z]+)`\)", PAGE)
    )


@pytest.mark.parametrize("reason", sorted(written() - CALM))
def test_a_reason_of_the_operator_is_explained(reason):
    assert reason in told()


def test_nothing_is_explained_that_there_is_not():
    conditions = {"QueueOwned", "WorkersOutdated", "PriorityInversion", "Paused", "Reconciling"}
    assert told() - written() - conditions == set()
