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

HEARD_MS: Final = 60_000
"""How long a process may go on to set locks for another duration than it was told last: one that stands still for longer locks
nothing meanwhile."""


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
    """What is known of the locks. Times are monotonic milliseconds; call `look` every `tick_ms`.

    A lock holds for as long as it was set for, whatever `lock_ms` says by now. When that changes, `look` has all renewed at
    once; what is locked meanwhile is taken to be by the shorter of both, as its process may not have heard of the other.
    """

    def __init__(self, lock_ms: int) -> None:
        self._lock_ms = self._before_ms = lock_ms
        self._has_looked = self._has_changed = False
        self._heard_ms = 0  # when all have heard of the latest change
        self._set_ms: dict[Key, tuple[int, int]] = {}  # since when, for how long
        self._lost: set[Key] = set()

    @property
    def lock_ms(self) -> int:
        """How long a lock holds that is set now."""
        return self._lock_ms

    @lock_ms.setter
    def lock_ms(self, lock_ms: int) -> None:
        if not self._has_looked:  # nothing was locked by any other
            self._lock_ms = self._before_ms = lock_ms
        elif lock_ms != self._lock_ms:
            self._before_ms = min(self._before_ms, self._lock_ms)
            self._lock_ms = lock_ms
            self._has_changed = True

    @property
    def tick_ms(self) -> float:
        """How long to wait until the next look, unless `lock_ms` changes before."""
        return min(self._lock_ms, self._before_ms) / TICKS_PER_LOCK

    def look(self, runs: Iterable[Run], now_ms: int) -> tuple[list[Run], list[Run]]:
        """Say what is to be renewed now, and what has just been lost.

        Nothing is to be renewed until one lock is old enough; then all are. What no longer runs is forgotten.
        """
        self._has_looked = True
        changed, self._has_changed = self._has_changed, False
        if changed:
            self._heard_ms = now_ms + HEARD_MS
        elif now_ms >= self._heard_ms:
            self._before_ms = self._lock_ms
        # Those not seen before were locked before the change, where there was one just now.
        new_ms = self._before_ms if changed else min(self._lock_ms, self._before_ms)
        set_ms: dict[Key, tuple[int, int]] = {}
        held: list[Run] = []
        lost: list[Run] = []
        still_lost = set()
        due = changed
        for run in runs:
            if run.key in self._lost:
                still_lost.add(run.key)
                continue
            at_ms, for_ms = self._set_ms.get(run.key) or (run.view.started_ms, new_ms)
            age_ms = now_ms - at_ms
            if age_ms >= for_ms:
                lost.append(run)
                still_lost.add(run.key)
                continue
            set_ms[run.key] = at_ms, for_ms
            due = due or age_ms >= for_ms // RENEWALS_PER_LOCK
            held.append(run)
        self._set_ms, self._lost = set_ms, still_lost
        return (held if due else []), lost

    def age_ms(self, run: Run, now_ms: int) -> int:
        """Say how long ago the lock was surely set."""
        return now_ms - self._known(run)[0]

    def holds_ms(self, run: Run) -> int:
        """Say for how long the lock was set."""
        return self._known(run)[1]

    def renewed(self, runs: Iterable[Run], sent_ms: int, lock_ms: int) -> None:
        """Take in that Redis renewed these locks for `lock_ms`, when the command had been sent at `sent_ms`."""
        for run in runs:
            if run.key in self._set_ms:
                self._set_ms[run.key] = sent_ms, lock_ms

    def lose(self, run: Run) -> bool:
        """Take in that Redis has no such lock. Returns whether that is news."""
        if run.key in self._lost:
            return False
        self._set_ms.pop(run.key, None)
        self._lost.add(run.key)
        return True

    def _known(self, run: Run) -> tuple[int, int]:
        return self._set_ms.get(run.key) or (run.view.started_ms, min(self._lock_ms, self._before_ms))
