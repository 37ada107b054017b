"""Jobs that may have killed a worker: each is handed over, with its lock, to run in a process of its own."""

import asyncio

from bullpen import Handlers
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually

TOKEN = "abcdefabcdefabcd:000000001"


async def test_a_suspect_is_handed_over_with_its_lock(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("suspect")
    async def suspect() -> str:
        return "alive"

    job_id = await room.add("suspect")
    await room.link.call("HSET", room.keys.job(job_id), "bullpen:suspect", "1")
    ends.takes_suspects = True
    async with room.engine(q, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: ends.suspects)
        (handed, token) = ends.suspects[0]
        assert handed == job_id
        await eventually(lambda: engine.busy == 0)
        assert not engine.table.views()
        assert await room.state(job_id) == "active"
        assert await room.link.call("GET", room.keys.lock(job_id)) == token.encode()
        other = await room.add("suspect")
        await room.becomes(other, "completed")  # under another token
    assert await room.state(job_id) == "active"
    alone = Ends()
    async with room.make(q, concurrency=1, hooks=alone) as solo:
        await solo.run_one(job_id, token)
    assert await room.state(job_id) == "completed"
    assert alone.outcomes() == ["completed"]


async def test_a_suspect_whose_id_is_no_text_is_handed_over_too(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("suspect")
    async def suspect() -> str:
        return "ran"

    job_id, key = b"\xff1", room.keys.base.encode() + b"\xff1"
    await room.link.call("HSET", key, "name", "suspect", "data", "{}", "opts", "{}", "bullpen:suspect", "1")
    await room.link.call("LPUSH", room.keys.wait, job_id)
    ends.takes_suspects = True
    async with room.engine(q, hooks=ends):
        await eventually(lambda: ends.suspects)
    handed, token = ends.suspects[0]
    assert await room.link.call("GET", key + b":lock") == token.encode()
    async with room.make(q, concurrency=1, hooks=ends, slots=1) as alone:
        await alone.run_one(handed, token)
    assert await room.link.call("ZSCORE", room.keys.completed, job_id) is not None


async def test_without_anybody_to_take_it_a_suspect_runs_here(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("suspect")
    async def suspect() -> None: ...

    job_id = await room.add("suspect")
    await room.link.call("HSET", room.keys.job(job_id), "bullpen:suspect", "1")
    async with room.engine(q, hooks=ends):
        await room.becomes(job_id, "completed")


async def test_a_solo_run_of_a_job_that_is_gone_returns(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("any")
    async def handle() -> None: ...

    async with room.make(q, concurrency=1, hooks=ends) as solo, asyncio.timeout(5):
        await solo.run_one("gone", TOKEN)


async def test_a_deferred_failure_fails_without_running_even_a_suspect(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("crasher", attempts=5)
    async def crasher() -> None:
        raise AssertionError

    job_id = await room.add("crasher")
    await room.link.call("HSET", room.keys.job(job_id), "defa", "quarantined: 3 crashes", "bullpen:suspect", "1")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"] == "quarantined: 3 crashes"
    assert not ends.suspects
