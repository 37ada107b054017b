"""Runs CPU-bound handlers in processes of their own, each one job at a time.

Model: `ProcessPool` belongs to one event loop. It starts a process (`bullpen_worker.executors.process_child`) when there is a job
and none is free, up to `size`; a free one waits for the next job, the one that was used last is taken first. A process
that has had nothing to do for a minute leaves, but for the last one. It is started anew, never forked: a fork of a process with threads inherits locks that nobody will release. It is the
leader of a session of its own, so that a terminal's Ctrl-C does not reach it and that killing it takes what it started along.

A job that is cancelled (timeout, cancellation, lost lock, the end of the grace period) has its process killed; the next
job gets another. A process that dies by itself takes one job along, which was alone in it and so is guilty beyond
doubt. That attempt is spent and ends as failed with `ProcessDied`, under the job's retry policy: counting it as a crash
of the worker would repeat the job without an attempt spent, and a job that always kills its process would run for
`maxCrashes` times more than its producer allowed. A process that dies before it has taken the job up costs nothing: the
job goes to another.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable
from typing import Final, Self, TypeVar

from bullpen.errors import BullpenError, ConfigurationError
from bullpen.handling.contexts import ActiveJob
from bullpen.handling.outcomes import Outcome
from bullpen.handling.registrations import Registration
from bullpen.redis.settings import RedisSettings
from bullpen_worker.executors import frames
from bullpen_worker.executors.frames import Message, Setup
from bullpen_worker.executors.recycling import Recycling
from bullpen_worker.reports.logs import LogSettings

LEAVE_SECONDS: Final = 5.0
"""How long a process that is not needed any more may take to leave its lifespans; then it is killed."""

IDLE_SECONDS: Final = 60.0
"""How long a process may have nothing to do; then it leaves, all but the one that was used last."""

MOST_STARTS: Final = 3
"""How many processes may die before they take a job up, until the job fails."""

T = TypeVar("T")

logger = logging.getLogger("bullpen.processes")


class ProcessDied(BullpenError):
    """The process that ran the job died: a crash in native code, too much memory, ``os._exit``."""


class ProcessPool:
    """Processes for the handlers of a worker that ask for one. Use it as ``async with``; `size` may be changed."""

    def __init__(
        self,
        registrations: Iterable[Registration],
        size: int,
        *,
        redis: RedisSettings | None = None,
        logs: LogSettings | None = None,
        recycling: Recycling | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Serve those of the registrations that are for processes. `redis` is for ``ctx.client``, `logs` for logging."""
        self._size = size
        self._idle_seconds = idle_seconds
        self._trim_timer: asyncio.TimerHandle | None = None
        self._recycling = recycling or Recycling()
        self._setup = Setup(
            handlers=tuple((each.module, each.qualname) for each in registrations if each.kind == "process"),
            path=tuple(sys.path),
            redis=redis,
            logs=None if logs is None else logs.to_json(),
        )
        self._free: list[_Process] = []
        self._all: set[_Process] = set()
        self._busy = 0
        self._seat_left = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Start the first process, so that the first job need not wait for it and a broken lifespan is known at once.

        Raises `ConfigurationError` or `ProcessDied` with the traceback of what failed there.
        """
        if self._setup.handlers:
            self._free.append(await self._start())
        return self

    async def __aexit__(self, *error: object) -> None:
        """End all processes: free ones leave their lifespans, busy ones are killed."""
        self._closed = True
        if self._trim_timer is not None:
            self._trim_timer.cancel()
        while self._free:
            self._let_go(self._free.pop())
        busy = list(self._all)
        for process in busy:
            process.kill()
        for process in busy:
            await self._bury(process)
        await asyncio.gather(*self._leaving)

    @property
    def size(self) -> int:
        """The most processes there may be at once. Lowered, free ones beyond it leave now, others as their jobs end."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        self._size = size
        while self._free and len(self._all) > max(size, 1):
            self._let_go(self._free.pop(0))
        self._seat_left.set()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that there are now, busy and free."""
        return tuple(process.pid for process in self._all)

    async def run(self, registration: Registration, job: ActiveJob) -> Outcome:
        """Have a process run the job and give the outcome.

        Cancelled, it kills the process and raises `asyncio.CancelledError` once the process has ended. Raises
        `ProcessDied` when the process died by itself.
        """
        packed = frames.pack(frames.job_to_data((registration.module, registration.qualname), job))
        while self._busy >= self.size:
            self._seat_left.clear()
            await self._seat_left.wait()
        self._busy += 1
        try:
            for _ in range(MOST_STARTS):
                process = await self._take()
                with contextlib.suppress(_GoneBefore):
                    return await self._run_in(process, packed, job)
            msg = f"{MOST_STARTS} processes died one after the other before they took the job up; see the worker's log"
            raise ProcessDied(msg)
        finally:
            self._busy -= 1
            self._seat_left.set()

    async def _run_in(self, process: "_Process", packed: bytes, job: ActiveJob) -> Outcome:
        try:
            outcome = await process.run(packed, job)
        except _Gone as gone:
            status = await self._bury(process)
            logger.warning("process %d for handlers died: %s", process.pid, how(status))
            if not gone.started:
                raise _GoneBefore from None
            msg = f"the process that ran it died ({how(status)})"
            raise ProcessDied(msg) from None
        except BaseException:
            process.kill()
            await self._bury(process)
            raise
        if process.is_worn(self._recycling) or self._busy > self.size or self._closed:
            self._let_go(process)
        else:
            process.free_since = asyncio.get_running_loop().time()
            self._free.append(process)
            self._plan_trimming()
        return outcome

    def _plan_trimming(self) -> None:
        """Look again when the process that has been free for longest has been so for long enough."""
        if self._trim_timer is None and len(self._free) > 1 and not self._closed:
            at = self._free[0].free_since + self._idle_seconds
            self._trim_timer = asyncio.get_running_loop().call_at(at, self._trim)

    def _trim(self) -> None:
        self._trim_timer = None
        now = asyncio.get_running_loop().time()
        while len(self._free) > 1 and now - self._free[0].free_since >= self._idle_seconds:
            self._let_go(self._free.pop(0))
        self._plan_trimming()

    async def _take(self) -> "_Process":
        while self._free:
            process = self._free.pop()
            if process.is_alive:
                return process
            status = await self._bury(process)
            logger.warning("process %d for handlers died while it had nothing to do: %s", process.pid, how(status))
        return await self._start()

    async def _start(self) -> "_Process":
        if self._closed:
            msg = "the worker has ended its processes: it runs no more handlers"
            raise RuntimeError(msg)
        process = await _Process.spawn()
        self._all.add(process)
        try:
            await process.set_up(self._setup)
        except BaseException:
            process.kill()
            await self._bury(process)
            raise
        return process

    async def _bury(self, process: "_Process") -> int:
        try:
            return await _to_the_end(process.ended())
        finally:
            self._all.discard(process)

    def _let_go(self, process: "_Process") -> None:
        self._all.discard(process)
        task = asyncio.get_running_loop().create_task(process.leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


class _Gone(Exception):
    """The process ended in the middle of a job."""

    def __init__(self, *, started: bool) -> None:
        self.started = started


class _GoneBefore(Exception):
    """The process had ended before it took the job up."""


class _Process:
    """One process. Its owner calls one method at a time, but for `kill`."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._jobs = 0
        self._memory = 0
        self.free_since = 0.0
        """Since when it has nothing to do, by the loop's clock."""

    @classmethod
    async def spawn(cls) -> Self:
        """Start a process; `set_up` comes next."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "bullpen_worker.executors.process_child", str(theirs.fileno()), str(os.getpid()),
                    pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            except BaseException:
                writer.close()
                raise
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None and not self._reader.at_eof()

    def is_worn(self, recycling: Recycling) -> bool:
        too_many = recycling.jobs is not None and self._jobs >= recycling.jobs
        too_big = recycling.memory_bytes is not None and self._memory > recycling.memory_bytes
        return too_many or too_big

    async def set_up(self, setup: Setup) -> None:
        """Tell it what to be and wait until it is. Raises `ConfigurationError`, `ProcessDied`."""
        try:
            self._writer.write(frames.pack(setup.to_data()))
            message = await self._receive()
        except (ConnectionError, asyncio.IncompleteReadError):
            status = await _to_the_end(self.ended())
            msg = f"a process for handlers could not be started: it died ({how(status)})"
            raise ProcessDied(msg) from None
        if message["kind"] == "broken":
            if message["is_configuration"]:
                raise ConfigurationError(message["text"])
            msg = f"a process for handlers could not be started:\n{message['text']}"
            raise ProcessDied(msg)

    async def run(self, packed: bytes, job: ActiveJob) -> Outcome:
        """Have it run a job. Raises `_Gone` when it ends."""
        started = False
        try:
            self._writer.write(packed)
            await self._writer.drain()
            while True:
                message = await self._receive()
                match message["kind"]:
                    case "started":
                        started = True
                    case "progress":
                        job.services.progress(message["text"])
                    case "log":
                        job.services.log(message["text"])
                    case "ended":
                        self._jobs += 1
                        self._memory = message["memory"]
                        return frames.outcome_from_data(message["outcome"])
                    case kind:
                        msg = f"a process for handlers said {kind!r} in the middle of a job"
                        raise frames.FrameError(msg)
        except (ConnectionError, asyncio.IncompleteReadError):
            raise _Gone(started=started) from None

    def kill(self) -> None:
        """Kill it with all that it started."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for its end, give its exit status (negative: the signal)."""
        self._writer.close()
        return await self._process.wait()

    async def leave(self) -> None:
        """Let it leave its lifespans and end; kill it when that takes too long."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, OSError):
                    self._writer.write_eof()
                    message = await self._receive()
                    logger.error("process %d for handlers ended with an error:\n%s", self.pid, message.get("text"))
                await self.ended()
        except TimeoutError:
            logger.warning("process %d for handlers did not leave within %g s: killed", self.pid, LEAVE_SECONDS)
            self.kill()
            await self.ended()

    async def _receive(self) -> Message:
        head = await self._reader.readexactly(frames.LENGTH.size)
        body = await self._reader.readexactly(frames.length_of(head))
        return frames.parse(body)


async def _to_the_end(waiting: Coroutine[None, None, T]) -> T:
    """Wait for something however often the caller is cancelled meanwhile; only then be cancelled.

    Used for the end of a killed process. While the kernel has not ended it the job still runs, so the slot must stay
    taken; the worker's supervisor sees to one that is past its time.
    """
    task = asyncio.get_running_loop().create_task(waiting)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


def how(status: int) -> str:
    """Say how a process ended, for people."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name if -status in {*signal.Signals} else "?"
    hint = "; out of memory?" if -status == signal.SIGKILL else ""
    return f"signal {-status}, {name}{hint}"
