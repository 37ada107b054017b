"""One slot: runs a job, writes its outcome and fetches the next in the same round trip, and goes on with that.

Concurrency model: a task calls the handler, writes the outcome, and goes on with the job that the ack brought; an ack that
brings none ends the chain and frees the slot. A job has the task for itself: the next one gets a new task, unless the handler
never waited and left every context variable as it was, so that nothing of it can reach the next job (this saves two
turns of the loop a job, and a third of the worker's CPU where handlers are quick). Everything that happens to a running attempt from outside (a timeout, a cancellation, a lost lock, the
end of the worker) goes through its `CancelScope`; the slot stays taken until the attempt has ended.

A slot has one lock token. A call whose answer was lost may have locked another job with it, so the slot takes a new
token afterwards and leaves the old one to `bullpen_worker.orphans`. An ack is repeated until Redis has answered it or the
lock is known to be lost: a result is never turned into a failure because a connection broke. A repeated ack that finds
the lock gone was most likely applied the first time; the job's hash tells.
"""

import asyncio
import contextlib
import contextvars
import random
import time
import types
from collections.abc import Coroutine, Generator
from datetime import UTC, datetime
from typing import Final, Protocol

from bullpen import outcomes
from bullpen.contexts import CancelReason, CancelScope
from bullpen.failures import Failure
from bullpen.outcomes import Outcome
from bullpen.records import StoredJob
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import Connection, Reply, pack_command
from bullpen_worker import acks, fetching, lines, mending
from bullpen_worker.acks import Ending, FetchedJob, Subject
from bullpen_worker.admission import Admission, HandOver, Terms
from bullpen_worker.fetching import Empty
from bullpen_worker.lines import Line
from bullpen_worker.services import JobOutput
from bullpen_worker.table import MAX_TEXT_BYTES, NO_DEADLINE, SlotTable
from bullpen_worker.templates import TOKEN_LENGTH, Templates

MOST_REFUSALS: Final = 5
"""How often an ack is sent that Redis refuses for a reason that will not pass; then the job is left to recovery."""

_LONGEST_PAUSE_S: Final = 2.0
_LONGEST_ID: Final = MAX_TEXT_BYTES - TOKEN_LENGTH
_TOO_LONG: Final = outcomes.Failed(
    Failure("bullpen.OptionInvalid", f"the job's id is too long for a worker: {_LONGEST_ID} bytes at most", "")
)
_CHILDREN: Final = {
    acks.PENDING_CHILDREN: Failure("RuntimeError", "the handler returned while children of its job have not ended", ""),
    acks.FAILED_CHILDREN: Failure("RuntimeError", "children of the job have failed", ""),
}


class Floor(Protocol):
    """What a slot needs of the engine around it."""

    pack: Templates
    admission: Admission
    table: SlotTable
    alone: bool
    giving_back: bool
    """Jobs that are fetched nevertheless go back at once: the worker stops."""
    ending: bool
    """Tasks are cancelled now because the engine ends."""

    def new_token(self) -> bytes:
        """Make a token that was never used."""

    def wants_next(self) -> bool:
        """Whether an ack may bring the next job."""

    def answered(self) -> None:
        """Redis answered."""

    def uncertain(self, token: bytes) -> None:
        """A call with this token has an unknown outcome."""

    def watch(self, slot: "Slot") -> None:
        """The slot's `deadline_ms` (monotonic) was set."""

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task with clean context variables."""

    def output_of(self, job_id: bytes, line: Line, keep_logs: int) -> JobOutput:
        """Make the place for a job's progress and log lines."""

    def attempt(
        self, stored: StoredJob, terms: Terms, scope: CancelScope, output: JobOutput
    ) -> Coroutine[object, None, Outcome]:
        """Run the job's handler once."""

    def left(self) -> None:
        """The attempt is over, or none has begun: no context variable speaks of a job."""

    async def schedule_next(self, stored: StoredJob, line: Line) -> None:
        """Write the next run of the scheduler that produced the job."""

    def hand_over(self, job_id: bytes, token: bytes) -> bool:
        """Have the job run in a process of its own, under this token; False when there is no way to."""

    def ended(self, stored: StoredJob, terms: Terms, ending: Ending, run_ms: float | None) -> None:
        """The outcome is written, or void. `run_ms` is None where the handler was not called."""

    def limited(self, delay_ms: int) -> None:
        """Nothing of the queue is to start for so long."""

    def trouble(self, job_id: bytes, error: ReplyError) -> None:
        """Redis refuses the job's ack for good; the job is left to recovery."""

    def parked(self, slot: "Slot", found: Empty) -> None:
        """The slot is free; the last answer said this of the queue."""

    def crashed(self, error: BaseException) -> None:
        """Something failed that must not: the engine ends."""


class Slot:
    """A place for one job at a time. `index` is its row of the slot table."""

    def __init__(self, floor: Floor, index: int, line: Line) -> None:
        self.index: Final = index
        self.line: Final = line
        self.token = floor.new_token()
        self.job_id: bytes = b""
        self.generation = 0
        self.deadline_ms = 0
        self.asked_ms = 0
        """When the call was sent that brought the job (monotonic): its lock was set then, or later."""
        self.task: asyncio.Task[None] | None = None
        self._floor = floor
        self._scope: CancelScope | None = None
        self._running: _Running | None = None
        self._lock_lost = False
        self._writing = False
        self._waited = False

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
            self._lock_lost = True
            self.cancel(CancelReason.LOCK_LOST)

    def abandon(self) -> asyncio.Task[None] | None:
        """Give the running job back though its attempt goes on; gives the attempt's task. None between attempts."""
        running, task = self._running, self.task
        if running is None:
            return None
        self._running = None
        self._end_attempt()
        self.task = self._floor.spawn(self._give_back(running))
        return task

    def start(self, job: FetchedJob) -> None:
        """Run `job`, and each that an ack brings."""
        self.task = self._floor.spawn(self._live(job))

    # -- one job -------------------------------------------------------------

    async def _live(self, job: FetchedJob) -> None:
        self._floor.left()
        clean = contextvars.copy_context()
        found: FetchedJob | Empty | None = job
        try:
            while isinstance(found, FetchedJob):
                self._waited = False
                found = await self._one(found)
                if self._waited or contextvars.copy_context() != clean:
                    break
                if isinstance(found, FetchedJob):
                    self._leave()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it ends the engine, which raises it
            self._floor.crashed(error)
        else:
            self._go_on(found)

    async def _give_back(self, running: "_Running") -> None:
        try:
            found = await self._write(running, outcomes.Released(), None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            self._floor.crashed(error)
        else:
            self._go_on(found)

    def _go_on(self, found: "FetchedJob | Empty | None") -> None:
        if found is None:
            return  # abandoned: the slot is somebody else's
        self._leave()
        if isinstance(found, FetchedJob):
            self.start(found)
        else:
            self.task = None
            self._floor.parked(self, found)

    def _leave(self) -> None:
        self._floor.table.clear(self.index)
        self.job_id = b""
        self._writing = False

    async def _one(self, job: FetchedJob) -> FetchedJob | Empty | None:
        floor = self._floor
        job_id = self.job_id = job.id
        self._lock_lost = False
        pairs = iter(job.flat)
        fields = dict(zip(pairs, pairs, strict=False))
        terms = floor.admission.terms(fields)
        stored = StoredJob(job_id.decode(errors="replace"), fields, terms.opts)
        running = _Running(job_id, stored, terms, floor.output_of(job_id, self.line, terms.keep_logs))
        if len(job_id) > _LONGEST_ID:
            return await self._write(running, _TOO_LONG, None)
        started = time.monotonic()
        timeout_ms = terms.settings.timeout_ms
        deadline_ms = int(started * 1000) + timeout_ms if timeout_ms else NO_DEADLINE
        self.generation = floor.table.occupy(
            self.index, job_id=job_id, token=self.token, started_ms=self.asked_ms, deadline_ms=deadline_ms
        )
        if (b"atm" in fields or b"stc" in fields or b"parent" in fields) and (broken := mending.unfit(fields)):
            await self._mend(fields, broken)
        if b"rjk" in fields:
            await floor.schedule_next(stored, self.line)
        if floor.giving_back:
            return await self._write(running, outcomes.Released(), None)
        verdict = floor.admission.verdict(stored, terms, _now_ms(), alone=floor.alone)
        if isinstance(verdict, HandOver):
            if floor.hand_over(job_id, self.token):
                self.renew_token()
                return fetching.UNTOLD
        elif verdict is not None:
            return await self._write(running, verdict, None)
        self.deadline_ms = deadline_ms
        return await self._run(running, started)

    async def _run(self, running: "_Running", started: float) -> FetchedJob | Empty | None:
        """Call the handler and write its outcome. None when the slot was taken away meanwhile."""
        floor = self._floor
        if self.deadline_ms:
            floor.watch(self)
        scope = self._scope = CancelScope()
        if self._lock_lost:  # while the next run of its scheduler was written
            scope.cancel(CancelReason.LOCK_LOST)
        self._running = running
        try:
            outcome = await self._whole(floor.attempt(running.stored, running.terms, scope, running.output))
        except asyncio.CancelledError:
            if floor.ending or self._running is not running:
                raise
            outcome = _cancelled_itself(running)
        finally:
            floor.left()
            if self._running is running:
                self._end_attempt()
        if self._running is not running:
            return None
        self._running = None
        return await self._complete(running, outcome, (time.monotonic() - started) * 1000)

    async def _whole(self, attempt: Coroutine[object, None, Outcome]) -> Outcome:
        """Await the attempt, and note whether it waited for anything."""
        try:
            waits_for = attempt.send(None)
        except StopIteration as done:
            outcome: Outcome = done.value
            return outcome
        self._waited = True
        return await _rest(attempt, waits_for)

    async def _mend(self, fields: dict[bytes, bytes], broken: list[bytes]) -> None:
        """Remove what the ack's script would fail at; where Redis does not let us, the ack is refused."""
        for name in broken:
            del fields[name]
        with contextlib.suppress(ConnectionLost, ReplyError):
            connection = self.line.connection or await self.line.ready()
            await mending.remove(connection, self._floor.pack, self.job_id, broken)

    def _end_attempt(self) -> None:
        self._scope = None
        self.deadline_ms = 0

    # -- its end -------------------------------------------------------------

    async def _complete(self, running: "_Running", outcome: Outcome, run_ms: float) -> FetchedJob | Empty:
        """Write the outcome: straight for the common case, that nothing else is to be said and all goes well."""
        floor = self._floor
        connection = self.line.connection
        if (
            outcome.__class__ is not outcomes.Completed
            or connection is None
            or self._lock_lost
            or running.output.waiting
            or not floor.wants_next()
        ):
            return await self._write(running, outcome, run_ms)
        self._writing = True
        terms = running.terms
        patience = _Patience()
        ending: Ending = outcome
        packed = floor.pack.completed(
            running.job_id, self.token, _now_ms(), outcome.value.encode(), terms.completed, fetch=True
        )
        self.ask()
        try:
            reply = await connection.call(packed)
        except ConnectionLost as error:
            self._doubt(patience, sent=error.sent)
        except ReplyError as error:
            ending = await self._bear(error, connection, patience, running, outcome)
        else:
            if reply.__class__ is list or reply == 0:
                floor.answered()
                found = acks.read_fetch(reply)
                floor.ended(running.stored, terms, outcome, run_ms)
                return found
            ending = self._refused(reply, outcome)
        return await self._write(running, ending, run_ms, patience)

    async def _write(
        self, running: "_Running", ending: Ending, run_ms: float | None, patience: "_Patience | None" = None
    ) -> FetchedJob | Empty:
        """Write what became of the job, again until it is answered; give what the last answer brought."""
        floor = self._floor
        patience = patience or _Patience()
        self._writing = True
        if isinstance(ending, outcomes.RateLimited):
            floor.limited(ending.delay_ms)  # before Redis knows: the job's return wakes our own fetcher
        while True:
            if self._lock_lost or isinstance(ending, outcomes.LockLost):
                ending = outcomes.LockLost()
                found: FetchedJob | Empty = fetching.UNTOLD
                self.renew_token()
                break
            connection = self.line.connection or await self.line.ready()
            fetch = not patience.uncertain and floor.wants_next()
            ack = acks.plan(ending, running.subject(), self.token, _now_ms(), floor.pack, fetch=fetch)
            ack = ack.after(*running.output.take(floor.pack))
            self.ask()
            try:
                reading = ack.read(await connection.call_many(ack.packed, ack.replies))
                applied = reading.code == 0 or await self._was_applied(reading.code, ending, running, patience)
            except ConnectionLost as error:
                self._doubt(patience, sent=error.sent)
                continue
            except ReplyError as error:
                ending = await self._bear(error, connection, patience, running, ending)
                continue
            if not applied:
                ending = self._refused(reading.code, ending)
                continue
            floor.answered()
            found = reading.next
            if patience.uncertain:
                self.renew_token()
            break
        floor.ended(running.stored, running.terms, ending, run_ms)
        return found

    def _doubt(self, patience: "_Patience", *, sent: bool) -> None:
        """Note that a sending may have been carried out, and may have fetched a job."""
        if sent:
            patience.uncertain = True
            self._floor.uncertain(self.token)

    def _refused(self, code: Reply, ending: Ending) -> Ending:
        """Say what becomes of a job whose ack the script refused: nothing was written."""
        if isinstance(code, int) and code in _CHILDREN and not isinstance(ending, outcomes.Failed):
            return outcomes.Failed(_CHILDREN[code])
        return outcomes.LockLost()

    async def _was_applied(self, code: int, ending: Ending, running: "_Running", patience: "_Patience") -> bool:
        """Say whether an ack that found no job or lock of ours had been applied by an earlier sending."""
        if not patience.uncertain or code in _CHILDREN:
            return False
        if code == acks.GONE or not acks.spends_attempt(ending):
            return True
        connection = await self.line.ready()
        made = await connection.call(pack_command("HGET", self._floor.pack.job_key(running.job_id), "atm"))
        return isinstance(made, bytes) and made.isdigit() and int(made) > running.stored.attempts_made

    async def _bear(
        self, error: ReplyError, connection: Connection, patience: "_Patience", running: "_Running", ending: Ending
    ) -> Ending:
        """Do what helps against an error reply, and wait a while; give the job up when nothing does."""
        # Commands behind the refused one may have been carried out, a fetch among them.
        self._doubt(patience, sent=True)
        if error.code == "NOSCRIPT":
            with contextlib.suppress(ConnectionLost):
                await self.line.load(connection)
            return ending
        if not lines.passing(error):
            patience.refusals += 1
            if patience.refusals >= MOST_REFUSALS:
                self._floor.trouble(running.job_id, error)
                return outcomes.LockLost()
        await asyncio.sleep(patience.pause_s)
        patience.pause_s = min(patience.pause_s * 2, _LONGEST_PAUSE_S)
        return ending


@types.coroutine
def _rest(attempt: Coroutine[object, None, Outcome], waits_for: object) -> Generator[object, None, Outcome]:
    """Await what is left of a coroutine that has begun."""
    try:
        while True:
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation is the coroutine's own business
                waits_for = attempt.throw(error)
            else:
                waits_for = attempt.send(None)
    except StopIteration as done:
        outcome: Outcome = done.value
        return outcome


class _Running:
    """The job in a slot."""

    __slots__ = ("job_id", "output", "stored", "terms")

    def __init__(self, job_id: bytes, stored: StoredJob, terms: Terms, output: JobOutput) -> None:
        self.job_id = job_id
        self.stored = stored
        self.terms = terms
        self.output = output

    def subject(self) -> Subject:
        return Subject(self.job_id, self.stored, self.terms.completed, self.terms.failed)


def _cancelled_itself(running: "_Running") -> Outcome:
    """Say what becomes of a job whose handler cancelled its own task: a failure like any other."""
    return outcomes.settle(
        RuntimeError("the handler's task was cancelled, and not by the worker"),
        outcomes.Circumstances(
            attempt=running.stored.attempts_made + 1,
            policy=running.terms.settings.retry,
            now=datetime.now(UTC),
            random=random.random(),  # noqa: S311 - of a backoff
        ),
    )


class _Patience:
    """How the sending of one ack has gone so far. `uncertain`: an earlier sending may have been applied."""

    __slots__ = ("pause_s", "refusals", "uncertain")

    def __init__(self) -> None:
        self.uncertain = False
        self.refusals = 0
        self.pause_s = 0.05


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
