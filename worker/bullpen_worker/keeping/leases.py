"""How long the locks of running jobs still hold, as far as their worker can know: decisions alone, no I/O.

A lock holds for `lock_ms` from the moment Redis set it. The worker knows when it sent what set it, which was earlier, so it never
believes in a lock longer than Redis does (but for a difference in how fast two clocks run). A lock that was not renewed for
that long counts as lost without asking: a Redis that is frozen, restarting or cut off cannot be asked, others may take
the job as soon as it is back, and it may be back for them before it is for us. A lock that is lost stays lost, even where
it turns out to be there still: the attempt was told to end.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from bullpen_worker.keeping.table import SlotTable, SlotView

TICKS_PER_LOCK: Final = 12
"""How often within a lock's duration its age is looked at: so late a renewal, or the news of a loss, may be."""

RENEWALS_PER_LOCK: Final = 3
"""A lock is renewed at this fraction of its duration."""


Key = tuple[SlotTable, int, int]
"""Table, slot and generation: the table itself, since the identity of one that is gone may come again."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one job in one table."""

    table: SlotTable = field(compare=False)
    view: SlotView = field(compare=False)
    key: Key

    @classmethod
    def of(cls, table: SlotTable, view: SlotView) -> "Run":
        """Name the run that `view` saw in `table`."""
        return cls(table, view, (table, view.slot, view.generation))

    @property
    def goes_on(self) -> bool:
        """Whether the slot still has this run."""
        return self.table.is_current(self.view)


class Leases:
    """What is known of the locks. Times are monotonic milliseconds; call `look` every `lock_ms` / `TICKS_PER_LOCK`."""

    def __init__(self, lock_ms: int) -> None:
        self.lock_ms = lock_ms
        self._set_ms: dict[Key, int] = {}
        self._lost: set[Key] = set()

    def look(self, runs: Iterable[Run], now_ms: int) -> tuple[list[Run], list[Run]]:
        """Say what is to be renewed now, and what has just been lost.

        Nothing is to be renewed until one lock is old enough; then all are. What no longer runs is forgotten.
        """
        set_ms: dict[Key, int] = {}
        held: list[Run] = []
        lost: list[Run] = []
        still_lost = set()
        oldest_ms = now_ms
        for run in runs:
            if run.key in self._lost:
                still_lost.add(run.key)
                continue
            at_ms = self._set_ms.get(run.key, run.view.started_ms)
            if now_ms - at_ms >= self.lock_ms:
                lost.append(run)
                still_lost.add(run.key)
                continue
            set_ms[run.key] = at_ms
            oldest_ms = min(oldest_ms, at_ms)
            held.append(run)
        self._set_ms, self._lost = set_ms, still_lost
        due = held and now_ms - oldest_ms >= self.lock_ms // RENEWALS_PER_LOCK
        return (held if due else []), lost

    def age_ms(self, run: Run, now_ms: int) -> int:
        """Say how long ago the lock was surely set."""
        return now_ms - self._set_ms.get(run.key, run.view.started_ms)

    def renewed(self, runs: Iterable[Run], sent_ms: int) -> None:
        """Take in that Redis renewed these locks, when the command had been sent at `sent_ms`."""
        for run in runs:
            if run.key in self._set_ms:
                self._set_ms[run.key] = sent_ms

    def lose(self, run: Run) -> bool:
        """Take in that Redis has no such lock. Returns whether that is news."""
        if run.key in self._lost:
            return False
        self._set_ms.pop(run.key, None)
        self._lost.add(run.key)
        return True
