"""The shapes of middleware: around every attempt in a worker, and around every enqueue of a client."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bullpen.handling.contexts import BaseContext
    from bullpen.jobs import JobSpec

RunNext = Callable[[], Awaitable[object]]
"""Runs the rest: the next middleware, at last the handler. Gives its result, raises what it raises, signals too."""

RunMiddleware = Callable[["BaseContext[Any]", RunNext], Awaitable[object]]
"""``async def around(ctx, call): ... return await call()``, around every attempt, whatever the handler's executor.

What it returns becomes the result, written by the handler's result type. It runs on the worker's event loop, before the
payload is read, so that it sees a payload that does not fit as well.
"""

EnqueueMiddleware = Callable[["JobSpec[object]"], AbstractContextManager["JobSpec[object]"]]
"""A plain context manager around every enqueue, of both clients alike: what it yields is sent, errors arrive in it."""
