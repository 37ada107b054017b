"""Times attempts out: one timer for all slots, set to the nearest deadline.

A timer for each job would cost as much as all else that the worker does for one. Most jobs end long before their
deadline, so the timer fires seldom, looks at the slots there are, and is set anew.
"""

import asyncio
import time
from collections.abc import Sequence

from bullpen.handling.contexts import CancelReason
from bullpen_worker.running.slots import Slot


class Deadlines:
    """Watches these slots. Belongs to the loop on which it is made."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at_ms = 0

    def watch(self, slot: Slot) -> None:
        """Cancel the slot's attempt at its `deadline_ms`, should it still be the same."""
        if self._timer is None or slot.deadline_ms < self._at_ms:
            self._set(slot.deadline_ms)

    def close(self) -> None:
        """Time nothing out any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, at_ms: int) -> None:
        self.close()
        self._at_ms = at_ms
        self._timer = self._loop.call_later(max(at_ms / 1000 - time.monotonic(), 0), self._check)

    def _check(self) -> None:
        self._timer = None
        now_ms = time.monotonic_ns() // 1_000_000
        nearest_ms = 0
        for slot in self._slots:
            deadline_ms = slot.deadline_ms
            if not deadline_ms:
                continue
            if deadline_ms <= now_ms:
                slot.deadline_ms = 0
                slot.cancel(CancelReason.TIMEOUT)
            elif not nearest_ms or deadline_ms < nearest_ms:
                nearest_ms = deadline_ms
        if nearest_ms:
            self._set(nearest_ms)
