"""What a handler logs is bounded in Redis."""

from __future__ import annotations

import asyncio

from bullpen import Client, Context, Handlers
from bullpen.queue import records
from tests.support.does import working


async def test_the_latest_lines_of_a_job_are_kept(bullpen_redis):
    handlers = Handlers("q")

    @handlers.handler("chatter")
    async def chatter(ctx: Context[None], lines: int) -> None:
        for number in range(lines):
            ctx.log(f"line {number}")
            if number % 500 == 499:  # what comes at once is bounded too
                await asyncio.sleep(0.1)

    lines = records.MOST_LOG_LINES + 100
    async with working(bullpen_redis, handlers), Client(bullpen_redis) as client:
        job = await client.enqueue(chatter.job(lines))
        await job.result(timeout="20s")
        kept = await job.logs()
    assert len(kept) == records.MOST_LOG_LINES
    assert f"line {lines - 1}" in kept[-1]
