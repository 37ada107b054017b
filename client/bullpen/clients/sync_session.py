"""What a blocking client, its queues and its handles share.

Model: no thread, no loop. A call borrows a connection from redis-py's pool and gives it back; who waits for events holds
one meanwhile. Any number of threads may share a session. It holds no lock: what it remembers are values that are swapped
whole, so nothing can be inherited locked by a fork, and a forked process makes pools of its own at its first call.
"""

import asyncio
import contextlib
import os
import time
import warnings
from collections.abc import Sequence
from typing import Final, TypeVar

from bullpen import uuid7
from bullpen.clients.enqueueing import Enqueuer
from bullpen.clients.events import LOOK_EVERY_SECONDS, StreamEvent
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.clients.routing import Routes, SyncRoutingShell
from bullpen.clients.sending import Placed, Sender
from bullpen.clients.session import Store
from bullpen.clients.shell import SyncShell, time_left
from bullpen.errors import BlockingCallWarning, EnqueueUncertain, RedisUnavailable
from bullpen.jobs import JobSpec
from bullpen.options import EnqueueOptions
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import Refusal
from bullpen.queue.operations.base import Operation, Steps
from bullpen.queue.requests import Request
from bullpen.redis.settings import RedisSettings

R = TypeVar("R")
T = TypeVar("T")

_PAUSE_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 1.0  # how late a read of events that waits may come back; an idle Redis is up to 0.1 s late


class SyncStore(Store):
    """Where a blocking client's jobs lie, and by which clock."""

    def sync_shell(self, routes: Routes | None) -> SyncShell:
        """Make a shell."""
        from bullpen.redis.blocking import BlockingShell  # noqa: PLC0415 - redis-py takes 300 ms to import

        if routes is not None:
            return SyncRoutingShell(routes, lambda settings: BlockingShell(settings, timeout=self.timeout))
        return BlockingShell(self.settings, timeout=self.timeout)


class SyncSession:
    """See the module."""

    longest_read: float = LOOK_EVERY_SECONDS
    """How many seconds one read of events waits at most: a connection that died without a word is noticed after it."""

    def __init__(self, store: SyncStore, middleware: Sequence[EnqueueMiddleware]) -> None:
        self._store = store
        self._middleware = tuple(middleware)
        self._bound: tuple[int, SyncShell, Sender] | None = None
        self._warned = False

    @property
    def settings(self) -> RedisSettings:
        """Where Redis is."""
        return self._store.settings

    @property
    def timeout(self) -> float:
        """How many seconds a call may take."""
        return self._store.timeout

    def close(self) -> None:
        """Close the connections. Idempotent."""
        bound, self._bound = self._bound, None
        if bound is not None and bound[0] == os.getpid():
            bound[1].close()

    def enqueue(self, spec: JobSpec[R], queue: str | None, options: EnqueueOptions) -> Placed[R]:
        """Add one job, to this queue or its own."""
        sender = self._sender
        if sender.has_middleware:
            with sender.through_middleware((spec,)) as changed:
                (spec,) = changed
                added = self._add(*sender.request(spec, queue, options))
        else:
            added = self._add(*sender.request(spec, queue, options))
        return *added, spec.read_result

    def enqueue_many(self, specs: Sequence[JobSpec[R]], queue: str | None) -> list[Placed[R]]:
        """Add many jobs, to this queue or their own."""
        sender = self._sender
        with sender.through_middleware(specs) as changed:
            groups = sender.by_queue(changed, queue)
            placed = self.run(sender.add_all(groups, self._store.now_ms()))
        return [(*where, spec.read_result) for spec, where in zip(changed, placed, strict=True)]

    def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """Run steps, within the client's timeout or what is left of it; see `bullpen.clients.shell.run`."""
        self._warn_on_a_loop()
        limit = left = self.timeout if timeout is None else timeout
        shell = self.bind()[1]
        try:
            operation = next(steps)
            while True:
                began = time.monotonic()
                try:
                    result = shell.perform(operation, timeout=time_left(left))
                except Exception as error:  # noqa: BLE001 - what the steps do not take is raised by them
                    left -= time.monotonic() - began
                    operation = steps.throw(error)
                else:
                    left = limit if operation.settles(result) else left - (time.monotonic() - began)
                    operation = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def perform(self, operation: Operation[T]) -> T:
        """Do one operation, within the client's timeout."""
        self._warn_on_a_loop()
        return self.bind()[1].perform(operation, timeout=self.timeout)

    def wait(
        self, operation: Operation[tuple[list[StreamEvent], str]], after: str, seconds: float
    ) -> tuple[list[StreamEvent], str]:
        """Do an operation that waits for up to `seconds`; when Redis is away, pause, and give that there was no news.

        A Redis that answers nothing is given up `_GRACE_SECONDS` after that at the latest.
        """
        self._warn_on_a_loop()
        waiting = min(seconds, self.longest_read)
        try:
            timeout = min(self.timeout, seconds - waiting + _GRACE_SECONDS)
            return self.bind()[1].perform(operation, timeout=timeout, waiting=waiting)
        except RedisUnavailable:
            time.sleep(min(_PAUSE_SECONDS, seconds))
            return [], after

    def keys(self, queue: str) -> QueueKeys:
        """Give the keys of a queue."""
        return self._sender.queue(queue).keys

    def monotonic(self) -> float:
        """Give seconds that never go back, by which waits are counted."""
        return time.monotonic()

    def now_ms(self) -> int:
        """Give the time in ms since 1970."""
        return self._store.now_ms()

    def bind(self) -> tuple[int, SyncShell, Sender]:
        """Give what belongs to this process; make it at first use, and anew after a fork."""
        bound = self._bound
        pid = os.getpid()
        if bound is not None and bound[0] == pid:
            return bound
        routes = self._store.routes()
        prefixes = self._store.prefixes(routes)
        sender = bound[2] if bound is not None else Sender(prefixes, self._middleware, self._mint)
        # Two threads may both make one; one of the two is used, the other holds no connection yet.
        self._bound = bound = (pid, self._store.sync_shell(routes), sender)
        return bound

    @property
    def _sender(self) -> Sender:
        return self.bind()[2]

    def _add(self, queue: Enqueuer, request: Request) -> tuple[str, str]:
        """Add one job; give queue and id. Most take one operation, without the steps around it."""
        now_ms = self._store.now_ms()
        deadline = time.monotonic() + self.timeout
        operation = queue.prepare_one(request, now_ms)
        if operation is not None:
            try:
                answer = self.perform(operation)
            except EnqueueUncertain as error:
                answer = self.run(queue.confirm(operation.jobs, error), timeout=deadline - time.monotonic())
            if not isinstance(answer, Refusal):
                return queue.keys.queue, answer[0]
        ids = self.run(queue.enqueue((request,), now_ms), timeout=deadline - time.monotonic())
        return queue.keys.queue, ids[0]

    def _mint(self) -> str:
        return uuid7.mint(self._store.now_ms())

    def _warn_on_a_loop(self) -> None:
        if self._warned:
            return
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self._warned = True
            warnings.warn(
                "a SyncClient blocks the event loop that runs on this thread: use a Client here",
                BlockingCallWarning,
                stacklevel=4,
            )
