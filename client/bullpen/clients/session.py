"""What an async client, its queues and its handles share.

Model: a `Session` belongs to the event loop on which it was first used, and to the process. It does no I/O until then. It
has one connection for all its calls, pipelined (one for each binding, where there are any), and one more for each queue whose events are waited for
(`bullpen.clients.watching`). `close` ends both and all its tasks; afterwards it may be used again, on another loop too.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from bullpen import uuid7
from bullpen.clients.enqueueing import Enqueuer
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.clients.routing import Routes, RoutingShell
from bullpen.clients.sending import Placed, Sender
from bullpen.clients.shell import RedisShell, Shell, run
from bullpen.clients.watching import Watcher
from bullpen.errors import BullpenError, EnqueueUncertain
from bullpen.jobs import JobSpec
from bullpen.options import EnqueueOptions
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import Refusal
from bullpen.queue.operations.base import Operation, Steps
from bullpen.queue.requests import Request
from bullpen.redis.binding import Bindings
from bullpen.redis.settings import RedisSettings

R = TypeVar("R")
T = TypeVar("T")


class Store:
    """Where a client's jobs lie, and by which clock: Redis and the system's, unless a test harness says otherwise."""

    def __init__(self, redis: str | RedisSettings | None, *, prefix: str | None, timeout: float | None) -> None:
        # What a URL says is checked at once; the environment is read when it is needed.
        self._given = None if redis is None else RedisSettings.of(redis, prefix=prefix)
        self._prefix = prefix
        self._timeout = timeout

    @property
    def settings(self) -> RedisSettings:
        """The settings, from the environment where nobody gave any. Raises `ConfigurationError`."""
        return RedisSettings.of(None, prefix=self._prefix) if self._given is None else self._given

    @property
    def timeout(self) -> float:
        """How many seconds a call may take: what the settings say, as first read, where nobody said."""
        if self._timeout is None:
            self._timeout = self.settings.timeout.total_seconds()
        return self._timeout

    def routes(self) -> Routes | None:
        """Give the settings of each queue; None where all queues have the same."""
        settings = self.settings
        return None if settings.bindings is None else Routes(settings, Bindings(settings.bindings))

    def prefixes(self, routes: Routes | None) -> Callable[[str], str]:
        """Give what says with what a queue's keys begin."""
        if routes is not None:
            return routes.prefix
        prefix = self.settings.prefix
        return lambda _: prefix

    def shell(self, routes: Routes | None) -> Shell:
        """Make a shell."""
        if routes is not None:
            return RoutingShell(routes, lambda settings: RedisShell(settings, timeout=self.timeout))
        return RedisShell(self.settings, timeout=self.timeout)

    def now_ms(self) -> int:
        """Give the time in ms since 1970."""
        return time.time_ns() // 1_000_000


class Session:
    """See the module."""

    def __init__(self, store: Store, middleware: Sequence[EnqueueMiddleware]) -> None:
        self._store = store
        self._middleware = tuple(middleware)
        self._bound: _Bound | None = None

    @property
    def settings(self) -> RedisSettings:
        """Where Redis is."""
        return self._store.settings

    @property
    def timeout(self) -> float:
        """How many seconds a call may take."""
        return self._store.timeout

    async def close(self) -> None:
        """Close connections and end tasks. Idempotent."""
        if self._bound is None:
            return
        bound, self._bound = self.bind(), None
        for watcher in bound.watchers.values():
            await watcher.close()
        await bound.shell.close()

    async def enqueue(self, spec: JobSpec[R], queue: str | None, options: EnqueueOptions) -> Placed[R]:
        """Add one job, to this queue or its own."""
        sender = self.bind().sender
        if sender.has_middleware:
            with sender.through_middleware((spec,)) as changed:
                (spec,) = changed
                added = await self._add(*sender.request(spec, queue, options))
        else:
            added = await self._add(*sender.request(spec, queue, options))
        return *added, spec.read_result

    async def enqueue_many(self, specs: Sequence[JobSpec[R]], queue: str | None) -> list[Placed[R]]:
        """Add many jobs, to this queue or their own."""
        sender = self.bind().sender
        with sender.through_middleware(specs) as changed:
            groups = sender.by_queue(changed, queue)
            placed = await self.run(sender.add_all(groups, self._store.now_ms()))
        return [(*where, spec.read_result) for spec, where in zip(changed, placed, strict=True)]

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """Run steps, within the client's timeout or what is left of it; see `bullpen.clients.shell.run`."""
        limit = self.timeout if timeout is None else timeout
        return await run(self.bind().shell, steps, timeout=limit, now=time.monotonic)

    async def perform(self, operation: Operation[T]) -> T:
        """Do one operation, within the client's timeout."""
        return await self.bind().shell.perform(operation, timeout=self.timeout)

    async def within(self, waiting: Coroutine[Any, Any, T], seconds: float) -> T | None:
        """Wait for it; None when it is not over within so many seconds. A test harness counts them by its own clock."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await waiting
        except TimeoutError:
            if not limit.expired():
                raise
            return None

    def keys(self, queue: str) -> QueueKeys:
        """Give the keys of a queue."""
        return self.bind().sender.queue(queue).keys

    def now_ms(self) -> int:
        """Give the time in ms since 1970."""
        return self._store.now_ms()

    def watcher(self, queue: str) -> Watcher:
        """Give the one watcher of a queue."""
        bound = self.bind()
        found = bound.watchers.get(queue)
        if found is None:
            keys = bound.sender.queue(queue).keys
            found = bound.watchers[queue] = Watcher(keys, bound.shell.blocking, timeout=self.timeout)
        return found

    def bind(self) -> "_Bound":
        """Give what belongs to this loop and process; make it at first use. Raises `BullpenError` on another of either."""
        bound = self._bound
        loop = asyncio.get_running_loop()
        if bound is not None:
            if bound.loop is loop and bound.pid == os.getpid():
                return bound
            raise BullpenError(_BEFORE_FORK if bound.pid != os.getpid() else _OTHER_LOOP)
        routes = self._store.routes()
        sender = Sender(self._store.prefixes(routes), self._middleware, self._mint)
        self._bound = bound = _Bound(loop, self._store.shell(routes), sender)
        return bound

    async def _add(self, queue: Enqueuer, request: Request) -> tuple[str, str]:
        """Add one job; give queue and id. Most take one operation, without the steps around it."""
        now_ms = self._store.now_ms()
        deadline = time.monotonic() + self.timeout
        operation = queue.prepare_one(request, now_ms)
        if operation is not None:
            try:
                answer = await self.bind().shell.perform(operation, timeout=self.timeout)
            except EnqueueUncertain as error:
                answer = await self.run(queue.confirm(operation.jobs, error), timeout=deadline - time.monotonic())
            if not isinstance(answer, Refusal):
                return queue.keys.queue, answer[0]
        ids = await self.run(queue.enqueue((request,), now_ms), timeout=deadline - time.monotonic())
        return queue.keys.queue, ids[0]

    def _mint(self) -> str:
        return uuid7.mint(self._store.now_ms())


class _Bound:
    """What a client has while it is in use: of one loop and one process."""

    __slots__ = ("loop", "pid", "sender", "shell", "watchers")

    def __init__(self, loop: asyncio.AbstractEventLoop, shell: Shell, sender: Sender) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self.shell = shell
        self.sender = sender
        self.watchers: dict[str, Watcher] = {}


_OTHER_LOOP: Final = (
    "this Client belongs to another event loop: make one for each loop, or close it there first (async with Client() …); "
    "from a thread without a loop use a SyncClient"
)
_BEFORE_FORK: Final = (
    "this Client was in use before this process was forked: its connection is the parent's. Make one after the fork, or "
    "use a SyncClient, which may be shared"
)
