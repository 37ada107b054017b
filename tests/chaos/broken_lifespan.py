"""Handlers whose lifespan fails."""

from __future__ import annotations

import contextlib

from bullpen import Context, Handlers


@contextlib.asynccontextmanager
async def lifespan():
    """Fail."""
    raise ConnectionError("the database is not there")
    yield


handlers = Handlers("chaos", lifespan=lifespan)


@handlers.handler("sleep")
async def sleep(ctx: Context, seconds: float) -> None:
    """Never run."""
