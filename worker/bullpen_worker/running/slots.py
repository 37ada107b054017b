"""One slot: runs a job, writes its outcome and fetches the next in the same round trip, and goes on with that.

Concurrency model: a task calls the handler, writes the outcome, and goes on with the job that the ack brought; an ack that
brings none ends the chain and frees the slot. A job has the task for itself: the next one gets a new task, unless the handler
never waited and left every context variable as it was, so that nothing of it can reach the next job (this saves two
turns of the loop a job, and a third of the worker's CPU where handlers are quick). Everything that happens to a running
attempt from outside (a timeout, a cancellation, a lost lock, the end of the worker) goes through its `CancelScope`; the slot
stays taken until the attempt has ended.

A slot has one lock token. A call whose answer was lost may have locked another job with it, so the slot takes a new
token afterwards and leaves the old one to `bullpen_worker.running.orphans`.

What a job of no special needs passes through is kept short on purpose: calls, objects and awaits are what a quick job's
time goes to.
"""

import asyncio
import contextlib
import contextvars
import random
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Final, Protocol

from bullpen.handling import outcomes
from bullpen.handling.contexts import CancelReason, CancelScope
from bullpen.handling.execution import resumed
from bullpen.handling.failures import Failure
from bullpen.handling.outcomes import Outcome
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen_worker.running import acks, fetching, mending
from bullpen_worker.running.acks import Ending, FetchedJob
from bullpen_worker.running.admission import HandOver
from bullpen_worker.running.completions import Completions
from bullpen_worker.running.delivery import Delivery
from bullpen_worker.running.fetching import Empty
from bullpen_worker.running.floor import Floor
from bullpen_worker.running.lines import Line
from bullpen_worker.running.runs import LONGEST_ID, Run
from bullpen_worker.running.templates import Completion

_TOO_LONG: Final = outcomes.Failed(
    Failure("bullpen.OptionInvalid", f"the job's id is too long for a worker: {LONGEST_ID} bytes at most", "")
)
_Found = FetchedJob | Empty


class Host(Floor, Protocol):
    """The floor that slots stand on: it times them out, and takes them back."""

    def watch(self, slot: "Slot") -> None:
        """The slot's `deadline_ms` (monotonic) was set."""

    def parked(self, slot: "Slot", found: Empty) -> None:
        """The slot is free; the last answer said this of the queue."""


class Slot:
    """A place for one job at a time. `index` is its row of the slot table; `completions` are of its line."""

    def __init__(self, floor: Host, index: int, line: Line, completions: Completions) -> None:
        self.index: Final = index
        self.line: Final = line
        self._completions = completions
        self.token = floor.new_token()
        self.job_id: bytes = b""
        self.generation = 0
        self.deadline_ms = 0
        """When the attempt that waits is to be cancelled (monotonic); 0: never, or none waits."""
        self.asked_ms = 0
        """When the call was sent that brought the job (monotonic): its lock was set then, or later."""
        self.lock_lost = False
        self.task: asyncio.Task[None] | None = None
        self._floor = floor
        self._scope: CancelScope | None = None
        self._waiting: Run | None = None  # the run whose attempt waits for something
        self._rest: Awaitable[Outcome] | None = None  # of that attempt
        self._writing = False

    def ask(self) -> None:
        """Note that a call is sent now that may bring a job."""
        self.asked_ms = time.monotonic_ns() // 1_000_000

    def renew_token(self) -> None:
        """Take a token that no call under way uses."""
        self.token = self._floor.new_token()

    def cancel(self, reason: CancelReason, text: str = "") -> None:
        """Tell the running attempt to end; does nothing between attempts."""
        if self._scope is not None:
            self._scope.cancel(reason, text)

    def lose_lock(self) -> None:
        """Void the running job: somebody else may run it by now. When its ack is under way, the answer decides."""
        if not self._writing:
            self.lock_lost = True
            self.cancel(CancelReason.LOCK_LOST)

    def abandon(self) -> asyncio.Task[None] | None:
        """Give the running job back though its attempt goes on, or end it where it was cancelled before; gives the attempt's task.

        None between attempts.
        """
        run, task, scope = self._waiting, self.task, self._scope
        if run is None:
            return None
        self._end_wait()
        ending: Outcome = outcomes.Released()
        if scope is not None and scope.reason is CancelReason.CANCELLED:
            ending = outcomes.Cancelled(scope.text)
        self.task = self._floor.spawn(self._end(run, ending, None, is_in_doubt=False))
        return task

    def start(self, job: FetchedJob) -> None:
        """Run `job`, and each that an ack brings."""
        self.task = self._floor.spawn(self._live(job))

    # -- one job after the other -----------------------------------------------

    async def _live(self, job: FetchedJob) -> None:
        floor = self._floor
        floor.left()
        clean = contextvars.copy_context()
        found: _Found | None = job
        run = outcome = None
        try:
            while isinstance(found, FetchedJob):
                run, outcome = self._take(found), None
                if (floor.giving_back or not run.is_plain) and (found := await self._see_to(run)) is not None:
                    continue
                outcome = self._begin(run)
                if outcome is None:
                    outcome = await self._see_through(run)
                    found = None if outcome is None else await self._complete(run, outcome)
                    break  # its task may be known to somebody by now
                found = await self._complete(run, outcome)
                if not _is_same(contextvars.copy_context(), clean):
                    break
        except asyncio.CancelledError:
            if run is None or floor.ending or self.task is not asyncio.current_task():
                raise
            self._go_elsewhere(run, outcome)
        except BaseException as error:  # noqa: BLE001 - it ends the engine, which raises it
            floor.crashed(error)
        else:
            self._go_on(found)

    def _go_elsewhere(self, run: Run, outcome: Outcome | None) -> None:
        """End the job in a task that no handler knows: one has left something behind that cancels this task later on.

        What was sent may have been carried out; a job whose handler was not called yet goes back.
        """
        run_ms = None if outcome is None else (time.monotonic() - run.started) * 1000
        self.task = self._floor.spawn(self._end(run, outcome or outcomes.Released(), run_ms, is_in_doubt=True))

    async def _end(self, run: Run, ending: Outcome, run_ms: float | None, *, is_in_doubt: bool) -> None:
        try:
            found = await self._write(run, ending, run_ms, is_in_doubt=is_in_doubt)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            self._floor.crashed(error)
        else:
            self._go_on(found)

    def _go_on(self, found: _Found | None) -> None:
        if found is None:
            return  # abandoned: the slot is somebody else's
        self._floor.table.clear(self.index)
        self.job_id = b""
        self._writing = False
        if isinstance(found, FetchedJob):
            self.start(found)
        else:
            self.task = None
            self._floor.parked(self, found)

    # -- one job -------------------------------------------------------------

    def _take(self, job: FetchedJob) -> Run:
        """Take the job in, and show it in the slot table: its lock is renewed from here on."""
        floor = self._floor
        self.lock_lost = self._writing = False
        self.job_id = job.id
        run = Run(job, floor.admission, floor.outbox, self.line)
        if len(job.id) > LONGEST_ID:
            floor.table.clear(self.index)
        else:
            self.generation = floor.table.occupy(
                self.index, job_id=job.id, token=self.token, started_ms=self.asked_ms, deadline_ms=run.deadline_ms
            )
        return run

    async def _see_to(self, run: Run) -> _Found | None:
        """See to what a job needs before its handler is called; None when it is to be called."""
        floor = self._floor
        if len(run.id) > LONGEST_ID:
            return await self._write(run, _TOO_LONG, None)
        fields = run.fields
        if broken := mending.unfit(fields):
            await self._mend(fields, broken)
        if b"rjk" in fields:
            await floor.schedule_next(run.stored, self.line)
        if floor.giving_back:
            return await self._write(run, outcomes.Released(), None)
        verdict = floor.admission.verdict(run.stored, run.terms, time.time_ns() // 1_000_000, alone=floor.alone)
        if isinstance(verdict, HandOver):
            if floor.hand_over(run.id, self.token):
                self.renew_token()
                return fetching.UNTOLD
        elif verdict is not None:
            return await self._write(run, verdict, None)
        return None

    async def _mend(self, fields: dict[bytes, bytes], broken: list[bytes]) -> None:
        """Remove what the ack's script would fail at; where Redis does not let us, the ack is refused."""
        for name in broken:
            del fields[name]
        with contextlib.suppress(ConnectionLost, ReplyError):
            connection = self.line.connection or await self.line.ready()
            await mending.remove(connection, self._floor.pack, self.job_id, broken)

    def _begin(self, run: Run) -> Outcome | None:
        """Call the handler up to where it first waits; None when it does, else what became of it."""
        floor = self._floor
        floor.starts(run)
        begun = None if self.lock_lost else floor.call_ahead(run)
        if begun.__class__ is outcomes.Completed:
            floor.left()
            return begun
        scope = self._scope = CancelScope()
        if self.lock_lost:  # while something was seen to
            scope.cancel(CancelReason.LOCK_LOST)
        attempt = floor.attempt(run, scope, self.task, begun)  # type: ignore[arg-type]  # as above
        try:
            waits_for = attempt.send(None)
        except StopIteration as done:
            outcome: Outcome = done.value
        except asyncio.CancelledError:
            outcome = _cancelled_itself(run)
        else:
            self._rest = resumed(attempt, waits_for)
            return None
        floor.left()
        self._scope = None
        return outcome

    async def _see_through(self, run: Run) -> Outcome | None:
        """Await what is left of an attempt that waits; gives its outcome. None when the slot was taken away."""
        floor = self._floor
        rest, self._rest = self._rest, None
        if rest is None:
            msg = "nothing of this attempt is left to await"
            raise RuntimeError(msg)
        self._waiting = run
        self.deadline_ms = run.deadline_ms
        if self.deadline_ms:
            floor.watch(self)
        try:
            outcome = await rest
        except asyncio.CancelledError:
            if floor.ending or self._waiting is not run:
                raise
            outcome = _cancelled_itself(run)
        finally:
            floor.left()
        if self._waiting is not run:
            return None
        self._end_wait()
        return outcome

    def _end_wait(self) -> None:
        self._waiting = self._scope = None
        self.deadline_ms = 0

    # -- its end -------------------------------------------------------------

    async def _complete(self, run: Run, outcome: Outcome) -> _Found:
        """Write the outcome: straight for the common case, that nothing else is to be said and all goes well."""
        run_ms = (time.monotonic() - run.started) * 1000
        floor = self._floor
        connection = self.line.connection
        if self.task is not None and self.task.cancelling():
            await self._overhear()
        if (
            outcome.__class__ is not outcomes.Completed
            or connection is None
            or self.lock_lost
            or run.has_words
            or not floor.wants_next()
        ):
            return await self._write(run, outcome, run_ms)
        self._writing = True
        completion = Completion(run.id, self.token, outcome.value.encode(), run.terms.completed)
        self.asked_ms = time.monotonic_ns() // 1_000_000
        try:
            reply = await self._completions.send(connection, completion)
        except (ConnectionLost, ReplyError) as error:
            delivery = Delivery(floor, self, run, outcome)
            await delivery.failed(error, connection)
        else:
            if reply.__class__ is list or reply == 0:
                floor.heard = True
                floor.ended(run, outcome, run_ms)
                return acks.read_fetch(reply)
            delivery = Delivery(floor, self, run, outcome)
            delivery.refused(reply)
        return await delivery.write(run_ms)

    async def _write(self, run: Run, ending: Ending, run_ms: float | None, *, is_in_doubt: bool = False) -> _Found:
        self._writing = True
        delivery = Delivery(self._floor, self, run, ending)
        if is_in_doubt:
            delivery.doubt()
        return await delivery.write(run_ms)

    async def _overhear(self) -> None:
        """Let a cancellation pass that the handler ordered for its own task and did not wait for."""
        task = self.task
        if self._floor.ending or task is None:
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        while task.cancelling():
            task.uncancel()


def _is_same(context: contextvars.Context, before: contextvars.Context) -> bool:
    """Whether no context variable has changed. It compares their values, which are anybody's."""
    try:
        return context == before
    except Exception:  # noqa: BLE001 - arrays, say, have no plain answer: they are others, then
        return False


def _cancelled_itself(run: Run) -> Outcome:
    """Say what becomes of a job whose handler cancelled its own task: a failure like any other."""
    return outcomes.settle(
        RuntimeError("the handler's task was cancelled, and not by the worker"),
        outcomes.Circumstances(
            attempt=run.stored.attempts_made + 1,
            policy=run.terms.settings.retry,
            now=datetime.now(UTC),
            random=random.random(),  # noqa: S311 - of a backoff
        ),
    )
