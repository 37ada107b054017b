"""How a worker stops: what fits finishes, the rest goes back unspent, and nothing stays behind."""

import asyncio
import time

import pytest

from bullpen import Context, Handlers
from bullpen.handling.contexts import CancelReason
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually


def napping() -> Handlers[None]:
    q = Handlers("q")

    @q.handler("nap")
    async def nap() -> None:
        await asyncio.sleep(30)

    return q


async def test_stop_lets_what_fits_finish_and_gives_the_rest_back_unspent(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    reasons: list[CancelReason | None] = []

    @q.handler("nap")
    async def nap(ctx: Context[None], seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            reasons.append(ctx.cancelled)

    short, long = await room.add("nap", {"seconds": 0.2}), await room.add("nap", {"seconds": 30})
    urgent = await room.add("nap", {"seconds": 30}, {"priority": 4})
    async with room.make(q, concurrency=3, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 3)
        waiting = await room.add("nap", {"seconds": 0})
        began = time.monotonic()
        engine.stop(600)
        await running
        assert 0.5 < time.monotonic() - began < 15  # and not 30
    assert await room.state(short) == "completed"
    assert await room.counts() == {"completed": 1, "wait": 2, "prioritized": 1}
    assert await room.link.call("LRANGE", room.keys.wait, 0, -1) == [waiting.encode(), long.encode()]  # at the front
    for job_id in (long, urgent):
        fields = await room.fields(job_id)
        assert "atm" not in fields
        assert "stc" not in fields
    assert await room.locks() == 0
    assert await room.link.call("ZSCORE", room.keys.marker, "0") == b"0"
    assert sorted(ends.outcomes()) == ["completed", "released", "released"]
    assert reasons == [None, CancelReason.SHUTDOWN, CancelReason.SHUTDOWN]


async def test_a_second_stop_ends_at_once(room: Room, ends: Ends) -> None:
    await room.add("nap")
    async with room.make(napping(), concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 1)
        engine.stop(60_000)
        engine.stop(0)
        async with asyncio.timeout(15):
            await running
    assert await room.counts() == {"wait": 1}


async def test_a_handler_that_does_not_end_is_given_back_all_the_same(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    release = asyncio.Event()

    @q.handler("deaf")
    async def deaf() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    job_id = await room.add("deaf")
    async with room.make(q, concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 1)
        engine.stop(0)
        await eventually(lambda: ends.ends, 10)
        release.set()
        async with asyncio.timeout(15):
            await running
    assert await room.state(job_id) == "wait"
    assert "atm" not in await room.fields(job_id)
    assert await room.locks() == 0


async def test_a_cancelled_run_gives_back_too(room: Room, ends: Ends) -> None:
    await room.add("nap")
    async with room.make(napping(), concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert await room.counts() == {"wait": 1}
    assert await room.locks() == 0


async def test_stopping_at_any_moment_leaves_nothing_active(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("quick")
    async def quick() -> None: ...

    await room.add_many("quick", 1500)
    for round_ in range(15):
        async with room.make(q, concurrency=1 + round_ % 4, hooks=ends) as engine:
            running = asyncio.create_task(engine.run())
            before = len(ends.ends)
            await eventually(lambda before=before, more=round_: len(ends.ends) >= before + more * 3, every=0.0005)
            engine.stop(0 if round_ % 2 else 1000)
            await running
        counts = await room.counts()
        assert "active" not in counts
        assert await room.locks() == 0
    async with room.engine(q, hooks=ends, concurrency=10):
        await eventually(lambda: ends.outcomes().count("completed") == 1500, 20)
    assert set(ends.outcomes()) <= {"completed", "released"}


async def test_it_stops_although_redis_was_never_there(ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("any")
    async def handle() -> None: ...

    room = Room("redis://127.0.0.1:1")
    async with room.make(q, concurrency=1, hooks=ends) as engine, asyncio.timeout(10):
        running = asyncio.create_task(engine.run())
        await asyncio.wait([running], timeout=0.1)
        assert not running.done()
        engine.stop(0)
        await running


async def test_a_job_that_arrives_after_the_order_to_stop_goes_back(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("quick")
    async def quick() -> None: ...

    async with room.make(q, concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.table.last_fetch_ms)
        engine.hold()
        await eventually(lambda: not engine.table.fetching)
        job_id = await room.add("quick")
        await room.link.call("CLIENT", "PAUSE", 300)
        engine.release()
        await eventually(lambda: engine._lines[0].connection.backlog)  # the fetch is under way
        engine.stop(0)
        await running
    assert await room.state(job_id) == "wait"
    assert await room.locks() == 0
    assert set(ends.outcomes()) <= {"released"}  # none when the order overtook the fetch
