"""What a handler logs is bounded in Redis."""

from __future__ import annotations

import functools

from bullpen import Client, Context, Handlers
from bullpen.queue import records
from tests.support.does import working
from tests.support.waiting import eventually


async def test_the_latest_lines_of_a_job_are_kept(bullpen_redis):
    handlers = Handlers("q")

    @handlers.handler("chatter")
    async def chatter(ctx: Context[None], lines: int) -> None:
        for number in range(lines):
            ctx.log(f"line {number}")
            if number % 500 == 499:  # what comes at once is bounded too: go on when this has come
                await eventually(functools.partial(has_come, ctx.job.id, f"line {number}"))

    async def has_come(job_id: str, line: str) -> bool:
        return (await client.queue("q").job(job_id).logs())[-1:] == [line]

    lines = records.MOST_LOG_LINES + 100
    async with working(bullpen_redis, handlers), Client(bullpen_redis) as client:
        job = await client.enqueue(chatter.job(lines))
        await job.result(timeout="60s")
        kept = await job.logs()
    assert len(kept) == records.MOST_LOG_LINES
    assert f"line {lines - 1}" in kept[-1]
