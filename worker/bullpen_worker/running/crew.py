"""All slots of one engine: which are idle, which job runs where, and how they come to rest.

Concurrency model: belongs to the engine's loop. It owns the tasks of its slots, those of attempts that were given up included:
`put_away` ends them.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from bullpen.handling.contexts import CancelReason
from bullpen_worker.running.slots import Slot

LAST_WORDS_S: Final = 2.0
"""How long a handler that was cancelled at the end of the grace period may take to clean up."""

logger = logging.getLogger("bullpen.worker")


class Crew:
    """Makes slots by `make` as they are needed, and uses them again."""

    def __init__(self, make: Callable[[int], Slot]) -> None:
        self.slots: Final[list[Slot]] = []
        self.busy = 0
        """How many jobs are here now."""
        self._make = make
        self._idle: list[Slot] = []
        self._abandoned: list[asyncio.Task[None]] = []
        self._quiet = asyncio.Event()

    def take(self) -> Slot:
        """Take an idle slot; when all are busy, make one."""
        if self._idle:
            return self._idle.pop()
        slot = self._make(len(self.slots))
        self.slots.append(slot)
        return slot

    def put_back(self, slot: Slot) -> None:
        """Take back a slot that got no job."""
        self._idle.append(slot)

    def parked(self, slot: Slot) -> None:
        """Take back a slot whose job has ended."""
        self.busy -= 1
        self._idle.append(slot)
        if not self.busy:
            self._quiet.set()

    def find(self, job_id: bytes) -> Slot | None:
        """Give the slot in which the job runs."""
        return next((slot for slot in self.slots if slot.job_id == job_id), None)

    def runs(self, job_id: bytes, token: bytes) -> bool:
        """Whether the job runs here, locked with this token."""
        return any(slot.job_id == job_id and slot.token == token for slot in self.slots)

    # -- rest ----------------------------------------------------------------

    def wake(self) -> None:
        """Let who waits in `until_changed` look again."""
        self._quiet.set()

    async def until_changed(self) -> None:
        """Wait until no job is here, or for `wake`."""
        self._quiet.clear()
        await self._quiet.wait()

    async def empty(self, grace_ends: Callable[[], float]) -> None:
        """Wait until no job is here: until the grace period ends, then until the cancelled have ended, then no more."""
        await self._until_quiet(grace_ends)
        for slot in self.slots:
            slot.cancel(CancelReason.SHUTDOWN)
        ends = time.monotonic() + LAST_WORDS_S
        await self._until_quiet(lambda: ends)
        for slot in self.slots:
            task = slot.abandon()
            if task is not None:
                self._abandoned.append(task)
                logger.warning(
                    "job %s does not end; its worker waits for it no longer", slot.job_id.decode(errors="replace")
                )
        ends = time.monotonic() + LAST_WORDS_S
        await self._until_quiet(lambda: ends)

    def dismiss(self) -> None:
        """Cancel the slots' tasks: Redis does not answer, and what is not written by now is left to recovery."""
        for slot in self.slots:
            if slot.task is not None:
                slot.task.cancel()

    async def put_away(self) -> None:
        """End every task."""
        tasks = [*self._abandoned, *(slot.task for slot in self.slots if slot.task is not None)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)

    async def _until_quiet(self, ends: Callable[[], float]) -> None:
        while self.busy and (left := ends() - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.until_changed()
