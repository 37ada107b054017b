"""What the pages have readers type on a cluster: kubectl, and what `bullpen` does by it.

Most of it runs against an API server (tests/cluster/test_runbooks.py), what needs pods that run on a node
(tests/e2e/test_outages.py).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.docs import pages

PROGRAMS = ("kubectl ", "bullpen pause --jobqueue ", "bullpen resume --jobqueue ")
_NEEDS_A_NODE = re.compile(r" (logs (deployment|statefulset)/|rollout status)")
_TRIED_ELSEWHERE = re.compile(r"manifests-of-mine")
"""In tests/cluster/test_chart.py."""
_NO_COMMAND = re.compile(r"kubectl [a-z]+( status| --server-side)?")
"""A word of the text."""
_INLINE = re.compile(r"`(kubectl [^`]+)`")


@dataclass(frozen=True)
class Command:
    """One command, and the first page that has it."""

    text: str
    page: Path

    def __str__(self) -> str:
        """The command."""
        return self.text

    @property
    def needs_a_node(self) -> bool:
        """Whether there must be pods that run."""
        return _NEEDS_A_NODE.search(self.text) is not None


def commands() -> list[Command]:
    """Give every command of the pages, in blocks and in lines, once, in their order."""
    found: dict[str, Command] = {}
    for page in pages.pages():
        here: list[str] = []
        for block in pages.blocks(page):
            if block.language in ("console", "text"):
                here += [step.command for step in pages.steps(block) if step.command.startswith(PROGRAMS)]
        here += _INLINE.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
        for text in here:
            if not (_TRIED_ELSEWHERE.search(text) or _NO_COMMAND.fullmatch(text)):
                found.setdefault(text, Command(text, page))
    return list(found.values())
