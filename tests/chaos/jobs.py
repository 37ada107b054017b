"""Handlers for the chaos tests. What each did is written to Redis lists, by a connection that no lock depends on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from bullpen import Context, Handlers, RateLimited, SyncContext

handlers = Handlers("chaos")


def note(what: str, job_id: str) -> None:
    """Append ``<what> <job id> <ms>`` to the log of the test; a Redis that restarts meanwhile fails no handler."""
    entry = f"{what} {job_id} {time.time_ns() // 1_000_000}"
    patience = Retry(ConstantBackoff(0.05), 200)
    passing = [redis.ConnectionError, redis.exceptions.BusyLoadingError]
    with redis.Redis.from_url(os.environ["CHAOS_REDIS"], retry=patience, retry_on_error=passing) as client:
        client.rpush("chaos:log", entry)


@handlers.handler("sleep")
async def sleep(ctx: Context, seconds: float) -> str:
    """Sleep, and note start and end."""
    note("start", ctx.job.id)
    await asyncio.sleep(seconds)
    note("end", ctx.job.id)
    return "slept"


@handlers.handler("sleep_at_first")
async def sleep_at_first(ctx: Context, seconds: float) -> str:
    """Sleep at the first start, and at none after it; note start and end."""
    note("start", ctx.job.id)
    await asyncio.sleep(seconds if ctx.fence == 1 else 0)
    note("end", ctx.job.id)
    return "slept"


@handlers.handler("quiet")
async def quiet(seconds: float) -> None:
    """Sleep, and note nothing."""
    await asyncio.sleep(seconds)


@handlers.handler("limit")
async def limit(ctx: Context, seconds: int) -> str:
    """Meet somebody else's limit at the first start."""
    note("limit" if ctx.fence == 1 else "start", ctx.job.id)
    if ctx.fence == 1:
        raise RateLimited(f"{seconds}s")
    return "through"


@handlers.handler("hold_gil")
async def hold_gil(ctx: Context, seconds: float) -> str:
    """Hold the GIL by a catastrophic regular expression, for at least so long."""
    note("start", ctx.job.id)
    end = time.monotonic() + seconds
    length = 18
    while time.monotonic() < end:
        began = time.monotonic()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.monotonic() - began < seconds / 4:
            length += 1
    note("end", ctx.job.id)
    return "held"


@handlers.handler("hold_for_ever")
async def hold_for_ever(ctx: Context) -> None:
    """Never give the GIL back."""
    note("start", ctx.job.id)
    re.match(r"(a+)+$", "a" * 60 + "b")


@handlers.handler("stubborn")
async def stubborn(ctx: Context) -> None:
    """Go on whatever is said."""
    note("start", ctx.job.id)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("refused", ctx.job.id)


@handlers.handler("poison")
async def poison(ctx: Context) -> None:
    """Kill the process that runs it."""
    note("start", ctx.job.id)
    os.kill(os.getpid(), signal.SIGKILL)


@handlers.handler("poison_all")
async def poison_all(ctx: Context) -> None:
    """Kill the whole worker."""
    note("start", ctx.job.id)
    os.kill(os.getppid(), signal.SIGKILL)
    await asyncio.sleep(10)


@handlers.handler("thread")
def thread(ctx: SyncContext, seconds: float) -> str:
    """Block a thread."""
    note("start", ctx.job.id)
    time.sleep(seconds)
    note("end", ctx.job.id)
    return "slept"
