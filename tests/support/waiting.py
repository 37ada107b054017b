"""Waiting for a condition with a deadline, in place of sleeping and hoping."""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def patience() -> float:
    """How many times as long as on a quiet machine things may take now: as others are at work on it, beyond its processors."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def eventually(condition: Callable[[], T | Awaitable[T]], timeout: float = 5.0, *, every: float = 0.005) -> T:
    """Give the condition's first truthy value; an AssertionError that it raises counts as "not yet".

    Raises `AssertionError` with what was seen last when `timeout` seconds have passed, on a busy machine more (`patience`).
    """
    began = time.monotonic()
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
        if time.monotonic() - began > timeout and time.monotonic() - began > timeout * patience():
            raise AssertionError(f"not within {timeout} s; last: {last!r}")
        await asyncio.sleep(every)


def eventually_sync(condition: Callable[[], T], timeout: float = 5.0, *, every: float = 0.005) -> T:
    """The same for tests without an event loop."""
    began = time.monotonic()
    while True:
        last: object
        try:
            value = condition()
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() - began > timeout and time.monotonic() - began > timeout * patience():
            raise AssertionError(f"not within {timeout} s; last: {last!r}")
        time.sleep(every)
