"""The process that runs handlers: ``python -m bullpen_worker.supervision.child SOCKET TABLE PID``, started by the supervisor alone.

Concurrency model: the event loop of this process runs the engine, and beside it one task that obeys the supervisor's
orders and one that reports what was counted. Signals that a terminal or the kubelet sends are the supervisor's business:
here they do nothing. When the supervisor dies the kernel kills this process; where there is no such kernel, the end
of the control socket does.

Order of a start: handlers are imported, the lifespans entered, `Ready` is said; jobs are fetched once the queue's policy has come.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final, cast

from bullpen.errors import BullpenError, ConfigurationError
from bullpen.handling.catalogue import Catalogue, Deps
from bullpen.handling.contexts import CancelReason
from bullpen.handling.handlers import Handlers
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import BUILT_IN
from bullpen.redis.link import Link, LinkState
from bullpen.redis.settings import RedisSettings
from bullpen_worker.executors import lineage
from bullpen_worker.executors.facilities import Clients, Facilities
from bullpen_worker.executors.processes import ProcessDied
from bullpen_worker.executors.recycling import Recycling
from bullpen_worker.keeping.table import SlotTable
from bullpen_worker.loading import load_handlers
from bullpen_worker.reports import logs, metrics
from bullpen_worker.reports.logs import JobLog, LogSettings
from bullpen_worker.running import policies
from bullpen_worker.running.engine import Engine
from bullpen_worker.running.hooks import JobEnd
from bullpen_worker.running.lines import Line
from bullpen_worker.supervision import control, settlement
from bullpen_worker.supervision.control import Begin, Channel, Message, Ticket

REPORT_S: Final = 1.0

logger = logging.getLogger("bullpen.worker")


class LifespanFailed(BullpenError):
    """A lifespan of the handlers could not be entered."""


class Heralded(Catalogue):
    """The handlers, which say when their lifespans are entered."""

    def __init__(self, handlers: Sequence[Handlers[Any]], queue: str, channel: Channel) -> None:
        super().__init__(handlers, queue)
        self._channel = channel

    @contextlib.asynccontextmanager
    async def open_deps(self) -> AsyncIterator[Deps]:
        """Enter the lifespans. Raises `LifespanFailed` where one cannot be."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                deps = await stack.enter_async_context(super().open_deps())
            except Exception as error:
                raise LifespanFailed from error
            self._channel.send(control.Ready(self.names))
            yield deps


class Witness:
    """The engine's hooks: counts, logs, and hands suspects over."""

    def __init__(self, channel: Channel, names: Sequence[str], log: JobLog, *, alone: bool) -> None:
        self.recorder = metrics.Recorder(names)
        self._channel = channel
        self._log = log
        self._alone = alone
        self._reported = 0
        self.job_started = logs.bind_job  # straight: they are called for each job
        self.job_left = logs.leave_job

    def job_ended(self, end: JobEnd) -> None:
        """Count and log."""
        if end.outcome == "completed" and end.run_ms is not None:  # most do
            self.recorder.ran(end.name, "completed", end.wait_ms / 1000, end.run_ms / 1000)
            self._log.ended(end.job_id, end.name, end.attempt, "completed", wait_ms=end.wait_ms, run_ms=end.run_ms)
            return
        if end.run_ms is None:
            self.recorder.never_ran(end.name, end.outcome)
        else:
            self.recorder.ran(end.name, end.outcome, end.wait_ms / 1000, end.run_ms / 1000)
        self._log.ended(
            end.job_id, end.name, end.attempt, end.outcome, wait_ms=end.wait_ms, run_ms=end.run_ms, error=end.error,
            reason=end.reason, traceback=end.traceback,
            final=end.outcome == "timeout" and end.attempt >= end.attempts,
        )  # fmt: skip

    def fetched(self) -> None:
        """Do nothing: the slot table says it."""

    def suspect(self, job_id: str, token: str) -> bool:
        """Let the supervisor run it in a process of its own."""
        if self._alone:
            return False
        self._channel.send(control.Suspect(job_id, token))
        return True

    def connection(self, state: LinkState, reason: str) -> None:
        """Say that Redis came or went."""
        logger.log(logging.WARNING if state is LinkState.DOWN else logging.INFO, "Redis: %s: %s", state, reason)

    def report(self) -> None:
        """Say what was counted since."""
        self._log.tick()
        if self.recorder.revision != self._reported:
            self._reported = self.recorder.revision
            self._channel.send(control.Metrics(cast("dict[str, object]", self.recorder.snapshot())))


class Worker:
    """One child at work."""

    def __init__(self, begin: Begin, channel: Channel, orders: AsyncIterator[Message], table: SlotTable) -> None:
        self.begin = begin
        self._channel = channel
        self._orders = orders
        self._table = table
        self._keys = QueueKeys(begin.prefix, begin.queue)
        self._settings = RedisSettings.model_validate_json(begin.redis)
        self._catalogue = Heralded(load_handlers(*begin.handlers), begin.queue, channel)
        log = JobLog(LogSettings.from_json(begin.logs).jobs)
        self._witness = Witness(channel, self._catalogue.names, log, alone=begin.solo is not None)
        self._policy = BUILT_IN
        self._held = False
        self._limited_until = 0.0
        self._slots = begin.concurrency
        self._engine: Engine | None = None
        self._facilities: Facilities | None = None
        self._overdue: asyncio.Queue[Ticket] = asyncio.Queue()
        for ticket in begin.overdue:
            self._overdue.put_nowait(ticket)

    async def run(self) -> None:
        """Work until told to stop, or until the solo job is over."""
        if not await self._first_policy():
            return
        begin = self.begin
        facilities = Facilities(
            self._catalogue.registrations,
            self._slots,
            redis=self._settings,
            logs=LogSettings.from_json(begin.logs),
            recycling=Recycling(begin.recycle_jobs, begin.recycle_bytes),
        )
        async with Clients(self._settings) as clients, facilities:
            self._facilities = facilities
            self._engine = engine = Engine(
                settings=self._settings,
                keys=self._keys,
                name=begin.worker,
                catalogue=self._catalogue,
                policy=self._policy,
                table=self._table,
                executors=facilities,
                clients=clients,
                concurrency=self._slots,
                hooks=self._witness,
                alone=begin.solo is not None,
            )
            if self._held:
                engine.hold()
            if (left := self._limited_until - time.monotonic()) > 0:
                engine.limited(int(left * 1000) + 1)
            beside = [
                asyncio.create_task(work)
                for work in (self._obey_for_ever(), self._report_for_ever(), self._end_overdue())
            ]
            for task in beside:
                task.add_done_callback(self._stop_on_error)
            try:
                if begin.solo is not None:
                    await engine.run_one(begin.solo.job_id, begin.solo.token)
                else:
                    await engine.run()
            finally:
                for task in beside:
                    task.cancel()
                ends = await asyncio.gather(*beside, return_exceptions=True)
                self._witness.report()
            for end in ends:
                if isinstance(end, Exception):
                    raise end

    def _stop_on_error(self, task: asyncio.Task[None]) -> None:
        if self._engine is not None and not task.cancelled() and task.exception() is not None:
            self._engine.stop(0)

    # -- orders ----------------------------------------------------------------

    async def _first_policy(self) -> bool:
        """Wait for the policy; False when the worker was stopped before."""
        async for message in self._orders:
            if isinstance(message, control.Stop):
                return False
            self._obey(message)
            if isinstance(message, control.Policy):
                return True
        return False

    async def _obey_for_ever(self) -> None:
        async for message in self._orders:
            self._obey(message)
        # The supervisor has died, and with it whoever keeps the locks. To hand the jobs back now would hide the death from
        # the account of crashes: a job that kills whole workers would never be found out.
        os._exit(1)

    def _obey(self, message: Message) -> None:
        match message:
            case control.Policy():
                self._follow(message)
            case control.Concurrency(slots):
                self._slots = slots
            case control.Hold() | control.Release():
                self._held = isinstance(message, control.Hold)
            case control.Limited(delay_ms):
                self._limited_until = time.monotonic() + delay_ms / 1000
            case control.Overdue(overdue):
                for ticket in overdue:
                    self._overdue.put_nowait(ticket)
            case _:
                pass
        if self._engine is not None and self._facilities is not None:
            _steer(self._engine, self._facilities, message)

    def _follow(self, order: control.Policy) -> None:
        self._policy = policies.follow(order.doc, self._policy)
        if self._engine is not None:
            self._engine.apply_policy(self._policy)

    # -- beside the engine -------------------------------------------------------

    async def _report_for_ever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._witness.report()

    async def _end_overdue(self) -> None:
        """End the attempts of jobs whose process was killed for being past their timeout."""
        ticket = await self._overdue.get()
        async with Link(self._settings, patient=True) as link:
            line = Line(link)
            while True:
                if self._engine is not None:
                    end = await settlement.end_overdue(
                        ticket, line=line, pack=self._engine.pack, admission=self._engine.admission
                    )
                    if end is not None:
                        self._witness.job_ended(end)
                    self._channel.send(control.Settled(ticket.job_id))
                ticket = await self._overdue.get()


def _steer(engine: Engine, facilities: Facilities, message: Message) -> None:
    match message:
        case control.Concurrency(slots):
            engine.table.follow()
            engine.concurrency = slots
            facilities.resize(slots)
        case control.Hold():
            engine.hold()
        case control.Release():
            engine.release()
        case control.Limited(delay_ms):
            engine.limited(delay_ms)
        case control.Stop(grace_ms):
            engine.stop(grace_ms)
        case control.Lost(slot, generation):
            engine.lock_lost(slot, generation)
        case control.Cancel(job_id, text):
            engine.cancel(job_id, CancelReason.CANCELLED, text)
        case _:
            pass


async def attend(control_fd: int, table_fd: int) -> int:
    """Be a child; returns the exit code."""
    table = SlotTable.attach(table_fd)
    channel = await Channel.open(socket.socket(fileno=control_fd))
    orders = channel.messages()
    try:
        begin = await anext(orders, None)
        if not isinstance(begin, Begin):
            return 1
        logs.configure(LogSettings.from_json(begin.logs))
        try:
            worker = Worker(begin, channel, orders, table)
        except ConfigurationError as error:
            channel.send(control.Fatal(str(error)))
            return 1
        except Exception as error:  # noqa: BLE001 - whatever a user's module raises when it is imported
            traceback.print_exc()
            channel.send(control.Fatal(f"the handlers cannot be loaded: {type(error).__name__}: {error}"))
            return 1
        return await _work(worker, channel)
    finally:
        await channel.close()


async def _work(worker: Worker, channel: Channel) -> int:
    try:
        await worker.run()
    except LifespanFailed as failed:
        error = failed.__cause__ or failed
        traceback.print_exception(error)
        channel.send(control.Fatal(f"a lifespan of the handlers failed: {type(error).__name__}: {error}"))
        return 1
    except (ConfigurationError, ProcessDied) as error:
        channel.send(control.Fatal(str(error)))
        return 1
    except Exception as error:
        logger.exception("the worker cannot go on")
        channel.send(control.Broken(f"{type(error).__name__}: {error}"))
        return 1
    return 0


def main() -> int:
    """Run as the supervisor started it: with a control socket, a slot table, and the supervisor's pid."""
    control_fd, table_fd, parent = (int(word) for word in sys.argv[1:4])
    lineage.die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)  # not SIG_IGN: what handlers start would inherit that
    return _run(attend(control_fd, table_fd))


def _run(work: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where it is installed: a turn of the loop costs a quarter less there, which counts for quick jobs."""
    try:
        import uvloop  # noqa: PLC0415 - it comes with the worker, except where it does not exist (PyPy)
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


if __name__ == "__main__":
    sys.exit(main())
