"""Reads the code in a Markdown page, so that a test can do what a reader would.

What the first words behind a fence mean:

    ```python shop/jobs.py     the block is that file; later blocks may replace it
    ```yaml queues.yaml
    ```console                 lines with `$ ` are commands, run in order; the lines below one are what it must print,
                               where … stands for anything (a line of it alone: for any number of lines)
    ```console exit=1          the last command must end so
    ```python                  a fragment: it must be Python
    anything else              is only read

Each page is played in a folder of its own, from top to bottom.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int


@dataclass(frozen=True)
class Step:
    """One command and what it must print."""

    command: str
    expected: str
    exit_code: int
    line: int


def pages() -> list[Path]:
    """List all pages that users read."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("examples/*/README.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Give the fenced blocks of a page."""
    info: list[str] | None = None
    indent, began, lines = "", 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and info is None:
            info, indent, began, lines = fence["info"].split(), fence["indent"], number, []
        elif fence and info is not None:
            yield Block(info[0] if info else "", tuple(info[1:]), "\n".join(lines) + "\n", began)
            info = None
        elif info is not None:
            lines.append(line.removeprefix(indent))
    if info is not None:
        raise ValueError(f"{page}:{began}: the block has no end")


def steps(block: Block) -> list[Step]:
    """Give the commands of a console block."""
    code = next((int(word.removeprefix("exit=")) for word in block.words if word.startswith("exit=")), 0)
    found: list[Step] = []
    for offset, line in enumerate(block.text.splitlines(), start=1):
        if line.startswith("$ "):
            found.append(Step(line.removeprefix("$ "), "", 0, block.line + offset))
        elif line.startswith("> ") and found and not found[-1].expected:
            last = found[-1]
            found[-1] = Step(f"{last.command}\n{line.removeprefix('> ')}", "", 0, last.line)
        elif found:
            last = found[-1]
            found[-1] = Step(last.command, f"{last.expected}{line}\n", 0, last.line)
    if found:
        last = found[-1]
        found[-1] = Step(last.command, last.expected, code, last.line)
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether the output is what the page says; blank space at the ends of lines does not count."""
    wanted = [line.rstrip() for line in expected.strip("\n").splitlines()]
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(re.escape(part) for part in line.split("…")) + r"\s*\n"
        for line in wanted
    )
    text = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    return re.fullmatch(pattern, text) is not None
