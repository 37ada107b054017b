"""What a running handler says of its job, gathered and sent on: progress and log lines.

Concurrency model: a `JobOutput` may be called from any thread and never waits; it puts what it gets into a buffer behind a
lock and tells the engine once. The engine's loop sends the buffers of all jobs every `FLUSH_S`; what is still in one
when its job ends goes out in front of the job's ack, on the same connection, so that Redis sees them in order.
Progress is coalesced: the latest value counts. Log lines are all kept, up to `MOST_LINES` at a time.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from bullpen.redis.wire import Reply
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Templates

if TYPE_CHECKING:
    from bullpen.clients.client import Client
    from bullpen.clients.sync_client import SyncClient

FLUSH_S: Final = 0.08
"""How long progress and log lines may lie here; with the way to Redis they are there within 100 ms."""

MOST_LINES: Final = 1_000
"""Lines of one job that may wait to be sent; more are counted, and their number is logged in their place."""


class Clients(Protocol):
    """The clients that handlers enqueue with: one of each kind in a process, made when first asked for."""

    @property
    def client(self) -> "Client":
        """The async one, of the worker's event loop."""

    @property
    def sync_client(self) -> "SyncClient":
        """The blocking one."""


class JobOutput:
    """The progress and log lines of one attempt that Redis does not have yet. Thread-safe."""

    # Of the class as long as there are none: most jobs say nothing, and one of these is made for each.
    _progress: bytes | None = None
    _lines: list[bytes] | tuple[()] = ()
    _dropped = 0

    def __init__(self, outbox: "Outbox", job_id: bytes, line: Line, keep_logs: int) -> None:
        self.job_id = job_id
        self.line = line
        self._outbox = outbox
        self._keep_logs = keep_logs

    @property
    def client(self) -> "Client":
        """The async client of this worker."""
        return self._outbox.clients.client

    @property
    def sync_client(self) -> "SyncClient":
        """The blocking client of this process."""
        return self._outbox.clients.sync_client

    def progress(self, value_json: str) -> None:
        """Report the progress, as JSON."""
        with self._outbox.lock:
            first = self._progress is None and not self._lines
            self._progress = value_json.encode()
        if first:
            self._outbox.announce(self)

    def log(self, line: str) -> None:
        """Add a line to the job's log."""
        with self._outbox.lock:
            first = self._progress is None and not self._lines
            lines = self._lines = self._lines or []
            if len(lines) < MOST_LINES:
                lines.append(line.encode(errors="replace"))
            else:
                self._dropped += 1
        if first:
            self._outbox.announce(self)

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return self._progress is not None or bool(self._lines)

    def take(self, pack: Templates) -> tuple[bytes, int]:
        """Give what has gathered as packed commands, and how many replies they bring; afterwards nothing is here."""
        if self._progress is None and not self._lines:
            return b"", 0
        with self._outbox.lock:
            lines, progress, dropped = list(self._lines), self._progress, self._dropped
            self._lines, self._progress, self._dropped = [], None, 0
        if dropped:
            lines.append(b"(%d lines came too fast and were left out)" % dropped)
        commands = [pack.log(self.job_id, line, self._keep_logs) for line in lines]
        if progress is not None:
            commands.append(pack.progress(self.job_id, progress))
        return b"".join(commands), len(commands)


class Outbox:
    """Sends what handlers say of their jobs, all together every `FLUSH_S`. Belongs to the loop on which it is made."""

    def __init__(self, clients: Clients, pack: Callable[[], Templates]) -> None:
        self.clients = clients
        self.lock: Final = threading.Lock()
        """Of all outputs: it is held for a moment only."""
        self._pack = pack
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._full: list[JobOutput] = []
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Send nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def announce(self, output: JobOutput) -> None:
        """Say, from any thread, that something came into an empty output."""
        if threading.get_ident() == self._thread:
            self._add(output)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker has ended
                self._loop.call_soon_threadsafe(self._add, output)

    def _add(self, output: JobOutput) -> None:
        self._full.append(output)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        full, self._full = self._full, []
        for output in full:
            connection = output.line.connection
            if connection is None:
                self._add(output)  # it waits for Redis
                continue
            packed, replies = output.take(self._pack())
            if replies:
                connection.call_many(packed, replies).add_done_callback(_look_away)


def _look_away(future: "asyncio.Future[list[Reply]]") -> None:
    """Progress and logs are best effort: what a lost connection took is gone."""
    if not future.cancelled():
        future.exception()
