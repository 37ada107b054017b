"""One slot: runs a job, writes its outcome and fetches the next in the same round trip, and goes on with that.

Concurrency model: the engine runs `Slot.work` as a task from the job that was fetched for it until an ack brings no other. In
it one task runs at a time for the attempt (its own context variables, its own cancellation). Everything that happens
to a running attempt from outside (a timeout, a cancellation, a lost lock, the end of the worker) goes through its
`CancelScope`; the slot stays taken until the attempt has ended.

A slot has one lock token. A call whose answer was lost may have locked another job with it, so the slot takes a new
token afterwards and leaves the old one to `bullpen_worker.orphans`. An ack is repeated until Redis has answered it or the
lock is known to be lost: a result is never turned into a failure because a connection broke. A repeated ack that finds
the lock gone was most likely applied the first time; the job's hash tells.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Final, Protocol

from bullpen import outcomes
from bullpen.contexts import CancelReason, CancelScope
from bullpen.failures import Failure
from bullpen.outcomes import Outcome
from bullpen.records import StoredJob
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import Connection, pack_command
from bullpen_worker import acks, fetching, lines
from bullpen_worker.acks import Ending, FetchedJob, Subject
from bullpen_worker.admission import Admission, HandOver, Terms
from bullpen_worker.fetching import Empty
from bullpen_worker.lines import Line
from bullpen_worker.services import JobOutput
from bullpen_worker.table import SlotTable
from bullpen_worker.templates import Templates

MOST_REFUSALS: Final = 5
"""How often an ack is sent that Redis refuses for a reason that will not pass; then the job is left to recovery."""

_LONGEST_PAUSE_S: Final = 2.0
_TOO_LONG: Final = outcomes.Failed(
    Failure("bullpen.errors.OptionInvalid", "the job's id is too long for this worker: 1,900 bytes at most", "")
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

    def output_of(self, job_id: bytes, line: Line, keep_logs: int) -> JobOutput:
        """Make the place for a job's progress and log lines."""

    def attempt(self, stored: StoredJob, terms: Terms, scope: CancelScope, output: JobOutput) -> asyncio.Task[Outcome]:
        """Run the job's handler once, in a task of its own."""

    async def schedule_next(self, stored: StoredJob) -> None:
        """Write the next run of the scheduler that produced the job."""

    def hand_over(self, job_id: bytes, token: bytes) -> bool:
        """Have the job run in a process of its own, under this token; False when there is no way to."""

    def ended(self, stored: StoredJob, terms: Terms, outcome: Ending, run_ms: float | None) -> None:
        """The outcome is written, or void. `run_ms` is None where the handler was not called."""

    def trouble(self, job_id: bytes, error: ReplyError) -> None:
        """Redis refuses the job's ack for good; the job is left to recovery."""


class Slot:
    """A place for one job at a time. `index` is its row of the slot table."""

    def __init__(self, floor: Floor, index: int, line: Line) -> None:
        self.index: Final = index
        self.line: Final = line
        self.token = floor.new_token()
        self.job_id: bytes = b""
        self.generation = 0
        self.deadline_ms = 0
        self.scope: CancelScope | None = None
        self.output: JobOutput | None = None
        self.lock_lost = False
        self._writing = False
        self._ending: asyncio.Future[Outcome] | None = None
        self._floor = floor

    def renew_token(self) -> None:
        """Take a token that no call under way uses."""
        self.token = self._floor.new_token()

    def cancel(self, reason: CancelReason, text: str = "") -> None:
        """Tell the running attempt to end; does nothing between attempts."""
        if self.scope is not None:
            self.scope.cancel(reason, text)

    def lose_lock(self) -> None:
        """Void the running job: somebody else may run it by now. When its ack is under way, the answer decides."""
        if not self._writing:
            self.lock_lost = True
            self.cancel(CancelReason.LOCK_LOST)

    def abandon(self) -> bool:
        """Wait no longer for the running attempt: its job is given back though it goes on. False between attempts."""
        ending = self._ending
        if ending is None or ending.done():
            return False
        ending.set_result(outcomes.Released())
        return True

    def _attempt_ended(self, task: asyncio.Task[Outcome]) -> None:
        ending = self._ending
        if ending is None or ending.done():
            if not task.cancelled():
                task.exception()  # seen: nobody waits for it any more
        elif task.cancelled():
            ending.cancel()
        elif (error := task.exception()) is not None:
            ending.set_exception(error)
        else:
            ending.set_result(task.result())

    async def work(self, job: FetchedJob) -> Empty:
        """Run `job` and each that an ack brings; give what the last answer said of the queue."""
        table = self._floor.table
        found: FetchedJob | Empty = job
        while isinstance(found, FetchedJob):
            self.job_id = found.id
            self.lock_lost = False
            fits = table.fits(found.id, self.token)
            if fits:
                started_ms = time.monotonic_ns() // 1_000_000
                self.generation = table.occupy(self.index, job_id=found.id, token=self.token, started_ms=started_ms)
            try:
                found = await self._one(found, fits=fits)
            finally:
                self._writing = False
                if fits:
                    table.clear(self.index)
                self.job_id = b""
        return found

    async def _one(self, job: FetchedJob, *, fits: bool) -> FetchedJob | Empty:
        floor = self._floor
        pairs = iter(job.flat)
        fields = dict(zip(pairs, pairs, strict=False))
        terms = floor.admission.terms(fields)
        stored = StoredJob(job.id.decode(errors="replace"), fields, terms.opts)
        subject = Subject(job.id, stored, terms.completed, terms.failed)
        self.output = None
        if b"rjk" in fields:
            await floor.schedule_next(stored)
        if floor.giving_back:
            return await self._write(subject, terms, outcomes.Released(), None)
        if not fits:
            return await self._write(subject, terms, _TOO_LONG, None)
        verdict = floor.admission.verdict(stored, terms, _now_ms(), alone=floor.alone)
        if verdict is None:
            return await self._run(subject, terms)
        if isinstance(verdict, HandOver):
            if not floor.hand_over(job.id, self.token):
                return await self._run(subject, terms)
            self.renew_token()
            return fetching.UNTOLD
        return await self._write(subject, terms, verdict, None)

    async def _run(self, subject: Subject, terms: Terms) -> FetchedJob | Empty:
        floor = self._floor
        scope = self.scope = CancelScope()
        if self.lock_lost:  # while the next run of its scheduler was written
            scope.cancel(CancelReason.LOCK_LOST)
        started = time.monotonic()
        timeout_ms = terms.settings.timeout_ms
        if timeout_ms:
            self.deadline_ms = int(started * 1000) + timeout_ms
            floor.table.set_deadline(self.index, self.deadline_ms)
            floor.watch(self)
        output = self.output = floor.output_of(subject.id, self.line, terms.keep_logs)
        task = floor.attempt(subject.stored, terms, scope, output)
        ending = self._ending = asyncio.get_running_loop().create_future()
        task.add_done_callback(self._attempt_ended)
        try:
            outcome = await ending
        finally:
            self._ending = self.scope = None
            self.deadline_ms = 0
            if not task.done():
                task.cancel()
        return await self._write(subject, terms, outcome, (time.monotonic() - started) * 1000)

    # -- its end -------------------------------------------------------------

    async def _write(self, subject: Subject, terms: Terms, outcome: Ending, run_ms: float | None) -> FetchedJob | Empty:
        """Write the outcome, again until it is answered; give what the last answer brought."""
        floor = self._floor
        patience = _Patience()
        self._writing = True
        while True:
            if self.lock_lost or isinstance(outcome, outcomes.LockLost):
                outcome = outcomes.LockLost()
                found: FetchedJob | Empty = fetching.UNTOLD
                self.renew_token()
                break
            fetch = not patience.uncertain and floor.wants_next()
            connection = self.line.connection or await self.line.ready()
            ack = acks.plan(outcome, subject, self.token, _now_ms(), floor.pack, fetch=fetch)
            if self.output is not None:
                ack = ack.after(*self.output.take(floor.pack))
            try:
                if ack.replies == 1:
                    reading = ack.read((await connection.call(ack.packed),))
                else:
                    reading = ack.read(await connection.call_many(ack.packed, ack.replies))
                applied = reading.code == 0 or await self._was_applied(reading.code, outcome, subject, patience)
            except ConnectionLost as error:
                if error.sent:
                    patience.uncertain = True
                    floor.uncertain(self.token)
                continue
            except ReplyError as error:
                # Commands behind the refused one may have been carried out, a fetch among them.
                patience.uncertain = True
                floor.uncertain(self.token)
                if not await self._bear(error, connection, patience):
                    floor.trouble(subject.id, error)
                    outcome = outcomes.LockLost()
                continue
            if reading.code in _CHILDREN:
                outcome = outcomes.Failed(_CHILDREN[reading.code])
                continue
            if not applied:
                outcome = outcomes.LockLost()
                continue
            floor.answered()
            found = reading.next
            if patience.uncertain:
                self.renew_token()
            break
        floor.ended(subject.stored, terms, outcome, run_ms)
        return found

    async def _was_applied(self, code: int, outcome: Ending, subject: Subject, patience: "_Patience") -> bool:
        """Say whether an ack that found no job or lock of ours had been applied by an earlier sending."""
        if not patience.uncertain:
            return False
        if code == acks.GONE or not acks.spends_attempt(outcome):
            return True
        connection = await self.line.ready()
        key = self._floor.pack.job_key(subject.id)
        made = await connection.call(pack_command("HGET", key, "atm"))
        return isinstance(made, bytes) and made.isdigit() and int(made) > subject.stored.attempts_made

    async def _bear(self, error: ReplyError, connection: Connection, patience: "_Patience") -> bool:
        """Do what helps against a refusal; False when nothing does."""
        if error.code == "NOSCRIPT":
            with contextlib.suppress(ConnectionLost):
                await self.line.load(connection)
        elif not lines.passing(error):
            patience.refusals += 1
            if patience.refusals >= MOST_REFUSALS:
                return False
        await asyncio.sleep(patience.pause_s)
        patience.pause_s = min(patience.pause_s * 2, _LONGEST_PAUSE_S)
        return True


@dataclass(slots=True)
class _Patience:
    """How the sending of one ack has gone so far."""

    uncertain: bool = False
    """An earlier sending may have been applied."""
    refusals: int = 0
    pause_s: float = 0.05


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
