"""What local mode shows: a live table in a terminal, plain lines elsewhere.

Both show the same: each queue's jobs by state, its workers, and why there are so many. Whatever comes from jobs or workers
is text, never markup.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bullpen_cli.local.journal import Line

SHOWN_LINES = 8
PLAIN_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class QueueRow:
    """One queue at one moment. None stands for what could not be read."""

    queue: str
    waiting: int | None = None
    delayed: int | None = None
    active: int | None = None
    completed: int = 0
    retried: int = 0
    failed: int = 0
    workers: int = 0
    starting: int = 0
    stopping: int = 0
    wanted: int = 0
    most: int = 0
    reason: str = ""
    trouble: str | None = None


@dataclass(frozen=True)
class Picture:
    """All that is shown at one moment."""

    redis: str
    rows: Sequence[QueueRow]
    seconds: float
    note: str = ""


class View(Protocol):
    """Where local mode shows itself."""

    @property
    def gone(self) -> bool:
        """Whether nobody can see it any more."""

    def say(self, sentence: str, *, style: str = "") -> None:
        """Say something that happened once."""

    def hear(self, line: Line) -> None:
        """Show what a worker wrote, where it is worth it."""

    def show(self, picture: Picture) -> None:
        """Show how things stand."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class LiveView:
    """A table that redraws itself, what happened scrolling by above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[Line] = []
        self._picture: Picture | None = None
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._draw, transient=False)
        self._live.start()

    @property
    def gone(self) -> bool:
        """Never: the end of a terminal ends the process."""
        return False

    def say(self, sentence: str, *, style: str = "") -> None:
        """Print above the table."""
        self._console.print(Text(sentence, style=style))

    def hear(self, line: Line) -> None:
        """Keep the latest lines to be shown; what is routine is in the counts."""
        if line.routine:
            return
        self._lines.append(line)
        del self._lines[:-SHOWN_LINES]

    def show(self, picture: Picture) -> None:
        """Redraw with these numbers."""
        self._picture = picture

    def close(self) -> None:
        """Draw a last time and stop."""
        self._lines.clear()
        self._live.stop()

    def _draw(self) -> Group:
        picture = self._picture
        if picture is None:
            return Group(Text("starting …"))
        table = draw_table(picture.rows)
        head = Text.assemble((f"{picture.redis}  ", "dim"), (f"{picture.seconds:.0f} s  ", "dim"), picture.note)
        lines = [draw_line(line, self._console.width) for line in self._lines]
        why = [draw_why(row, self._console.width) for row in picture.rows]
        return Group(*lines, head, table, *why)


class PlainView:
    """Lines for a log: each change of a queue's workers, and how things stand every few seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._workers: dict[str, tuple[int, str]] = {}
        self._last: dict[str, str] = {}
        self._shown_at = float("-inf")
        self._gone = False

    @property
    def gone(self) -> bool:
        """Whether whoever read the lines has closed the pipe."""
        return self._gone

    def say(self, sentence: str, *, style: str = "") -> None:  # noqa: ARG002 - plain lines have no style
        """Write the sentence."""
        self._write(sentence)

    def hear(self, line: Line) -> None:
        """Write what a worker wrote, with its queue in front; what is routine is in the counts."""
        if not line.routine:
            self._write(f"{line.source}: {line.text}")

    def show(self, picture: Picture) -> None:
        """Write what changed."""
        due = self._clock() - self._shown_at >= PLAIN_EVERY_SECONDS
        for row in picture.rows:
            decision = (row.wanted, row.trouble or "")
            if self._workers.get(row.queue, (0, "")) != decision:
                self._workers[row.queue] = decision
                self._write(f"{row.queue}: {row.wanted} of at most {row.most} workers: {row.trouble or row.reason}")
            line = plain_row(row)
            if due and self._last.get(row.queue) != line:
                self._last[row.queue] = line
                self._write(line)
        if due:
            self._shown_at = self._clock()

    def close(self) -> None:
        """Nothing is left to do."""

    def _write(self, sentence: str) -> None:
        try:
            print(sentence, file=self._stream, flush=True)
        except BrokenPipeError:
            self._gone = True
            with Path(os.devnull).open("w") as nothing:  # for what is written from now on, also at the very end
                os.dup2(nothing.fileno(), self._stream.fileno())


def plain_row(row: QueueRow) -> str:
    """Say in a line how a queue stands."""
    return (
        f"{row.queue}: waiting {count(row.waiting)}, delayed {count(row.delayed)}, active {count(row.active)},"
        f" completed {row.completed}, retried {row.retried}, failed {row.failed}, workers {row.workers}"
    )


def draw_table(rows: Sequence[QueueRow]) -> Table:
    """Draw the queues."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("queue", no_wrap=True)
    for heading in ("waiting", "delayed", "active", "completed", "retried", "failed"):
        table.add_column(heading, justify="right")
    table.add_column("workers", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.queue),
            *(count(value) for value in (row.waiting, row.delayed, row.active)),
            Text(str(row.completed), style="green" if row.completed else ""),
            Text(str(row.retried), style="yellow" if row.retried else ""),
            Text(str(row.failed), style="red" if row.failed else ""),
            workers(row),
        )
    return table


def draw_why(row: QueueRow, width: int) -> Text:
    """Say why the queue has so many workers, in a line that fits."""
    why = Text(f"{row.queue}  ", style="dim")
    why.append(row.trouble or row.reason, style="red" if row.trouble else "")
    why.truncate(max(20, width - 1), overflow="ellipsis")
    return why


def workers(row: QueueRow) -> Text:
    """Draw the workers as a row of signs: ● works, ◐ starts, ○ is on its way out, · may come."""
    signs = Text("●" * row.workers, style="green")
    signs.append("◐" * row.starting, style="yellow")
    signs.append("○" * row.stopping, style="dim")
    signs.append("·" * max(0, row.most - row.workers - row.starting - row.stopping), style="dim")
    if row.most > 12:
        signs = Text(f"{row.workers}+{row.starting}" if row.starting else str(row.workers), style="green")
    signs.append(f" {row.workers + row.starting}/{row.most}")
    return signs


def draw_line(line: Line, width: int) -> Text:
    """Draw what a worker wrote."""
    style = {"warning": "yellow", "error": "red", "critical": "red"}.get(line.level, "")
    text = Text(f"{line.source}  ", style="dim")
    text.append(line.text, style=style)
    text.truncate(max(20, width - 1), overflow="ellipsis")
    return text


def count(value: int | None) -> str:
    """Write a number, a question mark for one that could not be read."""
    return "?" if value is None else str(value)


def summary(left: Mapping[str, str]) -> list[str]:
    """Say what stays behind in each queue."""
    return [f"{queue}: {what} left in Redis" for queue, what in left.items() if what]
