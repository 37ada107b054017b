"""A Redis that is far away: what a late answer is worth."""

import asyncio
import time

from bullpen import Context, Handlers
from bullpen.redis.settings import RedisSettings
from tests.redis.worker.conftest import Ends, Room
from tests.support.slow import Slow
from tests.support.waiting import eventually


async def test_a_lock_is_as_old_as_the_call_that_set_it(room: Room, ends: Ends, bullpen_redis: str) -> None:
    """Not as young as the answer: the lock may have run out on the way."""
    q = Handlers("q")
    end = asyncio.Event()

    @q.handler("work")
    async def work(ctx: Context[None]) -> None:
        await end.wait()

    between = Slow(bullpen_redis)
    await between.start()
    try:
        async with room.engine(q, hooks=ends, settings=RedisSettings.from_url(between.url)) as engine:
            await eventually(lambda: engine.table.last_fetch_ms)
            between.delay_s = 0.3
            await room.add("work")
            await eventually(engine.table.views)
            [view] = engine.table.views()
            assert time.monotonic_ns() // 1_000_000 - view.started_ms >= 590
            between.delay_s = 0.0
            end.set()
            await room.idle(ends, 1)
    finally:
        await between.stop()
    assert ends.outcomes() == ["completed"]
