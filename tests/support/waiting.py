"""Waiting for a condition with a deadline, in place of sleeping and hoping."""

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

T = TypeVar("T")

LEAST_S = 30.0
"""No wait ends earlier: a machine may stand still for ten seconds, and who waits for what comes loses nothing by it.

So no wait says how soon something comes. A test that shows that nobody waits for a poll puts the poll off for ever.
"""


def patience() -> float:
    """How many times as long as on a quiet machine things may take now: as others are at work on it, beyond its processors."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def eventually(condition: Callable[[], T | Awaitable[T]], timeout: float = LEAST_S, *, every: float = 0.005) -> T:
    """Give the condition's first truthy value; an AssertionError that it raises counts as "not yet".

    Raises `AssertionError` with what was seen last when `timeout` seconds have passed, on a busy machine more (`patience`);
    never before `LEAST_S`.
    """
    deadline = _Deadline(timeout)
    while True:
        last: object
        try:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        deadline.check(last)
        await asyncio.sleep(every)


def eventually_sync(condition: Callable[[], T], timeout: float = LEAST_S, *, every: float = 0.005) -> T:
    """The same for tests without an event loop."""
    deadline = _Deadline(timeout)
    while True:
        last: object
        try:
            value = condition()
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        deadline.check(last)
        time.sleep(every)


async def never(condition: Callable[[], object], seconds: float, *, every: float = 0.005) -> None:
    """Look for so long, and fail where the condition holds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not condition()
        await asyncio.sleep(every)


class Stopwatch:
    """How long something took, without the time that the machine gave to others, or stood still for.

    For what has a timeout of its own, in this process, that is the promise. A thread looks at the clock all the while: how much
    later it gets to it than it asked for is what the rest of this process was kept waiting, too.
    """

    seconds = 0.0
    """When it is over."""

    _EVERY_S = 0.01

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._lost = 0.0
        self._thread = threading.Thread(target=self._look, name="stopwatch", daemon=True)
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        took = time.monotonic() - self._began
        self._over.set()
        self._thread.join()
        self.seconds = took - self._lost

    def _look(self) -> None:
        last = time.monotonic()
        while not self._over.wait(self._EVERY_S):
            now = time.monotonic()
            self._lost += max(0.0, now - last - 2 * self._EVERY_S)
            last = now


class _Deadline:
    """The end of a wait. One look more is granted after it, to who was held up between the last look and the clock."""

    def __init__(self, timeout: float) -> None:
        self._timeout = max(timeout, LEAST_S)
        self._began = time.monotonic()
        self._is_over = False

    def check(self, last: object) -> None:
        if self._is_over:
            raise AssertionError(f"not within {self._timeout:g} s; last: {last!r}")
        passed = time.monotonic() - self._began
        self._is_over = passed > self._timeout and passed > self._timeout * patience()
