"""A process that runs CPU-bound handlers, one job at a time: ``python -m bullpen_worker.executors.process_child FD PARENT``.

Model: the main thread runs the handlers, as code that computes expects it (it may call `asyncio.run`, set signal handlers,
use libraries that want the main thread). One thread reads the socket: jobs go into a queue; the end of the stream ends
the process, at once where a job runs, since nobody waits for it any more. One thread, started when a handler first
reports progress or logs, sends what was reported every 50 ms, so that reporting never blocks. One thread runs an event
loop where there are async lifespans: they are entered, live and are left in one task there; plain lifespans are entered
in the main thread.

The socket is a descriptor of its own: what handlers print goes to the worker's output and cannot be taken for messages.
Nothing is printed when the process is told to end or killed.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from bullpen.errors import ConfigurationError
from bullpen.handling import execution, registrations
from bullpen.handling.catalogue import Deps
from bullpen.handling.registrations import Lifespan, Registration
from bullpen.redis.settings import RedisSettings
from bullpen_worker.executors import frames, lineage
from bullpen_worker.executors.frames import Message, Setup

if TYPE_CHECKING:
    from bullpen.clients.client import Client
    from bullpen.clients.sync_client import SyncClient

REPORT_EVERY_SECONDS: Final = 0.05
MOST_LINES: Final = 1_000
"""Log lines of a job that may wait to be sent; what comes faster is counted and left out."""


class Wire:
    """The socket to the worker. Sending is thread-safe; one thread receives."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lock = threading.Lock()

    def send(self, *messages: Message) -> None:
        """Send messages, in one piece. Waits until the worker has taken them."""
        packed = b"".join(map(frames.pack, messages))
        with self._lock:
            self._socket.sendall(packed)

    def receive(self) -> dict[str, Any] | None:
        """Wait for a message; None at the end of the stream."""
        head = self._read(frames.LENGTH.size)
        body = None if head is None else self._read(frames.length_of(head))
        if body is None:
            return None
        message: dict[str, Any] = json.loads(body)
        return message

    def _read(self, size: int) -> bytes | None:
        gathered = bytearray()
        while len(gathered) < size:
            part = self._socket.recv(min(size - len(gathered), 1 << 20))
            if not part:
                return None
            gathered += part
        return bytes(gathered)


class Report:
    """What the running handler reports: gathered from any thread, sent by one. Progress: the latest value counts."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._progress: str | None = None
        self._lines: list[str] = []
        self._left_out = 0
        self._reported = threading.Event()
        self._sender: threading.Thread | None = None

    def progress(self, value_json: str) -> None:
        """Take the progress."""
        with self._lock:
            self._progress = value_json
        self._wake()

    def log(self, line: str) -> None:
        """Take a log line."""
        with self._lock:
            if len(self._lines) < MOST_LINES:
                self._lines.append(line)
            else:
                self._left_out += 1
        self._wake()

    def flush(self) -> None:
        """Send what there is."""
        with self._sending:  # whoever takes sends first: lines stay in order
            with self._lock:
                lines, self._lines = self._lines, []
                progress, self._progress = self._progress, None
                left_out, self._left_out = self._left_out, 0
            if left_out:
                lines.append(f"({left_out} lines came too fast and were left out)")
            messages: list[Message] = [{"kind": "log", "text": line} for line in lines]
            if progress is not None:
                messages.append({"kind": "progress", "text": progress})
            if messages:
                self._wire.send(*messages)

    def _wake(self) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._send, name="bullpen-report", daemon=True)
            self._sender.start()
        self._reported.set()

    def _send(self) -> None:
        while True:
            self._reported.wait()
            self._reported.clear()
            with contextlib.suppress(OSError):  # the worker has gone: the reading thread ends the process
                self.flush()
            time.sleep(REPORT_EVERY_SECONDS)


class Services:
    """What contexts need of this process. The client is made when a handler first asks for it."""

    def __init__(self, report: Report, redis: RedisSettings | None) -> None:
        self.progress = report.progress
        self.log = report.log
        self._redis = redis

    @property
    def client(self) -> "Client":
        """Refuse: handlers in processes are plain functions, whose context gives the blocking client."""
        msg = "a handler in a process has no async client; ctx.client is a SyncClient there"
        raise RuntimeError(msg)

    @cached_property
    def sync_client(self) -> "SyncClient":
        """The blocking client of this process."""
        from bullpen.clients.sync_client import SyncClient  # noqa: PLC0415 - redis-py, for those only who enqueue from here

        if self._redis is None:
            msg = "this worker gave its processes no Redis to enqueue to"
            raise RuntimeError(msg)
        return SyncClient(self._redis)


class AsyncLifespans:
    """Async lifespans, entered and left by one task of an event loop in a thread of its own."""

    def __init__(self, managers: Mapping[Lifespan, AbstractAsyncContextManager[Any]]) -> None:
        self._managers = managers
        self._opened: Future[dict[Lifespan | None, object]] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bullpen-lifespans", daemon=True)

    def __enter__(self) -> dict[Lifespan | None, object]:
        """Give what each lifespan gave. Raises what one of them raises."""
        self._thread.start()
        return self._opened.result()

    def __exit__(self, *error: object) -> None:
        if self._loop is not None and self._leave is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            if self._opened.done():
                self._failed = error
            else:
                self._opened.set_exception(error)

    async def _hold(self) -> None:
        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            opened: dict[Lifespan | None, object] = {
                lifespan: await stack.enter_async_context(manager) for lifespan, manager in self._managers.items()
            }
            self._opened.set_result(opened)
            await self._leave.wait()


@contextlib.contextmanager
def open_lifespans(lifespans: Iterable[Lifespan]) -> Iterator[Deps]:
    """Enter each lifespan once and give what each gave: plain ones first, in this thread. Raises what one raises."""
    deps: dict[Lifespan | None, object] = {None: None}
    pending: dict[Lifespan, AbstractAsyncContextManager[Any]] = {}
    with ExitStack() as stack:
        for lifespan in lifespans:
            manager = lifespan()
            if isinstance(manager, AbstractAsyncContextManager):
                pending[lifespan] = manager
            else:
                deps[lifespan] = stack.enter_context(manager)
        if pending:
            deps |= stack.enter_context(AsyncLifespans(pending))
        yield deps


def main(descriptor: int, parent: int) -> None:
    """Be such a process, until the worker closes the socket."""
    lineage.die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback; a terminal's Ctrl-C is the worker's to obey
    os.set_inheritable(descriptor, False)  # noqa: FBT003 (its only form)
    wire = Wire(socket.socket(fileno=descriptor))
    first = wire.receive()
    if first is None:
        return
    jobs: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    try:
        setup = Setup.from_data(first)
        sys.path[:] = setup.path
        _configure_logs(setup)
        handlers = {handler: registrations.locate(*handler) for handler in setup.handlers}
        with open_lifespans(dict.fromkeys(each.lifespan for each in handlers.values() if each.lifespan)) as deps:
            work = _Work(wire, handlers, deps, setup.redis)
            threading.Thread(target=_receive, args=(wire, jobs, work), name="bullpen-wire", daemon=True).start()
            wire.send({"kind": "ready"})
            while (job := jobs.get()) is not None:
                work.run(job)
    except Exception as error:  # noqa: BLE001 - the worker says it, once, where its logs go
        is_configuration = isinstance(error, ConfigurationError)
        text = str(error) if is_configuration else "".join(traceback.format_exception(error))
        with contextlib.suppress(OSError):
            wire.send({"kind": "broken", "text": text, "is_configuration": is_configuration})
        sys.exit(1)


class _Work:
    """Runs jobs, one at a time."""

    def __init__(
        self,
        wire: Wire,
        handlers: Mapping[tuple[str, str], Registration],
        deps: Deps,
        redis: RedisSettings | None,
    ) -> None:
        self._wire = wire
        self._handlers = handlers
        self._deps = deps
        self._report = Report(wire)
        self._services = Services(self._report, redis)
        self.is_running = False

    def run(self, data: dict[str, Any]) -> None:
        """Run a job and say what follows from it."""
        self.is_running = True
        module, qualname = data["handler"]
        registration = self._handlers[module, qualname]
        job = frames.job_from_data(data, self._services, self._deps[registration.lifespan])
        _bind_job(job.id, job.name, job.attempt)
        self._wire.send({"kind": "started"})
        outcome = execution.run_in_process(registration, job)
        self._report.flush()
        with contextlib.suppress(Exception):  # what the handler did to it spoils no outcome
            sys.stdout.flush()
        self.is_running = False
        self._wire.send({"kind": "ended", "outcome": frames.outcome_to_data(outcome), "memory": resident_bytes()})


def _receive(wire: Wire, jobs: "SimpleQueue[dict[str, Any] | None]", work: _Work) -> None:
    """Be the thread that reads the socket."""
    with contextlib.suppress(OSError):
        while (message := wire.receive()) is not None:
            jobs.put(message)
    if work.is_running:
        os._exit(1)  # the worker is dead, or has given the job up: nobody wants what it is at
    jobs.put(None)


def _configure_logs(setup: Setup) -> None:
    if setup.logs is not None:
        from bullpen_worker.reports import logs  # noqa: PLC0415 - structlog, only where Bullpen owns the logging

        logs.configure(logs.LogSettings.from_json(setup.logs))


def _bind_job(job_id: str, name: str, attempt: int) -> None:
    logs = sys.modules.get("bullpen_worker.reports.logs")
    if logs is not None:
        logs.bind_job(job_id, name, attempt)


def resident_bytes() -> int:
    """Give how much memory this process holds now; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
