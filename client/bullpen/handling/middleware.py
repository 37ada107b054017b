"""The shape of middleware around every attempt; `bullpen.clients.middleware` has that around every enqueue."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bullpen.handling.contexts import BaseContext

RunNext = Callable[[], Awaitable[object]]
"""Runs the rest: the next middleware, at last the handler. Gives its result, raises what it raises, signals too."""

RunMiddleware = Callable[["BaseContext[Any]", RunNext], Awaitable[object]]
"""``async def around(ctx, call): ... return await call()``, around every attempt, whatever the handler's executor.

What it returns becomes the result, written by the handler's result type. It runs on the worker's event loop, before the
payload is read, so that it sees a payload that does not fit as well.
"""
