"""What a slot, and the sending of its acks, need of the engine around them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

from bullpen.handling.contexts import CancelScope
from bullpen.handling.outcomes import Completed, Outcome
from bullpen.queue.records import StoredJob
from bullpen.redis.failures import ReplyError
from bullpen_worker.keeping.table import SlotTable
from bullpen_worker.running.acks import Ending
from bullpen_worker.running.admission import Admission
from bullpen_worker.running.lines import Line
from bullpen_worker.running.runs import Run
from bullpen_worker.running.services import Outbox
from bullpen_worker.running.templates import Templates


class Floor(Protocol):
    """The engine, as what runs on it sees it. Every method is called on the engine's loop."""

    pack: Templates
    admission: Admission
    table: SlotTable
    outbox: Outbox
    alone: bool
    giving_back: bool
    """Jobs that are fetched nevertheless go back at once: the worker stops."""
    ending: bool
    """Tasks are cancelled now because the engine ends."""
    heard: bool
    """Set by whoever gets an answer of Redis to an ack or a fetch."""

    def new_token(self) -> bytes:
        """Make a token that was never used."""

    def wants_next(self) -> bool:
        """Whether an ack may bring the next job."""

    def uncertain(self, token: bytes) -> None:
        """A call with this token has an unknown outcome."""

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task with clean context variables."""

    def starts(self, run: Run) -> None:
        """The job's handler is about to be called."""

    def call_ahead(self, run: Run) -> Completed | Awaitable[object] | None:
        """Call the job's handler up to where it first waits: its outcome, what is left to do, or None: all of it."""

    def attempt(
        self, run: Run, scope: CancelScope, task: asyncio.Task[None] | None, begun: Awaitable[object] | None
    ) -> Coroutine[object, None, Outcome]:
        """Run the job's handler once, in this task, or what `call_ahead` left of it."""

    @property
    def left(self) -> Callable[[], None]:
        """The attempt is over, or none has begun: no context variable speaks of a job."""

    async def schedule_next(self, stored: StoredJob, line: Line) -> None:
        """Write the next run of the scheduler that produced the job."""

    def hand_over(self, job_id: bytes, token: bytes) -> bool:
        """Have the job run in a process of its own, under this token; False when there is no way to."""

    def ended(self, run: Run, ending: Ending, run_ms: float | None) -> None:
        """The outcome is written, or void. `run_ms` is None where the handler was not called."""

    def limited(self, delay_ms: int) -> None:
        """Nothing of the queue is to start for so long."""

    def trouble(self, job_id: bytes, error: ReplyError) -> None:
        """Redis refuses the job's ack for good; the job is left to recovery."""

    def crashed(self, error: BaseException) -> None:
        """Something failed that must not: the engine ends."""
