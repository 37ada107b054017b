"""Redis goes away in the middle of things: nothing is lost, nothing runs twice at once, nothing stays behind."""

import asyncio
import dataclasses
import random
from collections import Counter

import pytest

from bullpen import Backoff, Handlers, Snooze, embedded
from bullpen.queue.policy import BUILT_IN, Recovery
from bullpen.redis.settings import RedisSettings
from tests.redis.worker.conftest import Ends, Room
from tests.support.proxy import proxy
from tests.support.waiting import eventually


class Ledger:
    """Counts the runs of each job, and how many run at once."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()
        self.running: Counter[int] = Counter()
        self.overlaps = 0

    async def run(self, number: int, seconds: float) -> None:
        self.runs[number] += 1
        self.running[number] += 1
        self.overlaps += self.running[number] > 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running[number] -= 1


async def test_replies_lost_now_and_then_lose_no_job_and_repeat_none(
    room: Room, ends: Ends, bullpen_redis: str
) -> None:
    q = Handlers("q")
    ledger = Ledger()
    chance = random.Random(7)

    @q.handler("work")
    async def work(number: int) -> int:
        await ledger.run(number, chance.random() * 0.01)
        return number

    jobs = 600
    for number in range(jobs):
        await room.add("work", {"number": number}, {"removeOnComplete": False})
    async with proxy(bullpen_redis) as between:
        settings = RedisSettings.from_url(between.url)
        async with room.engine(q, hooks=ends, concurrency=8, settings=settings) as engine:
            done = 0
            while done < jobs:
                target = min(jobs, done + 40 + chance.randrange(40))
                await eventually(lambda target=target: len(ledger.runs) >= target, 20)
                between.lose_replies = True
                done = len(ledger.runs)
                await asyncio.sleep(0.01)
                between.cut()
                between.lose_replies = False
                if target == jobs:
                    break

            async def all_done() -> bool:
                return (await room.counts()) == {"completed": jobs}

            await eventually(all_done, 20)
            found = engine._orphans.found
    assert set(ledger.runs) == set(range(jobs))
    assert ledger.overlaps == 0
    assert set(ledger.runs.values()) == {1}, [n for n, c in ledger.runs.items() if c > 1]
    assert found  # or nothing of this was tried
    assert await room.locks() == 0
    for number in range(1, jobs + 1, 37):
        fields = await room.fields(str(number))
        assert fields["atm"] == "1"
        assert "stc" not in fields


@pytest.mark.parametrize("way", ["complete", "retry", "delayed-retry", "snooze", "fail"])
async def test_an_ack_whose_reply_was_lost_counts_once(room: Room, ends: Ends, bullpen_redis: str, way: str) -> None:
    q = Handlers("q")
    go = asyncio.Event()
    backoff = Backoff.immediate() if way == "retry" else Backoff.fixed("1h")

    @q.handler("work", attempts=1 if way == "fail" else 2, backoff=backoff)
    async def work() -> None:
        if go.is_set():
            return
        await go.wait()
        if way == "snooze":
            raise Snooze("1h")
        if way != "complete":
            raise ValueError(way)

    job_id = await room.add("work", opts={"removeOnComplete": False})
    async with proxy(bullpen_redis) as between:
        settings = RedisSettings.from_url(between.url)
        async with room.engine(q, hooks=ends, concurrency=1, settings=settings) as engine:
            await eventually(lambda: engine.busy)
            between.lose_replies = True
            go.set()
            state = {"complete": "completed", "retry": "wait", "fail": "failed"}.get(way, "delayed")

            async def applied() -> bool:
                return (await room.state(job_id) in {state, "active"} and way != "retry") or await room.state(
                    job_id
                ) in {"wait", "active"}

            await eventually(applied)
            await asyncio.sleep(0.05)
            between.lose_replies = False
            between.cut()
            if way == "retry":
                state = "completed"
            fields = await room.becomes(job_id, state)
            await eventually(lambda: engine.busy == 0)
    expected = {"complete": "1", "retry": "2", "delayed-retry": "1", "snooze": "0", "fail": "1"}[way]
    assert fields.get("atm", "0") == expected
    assert "lock_lost" not in ends.outcomes()
    assert await room.locks() == 0
    if way == "snooze":
        assert fields["bullpen:snoozes"] == "1"


async def test_an_ack_waits_for_redis_and_the_result_is_kept(ends: Ends, redis_server: embedded.Server) -> None:
    q = Handlers("q")
    go = asyncio.Event()

    @q.handler("work")
    async def work() -> str:
        await go.wait()
        return "kept"

    room = Room(redis_server.url)
    policy = dataclasses.replace(BUILT_IN, recovery=Recovery(lock_duration_ms=30_000))
    async with room.link:
        job_id = await room.add("work")
        waiting = await room.add("work")
        async with room.engine(q, hooks=ends, concurrency=1, policy=policy) as engine:
            await eventually(lambda: engine.busy)
            redis_server.freeze()
            go.set()
            await asyncio.sleep(0.1)
            assert not ends.ends
            redis_server.thaw()
            fields = await room.becomes(job_id, "completed")
            assert fields["returnvalue"] == '"kept"'
            await room.becomes(waiting, "completed")
    assert ends.outcomes() == ["completed", "completed"]


async def test_work_goes_on_after_a_restart(ends: Ends, redis_server: embedded.Server) -> None:
    q = Handlers("q")
    ledger = Ledger()

    @q.handler("work")
    async def work(number: int) -> None:
        await ledger.run(number, 0.01)

    room = Room(redis_server.url)
    async with room.link:
        await room.link.call("CONFIG", "SET", "appendonly", "yes")
        await room.link.call("CONFIG", "SET", "appendfsync", "always")
        for number in range(400):
            await room.add("work", {"number": number}, {"removeOnComplete": False})
        async with room.engine(q, hooks=ends, concurrency=4) as engine:
            await room.idle(ends, 100)
            redis_server.restart()
            before = len(ends.ends)
            await room.idle(ends, before + 20)

            async def all_done() -> bool:
                return (await room.counts()) == {"completed": 400}

            await eventually(all_done, 20)
            assert engine.busy == 0
    assert ledger.overlaps == 0
    assert set(ledger.runs) == set(range(400))


async def test_a_redis_that_refuses_us_for_a_while_is_waited_for(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    go = asyncio.Event()

    @q.handler("work")
    async def work() -> None:
        await go.wait()

    job_id = await room.add("work")
    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.busy)
        await room.link.call("ACL", "SETUSER", "default", "-evalsha")
        try:
            go.set()

            async def refused() -> bool:
                return b"evalsha" in str(await room.link.call("ACL", "LOG")).encode()

            await eventually(refused)
            assert not ends.ends
        finally:
            await room.link.call("ACL", "SETUSER", "default", "+evalsha")
            await room.link.call("ACL", "LOG", "RESET")
        await room.becomes(job_id, "completed")
        other = await room.add("work")
        await room.becomes(other, "completed")
    assert ends.outcomes() == ["completed", "completed"]
