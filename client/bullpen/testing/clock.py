"""The harness's clock, and how handlers come to follow it.

Time stands still unless somebody moves it: `advance`, a `run` that goes to its job's end, code that waits for a result, or a
handler that sleeps. What moves it goes from moment to moment, so that nothing is passed over.

A handler runs on the test's own event loop, beside the test's own code. `Diversion` makes the timers of the first follow the
harness's clock and leaves those of the second alone: while an attempt runs, the loop's `time`, `call_at`, `call_later` and
`create_task` are covered by ours on that one loop object, and ours look whether the caller is in an attempt (a context
variable, which the tasks that a handler starts inherit). No module is patched, and no other loop. Tried with the loops of
asyncio in Python 3.11 to 3.13, and with uvloop.
"""

import asyncio
import contextlib
import heapq
import inspect
import itertools
import math
from collections.abc import Callable, Generator
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from bullpen.handling.contexts import CancelReason, CancelScope

_OURS: Final = "_bullpen_diversion"
_COVERED: Final = ("time", "call_at", "call_later", "create_task")


class VirtualTimer(asyncio.TimerHandle):
    """A timer of the harness's clock, as asyncio's own to who set it."""

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._fire = lambda: None if self.cancelled() else callback(*args)
        self._in = context
        self._on = loop

    def cancel(self) -> None:
        """Do not fire."""
        asyncio.Handle.cancel(self)  # a timer's own would tell the loop, which does not know it

    def fire(self) -> None:
        """Call back in the loop's next turn, unless it is cancelled until then."""
        self._on.call_soon(self._fire, context=self._in)


class VirtualClock:
    """Milliseconds since 1970, moved by hand, and the timers that wait for them."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self._began_ms = now_ms
        self._timers: list[tuple[int, int, VirtualTimer]] = []
        self._order = itertools.count()

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self.now_ms / 1_000, UTC)

    def time(self) -> float:
        """Seconds since the clock was made: what takes the place of the loop's time."""
        return (self.now_ms - self._began_ms) / 1_000

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        loop: asyncio.AbstractEventLoop,
        context: Context | None = None,
    ) -> VirtualTimer:
        """Call back at `when`, in the seconds of `time`."""
        at_ms = self._began_ms + math.ceil(round(when * 1_000, 3))
        timer = VirtualTimer(when, callback, args, loop, context)
        heapq.heappush(self._timers, (at_ms, next(self._order), timer))
        return timer

    def next_ms(self) -> int | None:
        """Give when the next timer fires."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def move_to(self, at_ms: int) -> bool:
        """Move on to that moment, never back; fire the timers that are due. Says whether there were any."""
        self.now_ms = max(self.now_ms, at_ms)
        fired = False
        while (due_ms := self.next_ms()) is not None and due_ms <= self.now_ms:
            heapq.heappop(self._timers)[2].fire()
            fired = True
        return fired


class Running:
    """One attempt while it runs, as far as time concerns it."""

    def __init__(self, clock: VirtualClock, scope: CancelScope, deadline_ms: int, what: str) -> None:
        self.clock = clock
        self.scope = scope
        self.deadline_ms = deadline_ms
        self.what = what
        self.lock = asyncio.Lock()
        """Held by who drives the harness from within this attempt."""
        self.task: asyncio.Task[Any] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self._stirred: asyncio.Future[None] | None = None

    def stirring(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None]":
        """Give what is done at the next sign that the attempt goes on."""
        if self._stirred is None or self._stirred.done():
            self._stirred = loop.create_future()
        return self._stirred

    def stir(self) -> None:
        """Say that the attempt goes on."""
        if self._stirred is not None and not self._stirred.done():
            self._stirred.set_result(None)

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Count a task that the handler has started as part of the attempt."""
        self.tasks.add(task)
        task.add_done_callback(self._bury)
        self.stir()

    def _bury(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        self.stir()

    def pass_deadline(self) -> None:
        """Cancel the attempt if its time is over."""
        if self.clock.now_ms >= self.deadline_ms:
            self.scope.cancel(CancelReason.TIMEOUT)

    @property
    def sleeps(self) -> bool:
        """Whether the handler does nothing but sleep: of its one task that can be said for certain."""
        return not self.tasks and self.task is not None and _is_asleep(self.task)

    @property
    def dozes(self) -> bool:
        """Whether one of its tasks sleeps; the others may wait for that one, or for something outside."""
        return any(_is_asleep(task) for task in (self.task, *self.tasks) if task is not None)

    @property
    def place(self) -> str:
        """File and line where the handler waits."""
        return "" if self.task is None else _place(self.task)


RUNNING: ContextVar[Running | None] = ContextVar("bullpen.testing.running", default=None)
"""The attempt that the current code is part of."""


class Diversion:
    """Covers the timers of one loop; see the module."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._time = loop.time
        self._call_at = loop.call_at
        self._call_later = loop.call_later
        self._create_task = loop.create_task

    @classmethod
    @contextlib.contextmanager
    def on(cls, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Divert what attempts ask of this loop. Nested and overlapping uses share one diversion."""
        diversion = getattr(loop, _OURS, None) or cls(loop)
        diversion.begin()
        try:
            yield
        finally:
            diversion.end()

    def begin(self) -> None:
        """Cover the loop's methods, where nobody has yet."""
        self._users += 1
        if self._users == 1:
            setattr(self._loop, _OURS, self)
            for name in _COVERED:
                setattr(self._loop, name, getattr(self, name))

    def end(self) -> None:
        """Uncover them when nobody needs it any more."""
        self._users -= 1
        if not self._users:
            for name in (_OURS, *_COVERED):
                delattr(self._loop, name)

    def time(self) -> float:
        """Stands for the loop's."""
        running = RUNNING.get()
        return self._time() if running is None else running.clock.time()

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Stands for the loop's."""
        running = RUNNING.get()
        if running is None:
            return self._call_at(when, callback, *args, context=context)
        running.stir()
        return running.clock.call_at(when, callback, *args, loop=self._loop, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Stands for the loop's."""
        running = RUNNING.get()
        if running is None:
            return self._call_later(delay, callback, *args, context=context)
        return self.call_at(running.clock.time() + delay, callback, *args, context=context)

    def create_task(self, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        """Stands for the loop's."""
        running = RUNNING.get()
        task: asyncio.Task[Any] = self._create_task(coroutine, **options)
        if running is not None:
            running.adopt(task)
        return task


def _innermost(task: "asyncio.Task[Any]") -> Any:
    awaited: Any = task.get_coro()
    while inspect.iscoroutine(awaited) and inspect.iscoroutine(awaited.cr_await):
        awaited = awaited.cr_await
    return awaited


def _is_asleep(task: "asyncio.Task[Any]") -> bool:
    innermost = _innermost(task)
    if task.done() or not inspect.iscoroutine(innermost) or innermost.cr_code is not asyncio.sleep.__code__:
        return False
    return not inspect.isgenerator(innermost.cr_await)  # sleep(0) only lets others go first


def _place(task: "asyncio.Task[Any]") -> str:
    """Where the handler's own code waits: the innermost frame outside of asyncio, else the innermost."""
    awaited: Any = task.get_coro()
    places = []
    while inspect.iscoroutine(awaited) and awaited.cr_frame is not None:
        places.append((awaited.cr_frame.f_code.co_filename, awaited.cr_frame.f_lineno))
        awaited = awaited.cr_await
    library = inspect.getfile(asyncio).rpartition("asyncio")[0] + "asyncio"
    of_theirs = [place for place in places if not place[0].startswith(library)] or places
    return "" if not of_theirs else f"{of_theirs[-1][0]}:{of_theirs[-1][1]}"
