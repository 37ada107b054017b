"""Runs `def` handlers in threads of their own, so that they may block.

Model: `ThreadPool` belongs to one event loop; all its bookkeeping is done there, without a lock. Threads are started
when there is work and none is free, up to `size`, and wait for more afterwards. A call travels to a thread by a
`SimpleQueue`; results come back by a deque and at most one wake-up of the loop at a time, however many threads end at
once. `concurrent.futures` would cost more for each job, and would join stuck threads when the interpreter ends.

A thread is never injected with an exception: what it holds (a lock, a transaction) would be left half done. The handler
asks ``ctx.cancelled``. So a call that is cancelled goes on waiting: its slot stays taken until the thread ends, and
only then `asyncio.CancelledError` is raised. `close` gives up on threads that do not end; they are daemons and cannot
keep the process from exiting.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar, cast

T = TypeVar("T")

logger = logging.getLogger("bullpen.worker")


class _Returned(NamedTuple, Generic[T]):
    value: T


class _Raised(NamedTuple):
    error: BaseException


_Ended = _Returned[object] | _Raised
_Waiter = asyncio.Future[_Ended]


class _Call(NamedTuple):
    function: Callable[[], object]
    context: Context
    waiter: _Waiter


class ThreadPool:
    """Threads for blocking functions, for the event loop in which it is first used."""

    def __init__(self, size: int, *, name: str = "bullpen-handler") -> None:
        """Use up to `size` threads at once; they are called `name`-0, `name`-1 and so on."""
        self.size = size
        """The most threads there may be. Raised, it takes effect with the next call; threads that are there stay. More
        calls than that wait their turn; the engine, with a thread for each slot, never makes any wait."""
        self._name = name
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._waiters: set[_Waiter] = set()
        self._ended: deque[tuple[_Waiter, _Ended]] = deque()
        self._wake_is_due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def busy(self) -> int:
        """Calls that have not ended, those that still wait for a thread included."""
        return len(self._waiters)

    async def run(self, function: Callable[[], T]) -> T:
        """Call `function` in a thread, with a copy of the caller's context variables, and give what it returns.

        Raises what the function raises; `asyncio.CancelledError` when the caller was cancelled, but not before the
        function has ended; and `RuntimeError` after `close`, or when the system gives not even one thread.
        """
        if self._closed:
            msg = "the thread pool is closed: it runs no more handlers"
            raise RuntimeError(msg)
        loop = asyncio.get_running_loop()
        self._loop = loop
        waiter: _Waiter = loop.create_future()
        self._waiters.add(waiter)
        try:
            if len(self._threads) < min(len(self._waiters), self.size):
                self._start_thread()  # before there is a call: one whose caller was told that it failed must not run
            self._calls.put(_Call(function, copy_context(), waiter))
            ended = await self._end_of(waiter)
        finally:
            self._waiters.discard(waiter)
        if isinstance(ended, _Raised):
            try:
                raise ended.error
            finally:
                del ended, waiter  # the error's traceback holds this frame: without this, a cycle for each failed job
        return cast("T", ended.value)

    def close(self) -> None:
        """Run nothing more: free threads end, calls that have not ended raise `asyncio.CancelledError` at once."""
        self._closed = True
        for waiter in self._waiters:
            waiter.cancel()
        for _ in self._threads:
            self._calls.put(None)

    async def _end_of(self, waiter: _Waiter) -> _Ended:
        cancelled: asyncio.CancelledError | None = None
        while not waiter.done():
            try:
                await asyncio.shield(waiter) if cancelled is None else await asyncio.wait([waiter])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return waiter.result()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more
            if not self._threads:
                raise
            logger.warning("%d threads must do for now: %s", len(self._threads), error)
            return
        self._threads.append(thread)

    def _work(self) -> None:
        """Be a thread: take calls until told to end."""
        while (call := self._calls.get()) is not None:
            if call.waiter.cancelled():  # closed before it began
                continue
            ended: _Ended
            try:
                ended = _Returned(call.context.run(call.function))
            except BaseException as error:  # noqa: BLE001  signals and SystemExit are the caller's to judge as well
                ended = _Raised(error)
            self._ended.append((call.waiter, ended))
            del call, ended  # while it waits, a thread holds nothing of the job that was
            if not self._wake_is_due and self._loop is not None:
                self._wake_is_due = True
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._wake_is_due = False  # first: what ends from here on wakes the loop again
        while self._ended:
            waiter, ended = self._ended.popleft()
            if not waiter.done():
                waiter.set_result(ended)
