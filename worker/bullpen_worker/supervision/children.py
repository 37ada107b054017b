"""One child process of a worker, as its supervisor sees it."""

import asyncio
import contextlib
import enum
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.table import SlotTable, SlotView
from bullpen_worker.supervision import control
from bullpen_worker.supervision.control import Begin, Channel, Order, Ticket
from bullpen_worker.supervision.vitality import Vitals

logger = logging.getLogger("bullpen.supervisor")


class End(enum.Enum):
    """Why a child has ended."""

    DONE = "done"
    """It was told to, or its one job is over."""
    OVERDUE = "overdue"
    """We ended it: a job in it was past its timeout."""
    DEADLINE = "deadline"
    """We ended it: it did not stop in time."""
    DEAF = "deaf"
    """We ended it: it had free slots, and did not fetch."""
    BROKEN = "broken"
    """Our own code in it failed, and said so."""
    CRASHED = "crashed"
    """It died: a signal, an exit that nobody asked for."""


@dataclass
class Child:
    """A running child. `slots` is its share of the worker's concurrency, `away` how many of these are lent to suspects."""

    serial: int
    process: asyncio.subprocess.Process
    channel: Channel
    table: SlotTable
    slots: int
    began: float
    solo: Ticket | None = None
    origin: "Child | None" = None
    """For a solo child: the one that had fetched its job, and works with a slot less meanwhile."""
    place: int | None = None
    """Which of the worker's shares is its own; None for a solo child."""
    overdue: tuple[Ticket, ...] = ()
    ready_at: float | None = None
    names: tuple[str, ...] = ()
    away: int = 0
    broken: bool = False
    stopping: bool = False
    deaf_since: float | None = None
    killed: End | None = None
    guilty: list[SlotView] = field(default_factory=list)

    @classmethod
    async def spawn(
        cls, command: Sequence[str], begin: Begin, *, rows: int, slots: int, origin: "Child | None" = None
    ) -> Self:
        """Start the process and say what it is to be. A solo job's lock is kept from here on.

        Raises OSError when no process can be made.
        """
        table = SlotTable.create(rows)
        if begin.solo is not None:
            occupy(table, 0, begin.solo)
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                str(table.fd),
                str(os.getpid()),
                pass_fds=(theirs.fileno(), table.fd),
            )
        except OSError:
            ours.close()
            table.close()
            raise
        finally:
            theirs.close()
        channel = await Channel.open(ours)
        channel.send(begin)
        return cls(
            begin.serial, process, channel, table, slots, time.monotonic(), begin.solo, origin, overdue=begin.overdue
        )

    def send(self, order: Order) -> None:
        """Tell it, if it still listens."""
        self.channel.send(order)

    def share(self, slots: int | None = None) -> None:
        """Tell it how many slots it may use now: of `slots` from now on. Raises OSError when there is no memory for so many."""
        if slots is not None:
            self.table.grow(slots)
            self.slots = slots
        self.send(control.Concurrency(max(0, self.slots - self.away)))

    def kill(self, why: End) -> None:
        """End it at once; the first reason stays."""
        if self.killed is None and self.process.returncode is None:
            self.killed = why
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    def past_due(self, now_ms: int) -> list[SlotView]:
        """Give the runs whose deadline is before `now_ms`."""
        return [view for view in self.table.views() if view.deadline_ms and view.deadline_ms < now_ms]

    def runs(self) -> list[Run]:
        """Give what ran in it when it ended."""
        return [Run.of(self.table, view) for view in self.table.views(writer_gone=True)]

    def end(self, code: int) -> End:
        """Say why it has ended."""
        if self.killed is not None and code == -signal.SIGKILL:
            return self.killed
        if self.broken:
            return End.BROKEN
        return End.DONE if code == 0 and (self.stopping or self.solo is not None) else End.CRASHED

    def vitals(self, now_ms: int, kill_grace_ms: int) -> Vitals:
        """Give what health is judged by."""
        began_ms = int((self.ready_at or self.began) * 1000)
        views = self.table.views()
        return Vitals(
            serial=self.serial,
            ready=self.ready_at is not None,
            age_ms=now_ms - began_ms,
            beat_ms=now_ms - max(self.table.loop_beat_ms, began_ms),
            fetch_ms=now_ms - max(self.table.last_fetch_ms, began_ms),
            slots=0 if self.solo is not None else self.slots - self.away,
            busy=len(views),
            in_time=any(not view.deadline_ms or view.deadline_ms + kill_grace_ms > now_ms for view in views),
        )

    async def close(self) -> None:
        """Give up the channel and the table of a process that has ended."""
        await self.channel.close()
        self.table.close()


def occupy(table: SlotTable, slot: int, ticket: Ticket) -> None:
    """Write a job into a table of the supervisor's own, so that its lock is kept."""
    table.occupy(
        slot,
        job_id=ticket.job_id.encode(errors="surrogateescape"),
        token=ticket.token.encode(errors="surrogateescape"),
        started_ms=time.monotonic_ns() // 1_000_000,
    )


def ticket(view: SlotView) -> Ticket:
    """Give a run's job and token as text."""
    return Ticket(view.job_id.decode(errors="surrogateescape"), view.token.decode(errors="surrogateescape"))


def split(concurrency: int, processes: int) -> list[int]:
    """Share slots out over processes, as evenly as it goes; where there are more processes than slots, the last get none."""
    base, rest = divmod(concurrency, processes)
    return [base + (1 if number < rest else 0) for number in range(processes)]


def share_out(shares: Sequence[int], children: Iterable[Child]) -> None:
    """Give each child but the solo ones its share of the slots, as far as there is memory for them."""
    for child in children:
        if child.place is None:
            continue
        try:
            child.share(shares[child.place])
        except OSError as error:  # the next child may be luckier
            logger.error("child %s keeps to %s slots: %s", child.serial, child.slots, error)  # noqa: TRY400
