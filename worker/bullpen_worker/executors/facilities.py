"""What handlers of one process share: threads and processes to run in, clients to enqueue with. Made when first needed."""

import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from bullpen.handling.contexts import ActiveJob
from bullpen.handling.outcomes import Outcome
from bullpen.handling.registrations import Registration
from bullpen.redis.settings import RedisSettings
from bullpen_worker.executors.processes import ProcessPool
from bullpen_worker.executors.recycling import Recycling
from bullpen_worker.executors.threads import ThreadPool
from bullpen_worker.reports.logs import LogSettings

if TYPE_CHECKING:
    from bullpen.clients.client import Client
    from bullpen.clients.sync_client import SyncClient

T = TypeVar("T")


class Clients:
    """The clients of one process, on the worker's own Redis and prefix. `async with` closes them."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._client: Client | None = None
        self._sync_client: SyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def client(self) -> "Client":
        """The async one, of the worker's event loop."""
        if self._client is None:
            from bullpen.clients.client import Client  # noqa: PLC0415 - few handlers enqueue

            self._client = Client(self._settings)
            self._stack.push_async_callback(self._client.close)
        return self._client

    @property
    def sync_client(self) -> "SyncClient":
        """The blocking one."""
        if self._sync_client is None:
            from bullpen.clients.sync_client import SyncClient  # noqa: PLC0415 - few handlers enqueue

            self._sync_client = SyncClient(self._settings)
            self._stack.callback(self._sync_client.close)
        return self._sync_client


class Facilities:
    """Where handlers run that do not run on the event loop, up to `size` of each sort at once. Use it as ``async with``."""

    def __init__(
        self,
        registrations: Iterable[Registration],
        size: int,
        *,
        redis: RedisSettings,
        logs: LogSettings | None = None,
        recycling: Recycling | None = None,
    ) -> None:
        self._threads = ThreadPool(size)
        self._processes = ProcessPool(registrations, max(1, size), redis=redis, logs=logs, recycling=recycling)

    async def __aenter__(self) -> Self:
        """Start the first process where handlers ask for one. Raises as `ProcessPool` does."""
        await self._processes.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.close()
        await self._processes.__aexit__(kind, error, trace)

    def resize(self, size: int) -> None:
        """Let so many run at once."""
        self._threads.size = self._processes.size = max(1, size)

    async def run_thread(self, call: Callable[[], T], job: ActiveJob) -> T:  # noqa: ARG002 - of the interface
        """Call in a thread; see `ThreadPool.run`."""
        return await self._threads.run(call)

    async def run_process(self, registration: Registration, job: ActiveJob) -> Outcome:
        """Run in a process; see `ProcessPool.run`."""
        return await self._processes.run(registration, job)
