"""The heart of a worker: fetches jobs of one queue, runs them, writes what became of them.

Concurrency model: `Engine.run` owns, in one task group on one event loop, the fetcher, the task that looks for orphans,
a heartbeat, and one task for each slot that has a job. Everything else here is called on that loop, from timers (the nearest
deadline, the flush of progress and logs) or by whoever steers the worker. Redis is reached by two pipelined connections
for commands, over which the slots are spread, and one that blocks for the queue's marker.

A handler that cannot be stopped (a thread) keeps its slot and its lock. Only past the grace period of `stop` is its job
given back while it may still run: the process is about to end.
"""

import asyncio
import contextlib
import contextvars
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from typing import Final

from bullpen.handling.catalogue import Catalogue
from bullpen.handling.contexts import ActiveJob, CancelReason, CancelScope
from bullpen.handling.execution import Executors, call_ahead, run_attempt
from bullpen.handling.middleware import RunMiddleware
from bullpen.handling.outcomes import Completed, Outcome
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import QueuePolicy
from bullpen.queue.records import StoredJob
from bullpen.redis.failures import ConnectFailed, ConnectionLost, ReplyError
from bullpen.redis.link import Link, LinkState
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import pack_command
from bullpen_worker.keeping.table import SlotTable
from bullpen_worker.running import accounts, acks, scheduling
from bullpen_worker.running.acks import Ending, FetchedJob
from bullpen_worker.running.admission import Admission
from bullpen_worker.running.completions import Completions, Gathered, Single
from bullpen_worker.running.crew import LAST_WORDS_S, Crew
from bullpen_worker.running.deadlines import Deadlines
from bullpen_worker.running.desk import METRICS_POINTS, Desk
from bullpen_worker.running.fetching import UNTOLD, Empty, Fetcher
from bullpen_worker.running.hooks import EngineHooks, NoHooks
from bullpen_worker.running.lines import Line, passing
from bullpen_worker.running.markers import MarkerLine
from bullpen_worker.running.orphans import Orphans
from bullpen_worker.running.runs import Run
from bullpen_worker.running.services import Clients, Outbox
from bullpen_worker.running.slots import Slot
from bullpen_worker.running.templates import Templates
from bullpen_worker.running.vigil import Vigil

BEAT_S: Final = 1.0

_REFUSED_PAUSE_S: Final = 0.5
_FAILED_PAUSE_S: Final = 0.05
_MOST_FAILED: Final = 10

logger = logging.getLogger("bullpen.worker")


class Engine:
    """Works on one queue until it is stopped. One event loop; every method but `__init__` is to be called on it.

    `name` is the worker's, as BullMQ's tools show it. `table` must have a row for each slot; `concurrency` beyond its
    rows is cut.
    """

    def __init__(
        self,
        *,
        settings: RedisSettings,
        keys: QueueKeys,
        name: str,
        catalogue: Catalogue,
        policy: QueuePolicy,
        table: SlotTable,
        executors: Executors,
        clients: Clients,
        concurrency: int,
        hooks: EngineHooks | None = None,
        middleware: Sequence[RunMiddleware] = (),
        metrics_points: int = METRICS_POINTS,
        alone: bool = False,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._queue = keys.queue
        self._name = name
        self._catalogue = catalogue
        self.table = table
        self._executors = executors
        self._clients = clients
        self._hooks = hooks or NoHooks()
        self.left = self._hooks.job_left
        self._middleware = middleware
        self.alone = alone
        self.giving_back = False
        self.ending = False
        self.heard = False
        self._concurrency = min(max(concurrency, 0), table.slots)
        self._identity = secrets.token_hex(8)
        self._tokens = 0
        self._desk = Desk(
            keys, name=name, catalogue=catalogue, policy=policy, metrics_points=metrics_points, on_change=self._follow
        )
        self.pack, self.admission = self._desk.prepare()
        self._result_bytes = policy.limits.result_bytes
        self._lines: list[Line] = []
        self._completions: list[Completions] = []
        self._crew = Crew(self._new_slot)
        self._stopping = asyncio.Event()
        self._grace_ends = 0.0
        self._context = contextvars.copy_context()
        self._fetcher: Fetcher | None = None
        self._orphans = Orphans(
            line=lambda: self._lines[0],
            pack=lambda: self.pack,
            runs=self._crew.runs,
            lock_ms=policy.recovery.lock_duration_ms,
        )
        self._vigil: Vigil | None = None
        self._held = False
        self._only = False
        self._hungry = False
        self._failed_fetches = self._found = 0
        self._connected = False

    # -- life ----------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped; returns when no job runs here any more (see `stop` for handlers that do not end).

        Waits for Redis as long as it takes. Raises what it cannot live with: a Lua script that Redis refuses, a bug.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack, 2 if self.table.slots > 1 else 1)
            blocking = Link(
                self._settings, patient=True, name=self._keys.client_name(f":w:{self._name}"), blocking=True
            )
            marker = MarkerLine(await stack.enter_async_context(blocking), self._lines[0], lambda: self.pack)
            self._fetcher = Fetcher(
                free=self._concurrency,
                fetch=self._fetch,
                marker=marker,
                clock_ms=_now_ms,
                on_hungry=self._set_hungry,
                passing=(ConnectionLost, ConnectFailed),
            )
            fetcher = self._fetcher
            if self._held:
                fetcher.hold()
            async with self._beside() as vigil:
                fetching = asyncio.create_task(fetcher.run())
                try:
                    await vigil.until(self._stopping.wait(), fetching)
                    await vigil.until(self._wind_down(fetcher, fetching))
                except asyncio.CancelledError:
                    self.stop(0)
                    await self._wind_down(fetcher, fetching)
                    raise
                finally:
                    fetching.cancel()

    async def run_one(self, job_id: str, token: str) -> None:
        """Run this job alone, which is active and locked with `token` already, and return. Stops as `run` does."""
        self.alone = True
        self._only = True
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack, 1)
            connection = await self._lines[0].ready()
            raw_id = job_id.encode(errors="surrogateescape")
            key = self.pack.job_key(raw_id)
            flat = await connection.call(pack_command("HGETALL", key))
            if not isinstance(flat, list) or not flat:
                return  # removed meanwhile
            async with self._beside() as vigil:
                slot = self._crew.take()
                slot.ask()
                slot.token = token.encode()
                self._start(slot, FetchedJob(raw_id, flat))  # type: ignore[arg-type]  # a hash: bytes
                await vigil.until(self._only_job())

    def stop(self, grace_ms: int) -> None:
        """Take no new job; let what runs end within the grace period, cancel the rest then and give it back unspent.

        Called again, the earlier end of the grace period counts. A handler that has not ended `LAST_WORDS_S` after its
        cancellation has its job given back all the same; then `run` returns while it may still be running, and the
        process should end.
        """
        ends = time.monotonic() + grace_ms / 1000
        self._grace_ends = min(self._grace_ends, ends) if self._stopping.is_set() else ends
        self.giving_back = True
        self._stopping.set()
        self._crew.wake()

    def hold(self) -> None:
        """Fetch no more jobs until `release`; those that run go on."""
        self._held = True
        if self._fetcher is not None:
            self._fetcher.hold()

    def release(self) -> None:
        """Fetch again after `hold`."""
        self._held = False
        if self._fetcher is not None and not self.giving_back:
            self._fetcher.release()

    # -- steering ------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """How many jobs may run at once: 0 to the slot table's rows. Lowered, slots park as their jobs end."""
        return self._concurrency

    @concurrency.setter
    def concurrency(self, jobs: int) -> None:
        jobs = min(max(jobs, 0), self.table.slots)
        change, self._concurrency = jobs - self._concurrency, jobs
        self.table.set_concurrency(jobs)
        if self._fetcher is not None and change:
            self._fetcher.add_free(change)

    @property
    def busy(self) -> int:
        """How many jobs are here now."""
        return self._crew.busy

    def cancel(self, job_id: str, reason: CancelReason, text: str = "") -> bool:
        """Cancel the job if it runs here; says whether it does."""
        slot = self._crew.find(job_id.encode(errors="surrogateescape"))
        if slot is not None:
            slot.cancel(reason, text)
        return slot is not None

    def lock_lost(self, slot: int, generation: int) -> None:
        """Void this run of a job: its lock is gone. Ignored when the run is over, or its ack is under way."""
        slots = self._crew.slots
        if slot < len(slots) and slots[slot].generation == generation:
            slots[slot].lose_lock()

    def apply_policy(self, policy: QueuePolicy) -> None:
        """Follow this policy from the next job on."""
        self._orphans.lock_ms = policy.recovery.lock_duration_ms
        self._desk.policy = policy
        self._result_bytes = policy.limits.result_bytes

    # -- what slots ask for (bullpen_worker.running.slots.Host) ------------------------

    def new_token(self) -> bytes:
        """Make a token that was never used: this engine's mark, and a number."""
        self._tokens += 1
        return f"{self._identity}:{self._tokens:09x}".encode()

    def wants_next(self) -> bool:
        """Whether an ack may bring the next job."""
        return not (self._held or self.giving_back or self._only) and self._crew.busy <= self._concurrency

    def uncertain(self, token: bytes) -> None:
        """A call with this token has an unknown outcome."""
        self._orphans.add(token)

    def watch(self, slot: Slot) -> None:
        """Time the slot's attempt out at its deadline."""
        self._deadlines.watch(slot)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task with clean context variables."""
        return self._loop.create_task(work, context=self._context.copy())

    def starts(self, run: Run) -> None:
        """Tell that the job's handler is about to be called."""
        self._hooks.job_started(run.stored.id, run.terms.name, run.attempt)

    def call_ahead(self, run: Run) -> Completed | Awaitable[object] | None:
        """Call the job's handler up to where it first waits, if it is one to be called so; else None."""
        terms = run.terms
        registration = terms.registration
        if registration is None or not terms.is_quick or self._middleware:
            return None
        return call_ahead(registration, terms.name, run.stored.data, terms.version, self._result_bytes)

    def attempt(
        self, run: Run, scope: CancelScope, task: asyncio.Task[None] | None, begun: Awaitable[object] | None
    ) -> Coroutine[object, None, Outcome]:
        """Run the job's handler once, or what `call_ahead` left of it."""
        stored, terms, fields = run.stored, run.terms, run.fields
        registration = terms.registration
        if registration is None:
            msg = f"job {stored.id} was admitted without a handler"
            raise RuntimeError(msg)
        timeout_ms = terms.settings.timeout_ms
        now_ms = _now_ms()
        job = ActiveJob(
            stored.id,
            terms.name,
            self._queue,
            stored.data,
            run.attempt,
            terms.settings.retry,
            run.output,
            self._deps[registration.lifespan],
            terms.version,
            stored.attempts_started,
            stored.snoozes if b"bullpen:snoozes" in fields else 0,
            stored.priority if fields.get(b"priority") != b"0" else 0,
            run.timestamp,
            now_ms,
            timeout_ms,
            now_ms + timeout_ms,
            self._result_bytes,
            fields.get(b"progress"),
            scope,
        )
        return run_attempt(
            registration, job, executors=self._executors, middleware=self._middleware, task=task, begun=begun
        )

    async def schedule_next(self, stored: StoredJob, line: Line) -> None:
        """Write the next run of the scheduler that produced the job."""
        await scheduling.advance(self._keys, stored, line)

    def parked(self, slot: Slot, found: Empty) -> None:
        """Take the slot back, and what its last answer said of the queue."""
        self._crew.parked(slot)
        if self._fetcher is not None:
            self._fetcher.note(found)
            self._fetcher.add_free(1)

    def crashed(self, error: BaseException) -> None:
        """End the engine: `run` raises the error."""
        if self._vigil is not None:
            self._vigil.fail(error)

    def _follow(self, pack: Templates, admission: Admission) -> None:
        self.pack, self.admission = pack, admission

    def hand_over(self, job_id: bytes, token: bytes) -> bool:
        """Have the job run in a process of its own, if there is a way to."""
        return self._hooks.suspect(job_id.decode(errors="surrogateescape"), token.decode())

    def ended(self, run: Run, ending: Ending, run_ms: float | None) -> None:
        """Count and log what became of the job."""
        self._hooks.job_ended(accounts.job_end(run, ending, run_ms))

    def trouble(self, job_id: bytes, error: ReplyError) -> None:
        """Say that Redis refuses the job's ack for good."""
        name = job_id.decode(errors="replace")
        logger.error("Redis refuses to write the end of job %s, which is left to recovery: %s", name, error)

    # -- inside --------------------------------------------------------------

    async def _open(self, stack: contextlib.AsyncExitStack, lines: int) -> None:
        self._loop = asyncio.get_running_loop()
        for number in range(lines):
            link = Link(
                self._settings,
                patient=True,
                eager=lines == 1,  # alone it saves a turn of the loop; among many it splits what goes as one write
                on_state=self._on_state if number == 0 else None,
            )
            line = Line(await stack.enter_async_context(link))
            self._lines.append(line)
            self._completions.append(Single(self._packing) if lines == 1 else Gathered(line, self._packing))
        self.table.set_concurrency(self._concurrency)
        self.outbox = Outbox(self._clients, lambda: self.pack)
        self._deadlines = Deadlines(self._crew.slots)
        self._deps = await stack.enter_async_context(self._catalogue.open_deps())

    def _packing(self) -> Templates:
        return self.pack

    async def _fetch(self) -> Empty | None:
        slot = self._crew.take()
        token = slot.token
        connection = slot.line.connection or await slot.line.ready()
        slot.ask()
        try:
            found = acks.read_fetch(await connection.call(self.pack.fetch(token, _now_ms())))
        except ConnectionLost as error:
            if error.sent:
                slot.renew_token()
                self.uncertain(token)
            self._crew.put_back(slot)
            raise
        except ReplyError as error:
            self._crew.put_back(slot)
            if error.code == "NOSCRIPT":
                await slot.line.load(connection)
                return UNTOLD
            if not passing(error):
                # It may have taken a job that the script cannot live with; `Orphans` puts that right.
                slot.renew_token()
                self.uncertain(token)
                if not self._endures():
                    raise
                logger.error("Redis fails at fetching a job: %s", error)  # noqa: TRY400 - the message says it all
                await asyncio.sleep(_FAILED_PAUSE_S)
                return UNTOLD
            logger.warning("Redis refuses a fetch: %s", error)
            await asyncio.sleep(_REFUSED_PAUSE_S)
            return UNTOLD
        self._mark_fetch()
        if isinstance(found, FetchedJob):
            self._start(slot, found)
            return None
        self._crew.put_back(slot)
        return found

    def _endures(self) -> bool:
        """Whether another fetch makes sense after one that failed: not when so many failed and no job was at fault."""
        found = self._orphans.found
        self._failed_fetches, self._found = (self._failed_fetches + 1 if found == self._found else 1), found
        return self._failed_fetches < _MOST_FAILED

    def _new_slot(self, index: int) -> Slot:
        number = index % len(self._lines)
        return Slot(self, index, self._lines[number], self._completions[number])

    def _start(self, slot: Slot, job: FetchedJob) -> None:
        self._crew.busy += 1
        if self._fetcher is not None:
            self._fetcher.add_free(-1)
        slot.start(job)

    # -- the end -------------------------------------------------------------

    async def _wind_down(self, fetcher: Fetcher, fetching: asyncio.Task[None]) -> None:
        fetcher.close()
        await self._drain()
        await asyncio.wait([fetching], timeout=LAST_WORDS_S)  # a Redis that is away would keep it waiting
        if fetching.done():
            fetching.result()
        await self._drain()  # the fetch that was under way may have brought a job, which goes back

    async def _drain(self) -> None:
        await self._crew.empty(lambda: self._grace_ends)
        self.ending = True
        self._crew.dismiss()

    async def _only_job(self) -> None:
        while self._crew.busy:
            if self._stopping.is_set():
                await self._drain()
                return
            await self._crew.until_changed()

    @contextlib.asynccontextmanager
    async def _beside(self) -> AsyncIterator[Vigil]:
        """Have what runs beside the jobs; on leaving, nothing of this engine runs any more."""
        try:
            async with Vigil(self._orphans.run(), self._beat()) as vigil:
                self._vigil = vigil
                yield vigil
        finally:
            await self._put_away()

    async def _put_away(self) -> None:
        self.outbox.close()
        self._deadlines.close()
        self._desk.close()
        self.ending = True
        await self._crew.put_away()

    # -- timers --------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self.table.beat(time.monotonic_ns() // 1_000_000)
            if self.heard:
                self._mark_fetch()
            await asyncio.sleep(BEAT_S)

    def _mark_fetch(self) -> None:
        self.heard = False
        self.table.mark_fetch(time.monotonic_ns() // 1_000_000)
        self._hooks.fetched()

    def _set_hungry(self, hungry: bool) -> None:  # noqa: FBT001 - the one thing that it says
        self._hungry = hungry
        self._tell_fetching()

    def _on_state(self, state: LinkState, reason: str) -> None:
        self._connected = state is LinkState.READY
        self._tell_fetching()
        self._hooks.connection(state, reason)

    def _tell_fetching(self) -> None:
        self.table.set_fetching(self._hungry and self._connected)

    def limited(self, delay_ms: int) -> None:
        """Let nothing start for so long."""
        self._desk.arm(delay_ms, self._lines[0].connection if self._lines else None)
        if self._fetcher is not None:
            self._fetcher.note(Empty(limited_ms=delay_ms))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
