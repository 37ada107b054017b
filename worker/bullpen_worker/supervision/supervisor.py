"""The process beside the handlers': starts children, keeps their jobs' locks, and outlives whatever they do.

Concurrency model: one event loop. `Supervisor.run` owns custody of the locks (`bullpen_worker.keeping.custody`), the watch over deadlines, the
probe server, and for each child a task that minds it: hears its reports, waits for its end, hands its jobs back,
starts another in its place. No handler runs here and nothing here waits for one, so a handler that holds the GIL costs its own
child alone. Children end with this process (PR_SET_PDEATHSIG, and the end of their control socket).

Stopping: children are told the grace period and end by themselves. What has not ended a little after it is killed, and its
jobs are handed back from here, no attempt spent, before this process ends.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Final, cast

from bullpen import _version
from bullpen.queue.keys import QueueKeys
from bullpen_worker.keeping import recovery
from bullpen_worker.keeping.custody import Custody
from bullpen_worker.keeping.heartbeat import Entry, WorkState
from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.recovery import Death, Decision
from bullpen_worker.reports import logs
from bullpen_worker.reports.exposition import WorkerMetrics
from bullpen_worker.reports.metrics import Snapshot
from bullpen_worker.reports.probes import Answers, ProbeServer, Verdict
from bullpen_worker.supervision import children, control, faults, orphaned, starts, vitality
from bullpen_worker.supervision.children import Child, End
from bullpen_worker.supervision.config import DEFAULT_CONCURRENCY, WorkerConfig, per_worker, plain
from bullpen_worker.supervision.control import Begin, Report, Ticket
from bullpen_worker.supervision.starts import Starts
from bullpen_worker.supervision.waiting_room import WaitingRoom

CHILD: Final = (sys.executable, "-m", "bullpen_worker.supervision.child")

SOLOS_AT_ONCE: Final = 4
"""How many suspects run at a time, each in a process of its own: what they may need of memory at once is bounded."""

OBEY_S: Final = 3.0
"""How long after the end of the grace period a child may take to hand its jobs back and end."""

_WATCH_S: Final = 0.25
_ROWS: Final = 128
_LAST_WORDS_S: Final = 1.0
_TELL_EVERY_S: Final = 10.0

logger = logging.getLogger("bullpen.supervisor")


def run(config: WorkerConfig) -> int:
    """Work until told to stop; returns the exit code: 0, or 1 where handlers or configuration are wrong."""
    supervisor = Supervisor(config)
    logs.configure(supervisor.log)
    return asyncio.run(supervisor.run())


class Supervisor:
    """One worker; see the module. `command` starts a child, given the numbers of its control socket and its table."""

    def __init__(self, config: WorkerConfig, *, command: Sequence[str] = CHILD) -> None:
        self.config = config
        self.name = recovery.worker_name(config.name, secrets.token_hex(6))
        self.log = replace(config.log, worker=self.name)
        """How its processes log: under its whole name, by which it is found in Redis too."""
        self.metrics = WorkerMetrics(config.queue)
        self.probe_port: int | None = None
        self._command = command
        self._keys = QueueKeys(config.redis.prefix, config.queue)
        self._redis = plain(config.redis)
        self._started_ms = time.time_ns() // 1_000_000
        self._concurrency = config.concurrency or DEFAULT_CONCURRENCY
        # No more processes than slots; how many the policy will give, nobody knows yet.
        processes = config.processes if config.concurrency is None else min(config.processes, config.concurrency)
        self._shares = children.split(self._concurrency, processes)
        self._room = WaitingRoom(2 * _ROWS)
        self._children: list[Child] = []
        self._minders: asyncio.TaskGroup | None = None
        self._told: dict[str, float] = {}
        self._policy: control.Policy | None = None
        self._names: tuple[str, ...] = ()
        self._serial = self._spawning = 0
        self._solos = 0
        self._exit_code = 0
        self._starts = Starts()
        self._started: set[int] = set()
        self._holds = False
        self._limited_until = 0.0
        self._stopped = asyncio.Event()
        self._kill_at: float | None = None
        self._custody = Custody(config.redis, self._keys, name=self.name, hooks=self, entry=self._entry)

    # -- life ----------------------------------------------------------------

    async def run(self) -> int:
        """Work until stopped, by `stop` or a signal; returns the exit code. Raises ConfigurationError."""
        loop = asyncio.get_running_loop()
        self._custody.watch(self._room.table)
        async with contextlib.AsyncExitStack() as stack:
            if self.config.probes is not None:
                answers = Answers(self.health, self.readiness, self.metrics.render)
                self.probe_port = (await stack.enter_async_context(ProbeServer(self.config.probes, answers))).port
            for stopping in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(stopping, self.stop, self.config.grace_ms)
                stack.callback(loop.remove_signal_handler, stopping)
            stack.push_async_callback(self._end_children)
            logger.info("worker %s starts", self.name, extra={"processes": len(self._shares)})
            async with asyncio.TaskGroup() as upkeep:
                keeping = [upkeep.create_task(self._custody.run()), upkeep.create_task(self._watch())]
                async with asyncio.TaskGroup() as minders:
                    self._minders = minders
                    for number in range(len(self._shares)):
                        minders.create_task(self._mind_for_ever(number))
                self._minders = None
                await self._hand_back_room(suspects_only=False)
                for task in keeping:
                    task.cancel()
        logger.info("worker %s has stopped", self.name)
        return self._exit_code

    def stop(self, grace_ms: int) -> None:
        """Take no new job, and end within the grace period; called again, end now. Idempotent after that."""
        if self._stopping:
            grace_ms = 0
        self._stopped.set()
        kill_at = time.monotonic() + grace_ms / 1000 + OBEY_S
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        logger.info("worker %s stops", self.name, extra={"grace_ms": grace_ms})
        for child in self._children:
            child.stopping = True
            child.send(control.Stop(grace_ms))
        self._custody.orders.call()  # others see it in our entry
        self._do(self._hand_back_room(suspects_only=True))

    def fail(self, why: str) -> None:
        """End the worker with exit code 1: it would fail again."""
        logger.error("%s", why)
        self._exit_code = 1
        self.stop(0)

    @property
    def _stopping(self) -> bool:
        return self._stopped.is_set()

    def _do(self, work: Coroutine[object, object, object]) -> None:
        """Have it done by a task that the worker's end waits for."""
        if self._minders is None:  # nothing runs yet, or any more
            work.close()
        else:
            self._minders.create_task(work)

    async def _end_children(self) -> None:
        """Leave no process behind, however the loop came to its end."""
        self._kill_all(End.DEADLINE)
        for child in self._children:
            await child.process.wait()

    def _kill_all(self, why: End) -> None:
        for child in self._children:
            child.kill(why)

    # -- what probes and others see --------------------------------------------

    @property
    def busy(self) -> int:
        """How many jobs are here."""
        return sum(child.table.busy for child in self._children) + len(self._room)

    def health(self) -> Verdict:
        """Answer ``/healthz``."""
        now_ms = time.monotonic_ns() // 1_000_000
        return vitality.health(
            [child.vitals(now_ms, self.config.kill_grace_ms) for child in self._children],
            redis_up_ms=self._redis_up_ms,
            holds=self._holds or self._stopping,
        )

    def readiness(self) -> Verdict:
        """Answer ``/readyz``."""
        return vitality.readiness(
            started=len(self._started) >= len(self._shares),
            connected=self._custody.connected_once,
            stopping=self._stopping,
            retiring=self._holds,
            busy=self.busy,
        )

    def _entry(self) -> Entry:
        state: WorkState = "stopping" if self._stopping else "retiring" if self._holds else "working"
        return Entry(
            host=self.config.name,
            pid=os.getpid(),
            started_ms=self._started_ms,
            slots=self._concurrency,
            busy=self.busy,
            processes=len(self._shares),
            state=state,
            names=self._names,
            version=_version.__version__,
        )

    async def _watch(self) -> None:
        while True:
            now_ms, holds = time.monotonic_ns() // 1_000_000, self._holds or self._stopping
            for child in self._children:
                faults.judge(child, now_ms, self.config.kill_grace_ms, redis_up_ms=self._redis_up_ms, holds=holds)
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_all(End.DEADLINE)
            self._measure(now_ms)
            if not self._spawning:  # the pid of one that is being started is not known yet
                orphaned.reap({child.process.pid for child in self._children})
            await asyncio.sleep(_WATCH_S)

    @property
    def _redis_up_ms(self) -> int | None:
        up = self._custody.up_seconds
        return None if up is None else int(up * 1000)

    def _measure(self, now_ms: int) -> None:
        self.metrics.slots = self._concurrency
        self.metrics.busy = self.busy
        fetched_ms = max((child.table.last_fetch_ms for child in self._children), default=0)
        if fetched_ms:
            self.metrics.last_fetch = time.time() - (now_ms - fetched_ms) / 1000

    # -- children --------------------------------------------------------------

    async def _mind_for_ever(self, number: int) -> None:
        """Have one child at work at all times, until the worker stops."""
        pause_s = 0.0
        while not self._stopping:
            try:
                child = await self._spawn(self._shares[number])
                child.place = number
                if child.slots != self._shares[number]:  # the policy has changed meanwhile
                    children.share_out(self._shares, [child])
            except OSError as error:
                logger.error("no child can be started: %s", error)  # noqa: TRY400 - the kernel's word says it all
                self._give_up_if(self._starts.failed())
                pause_s = await self._rest(pause_s)
                continue
            end = await self._mind(child)
            if end is End.DONE or self._stopped.is_set():
                continue
            now = time.monotonic()
            if child.ready_at is None:
                self._give_up_if(self._starts.failed())
            self._give_up_if(
                self._starts.ended(end, ready_for_s=None if child.ready_at is None else now - child.ready_at)
            )
            pause_s = await self._rest(0.0 if now - child.began > starts.SETTLED_S else pause_s)

    async def _rest(self, before_s: float) -> float:
        """Wait before the next start, longer than the last time; gives how long. A stop cuts it short."""
        pause_s = starts.next_pause(before_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopped.wait()
        return pause_s

    def _give_up_if(self, why: str) -> None:
        if why and not self._stopping:
            self.fail(why)

    async def _spawn(self, slots: int, solo: Ticket | None = None, origin: Child | None = None) -> Child:
        self._serial += 1
        config = self.config
        begin = Begin(
            queue=config.queue,
            prefix=config.redis.prefix,
            redis=self._redis,
            handlers=config.handlers,
            concurrency=1 if solo else slots,
            worker=self.name,
            serial=self._serial,
            logs=self.log.to_json(),
            solo=solo,
            overdue=() if solo else self._room.take_overdue(),
            recycle_jobs=config.recycling.jobs,
            recycle_bytes=config.recycling.memory_bytes,
        )
        rows = 1 if solo else max(_ROWS, 2 * slots)
        self._spawning += 1
        try:
            child = await Child.spawn(self._command, begin, rows=rows, slots=slots, origin=origin)
        except OSError:
            self._room.again(begin.overdue)
            raise
        finally:
            self._spawning -= 1
        self._children.append(child)
        self._custody.watch(child.table)
        if (left := self._limited_until - time.monotonic()) > 0:
            child.send(control.Limited(int(left * 1000) + 1))
        if self._policy is not None:
            child.send(self._policy)
        if self._holds and solo is None:
            child.send(control.Hold())
        if self._stopping:
            child.stopping = True
            child.send(control.Stop(0))
        return child

    async def _mind(self, child: Child) -> End:
        """Hear a child out, wait for its end, and put what it leaves in order."""
        hearing = asyncio.create_task(self._hear(child))
        try:
            code = await child.process.wait()
            await asyncio.wait([hearing], timeout=_LAST_WORDS_S)
        finally:
            hearing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hearing
        end = child.end(code)
        level = logging.INFO if end is End.DONE else logging.ERROR
        if not (end is End.DONE and child.solo):
            logger.log(level, "child %s has ended (%s, code %s)", child.serial, end.value, code)
        self._children.remove(child)
        self.metrics.child_gone(child.process.pid)
        self._do(self._put_away(child, end))
        return end

    async def _hear(self, child: Child) -> None:
        async for message in child.channel.messages():
            self._take(child, cast("Report", message))

    def _take(self, child: Child, report: Report) -> None:
        match report:
            case control.Ready(names):
                child.ready_at = time.monotonic()
                self._names = names
                if child.solo is None:
                    self._started.add(child.serial)
                    self._starts.ready()
                    self._assign_overdue()
                self._custody.orders.call()
            case control.Metrics(snapshot):
                self.metrics.absorb(child.process.pid, cast("Snapshot", snapshot))
            case control.Suspect(job_id, token):
                self._suspect(child, Ticket(job_id, token))
            case control.Settled(job_id):
                self._room.leave_job(job_id)
            case control.Broken(error):
                child.broken = True
                logger.error("child %s: %s", child.serial, error)
            case control.Fatal(error):
                if not self._stopping:
                    self.fail(error)

    async def _put_away(self, child: Child, end: End) -> None:
        """Hand back what an ended child ran, with the account of its death; keep what was overdue for another."""
        self._room.again(child.overdue)
        runs = child.runs()
        if end is End.OVERDUE and not self._stopping:
            guilty = {view.slot: view for view in child.guilty}
            overdue = [run for run in runs if run.view == guilty.get(run.view.slot)]
            runs = [run for run in runs if not (run in overdue and self._room.add_overdue(children.ticket(run.view)))]
            self._assign_overdue()
        death = Death.NONE
        if end is End.CRASHED and child.ready_at is not None:
            death = recovery.death_of_child(len(runs))
        await self._hand_back(runs, death, f"{self.name}/{child.serial}")
        self._custody.forget(child.table)
        await child.close()
        if child.solo is not None:
            self._solos -= 1
            self._give_slot_back(child.origin)
            self._start_solos()

    def _assign_overdue(self) -> None:
        """Have a child that is at work end what is overdue; without one, the next to start will."""
        at_work = [child for child in self._children if child.ready_at is not None and child.solo is None]
        if at_work and (overdue := self._room.take_overdue()):
            at_work[0].overdue += overdue
            at_work[0].send(control.Overdue(overdue))

    async def _hand_back(self, runs: Sequence[Run], death: Death, by: str) -> None:
        for released in await self._custody.release(runs, death=death, by=by):
            job_id = released.run.view.job_id.decode(errors="replace")
            if released.quarantined:
                logger.error("job is quarantined", extra={"job": job_id})
            elif released.given_back:
                logger.warning("job is given back", extra={"job": job_id, "death": death.value})
            else:
                logger.warning("job could not be given back, it is left to recovery", extra={"job": job_id})

    async def _hand_back_room(self, *, suspects_only: bool) -> None:
        runs = self._room.close_down(suspects_only=suspects_only)
        await self._hand_back(runs, Death.NONE, self.name)
        for run in runs:
            self._room.leave(children.ticket(run.view))

    # -- suspects ----------------------------------------------------------------

    def _suspect(self, child: Child, ticket: Ticket) -> None:
        if self._room.add_suspect(ticket, child):
            child.away += 1
            child.share()
            self._start_solos()

    def _start_solos(self) -> None:
        while not self._stopping and self._solos < SOLOS_AT_ONCE and (waiting := self._room.next_suspect()):
            self._solos += 1
            self._do(self._run_solo(*waiting))

    async def _run_solo(self, ticket: Ticket, origin: Child) -> None:
        try:
            child = await self._spawn(1, ticket, origin)
        except OSError as error:
            logger.error("no child can be started for a suspect: %s", error)  # noqa: TRY400 - as above
            self._give_up_if(self._starts.failed())
            self._solos -= 1
            self._give_slot_back(origin)
            await self._hand_back(self._room.runs_of(ticket), Death.NONE, self.name)
            self._room.leave(ticket)
            return
        self._room.leave(ticket)
        end = await self._mind(child)
        if end is not End.DONE and child.ready_at is None:
            self._give_up_if(self._starts.failed())

    def _give_slot_back(self, origin: Child | None) -> None:
        if origin is not None:
            origin.away -= 1
            origin.share()

    # -- what custody tells --------------------------------------------------------

    def lost(self, run: Run) -> None:
        """Pass on that a lock is gone."""
        logger.warning("lock is lost", extra={"job": run.view.job_id.decode(errors="replace")})
        if run.table is self._room.table:
            for origin in self._room.lose(run):
                self._give_slot_back(origin)
            return
        for child in self._children:
            if child.table is run.table:
                child.send(control.Lost(run.view.slot, run.view.generation))

    def cancel(self, run: Run, reason: str) -> None:
        """Pass on that a job is to be cancelled; one in the waiting room is told when it runs."""
        for child in self._children:
            if child.table is run.table:
                child.send(control.Cancel(children.ticket(run.view).job_id, reason))

    def retire(self, *, retiring: bool) -> None:
        """Take no new job; or take some again."""
        logger.info("worker %s %s", self.name, "retires" if retiring else "works again")
        self._holds = retiring
        for child in self._children:
            if child.solo is None:
                child.send(control.Hold() if retiring else control.Release())

    def limited(self, delay_ms: int) -> None:
        """Have all children start nothing for so long, those too that are still to come."""
        self._limited_until = time.monotonic() + delay_ms / 1000
        for child in self._children:
            child.send(control.Limited(delay_ms))

    def policy(self, rev: str, doc: str) -> None:
        """Pass the policy on, and follow its concurrency where the configuration says none."""
        self._policy = control.Policy(rev, doc)
        for child in self._children:
            child.send(self._policy)
        if self.config.concurrency is None:
            if self._concurrency != (concurrency := per_worker(doc)):
                self._concurrency = concurrency
                self._custody.orders.call()  # others see it in our entry
            self._shares = children.split(self._concurrency, len(self._shares))
            children.share_out(self._shares, self._children)

    def renewed(self, kept: int, lost: int) -> None:
        """Count."""
        self.metrics.lock_renewals("renewed", kept)
        self.metrics.lock_renewals("lost", lost)

    def recovered(self, decisions: Sequence[Decision]) -> None:
        """Count, and say whose."""
        self.metrics.jobs_recovered(len(decisions))
        for decision in decisions:
            level = logging.ERROR if decision.quarantines else logging.WARNING
            what = "quarantined" if decision.quarantines else "taken back from a worker that lost it"
            logger.log(level, "job is %s", what, extra={"job": decision.id, "death": decision.death.value})

    def trouble(self, doing: str, error: Exception | None) -> None:
        """Count what concerns locks, and say that Redis does not answer."""
        if doing == "renewing locks":
            self.metrics.lock_renewals("error", 1)
        now = time.monotonic()
        if now - self._told.get(doing, -_TELL_EVERY_S) >= _TELL_EVERY_S:  # an outage is tried at many times a second
            self._told[doing] = now
            logger.warning("Redis: %s: %s", doing, error or "no answer in time")
