"""Many jobs completed by one script call: in Redis it is as if each had been completed by itself, one after the other."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bullpen import Handlers
from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import Reply, pack_command
from bullpen_worker.running.completions import Gathered
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Completion, FinishSettings, Templates
from tests.redis.worker.conftest import Ends, Room
from tests.support.keyspace import MINUTE, dump, neutral
from tests.support.waiting import eventually

NOW = int(time.time() * 1000)
ACTIVE = 6
TOKENS = [b"0123456789abcdef:%09x" % number for number in range(ACTIVE)]

Arrange = Callable[[Room], Awaitable[None]]
ARRANGED: dict[str, Arrange] = {}


def arranged(arrange: Arrange) -> Arrange:
    ARRANGED[arrange.__name__] = arrange
    return arrange


async def call(room: Room, *words: Any) -> Any:
    return await room.link.call(*words)


@arranged
async def jobs_that_wait(room: Room) -> None:
    for number in range(10):
        await room.add("work", job_id=f"w{number}", opts={"timestamp": NOW})


@arranged
async def nothing_more(room: Room) -> None:
    """The last to be completed says that the queue is drained."""


@arranged
async def jobs_with_priorities(room: Room) -> None:
    for number in range(4):
        await room.add("work", job_id=f"p{number}", opts={"priority": 4 - number, "timestamp": NOW})
    await room.add("work", job_id="w", opts={"timestamp": NOW})


@arranged
async def jobs_that_fall_due(room: Room) -> None:
    for number in range(3):
        await room.add("work", job_id=f"d{number}", opts={"delay": 1000, "timestamp": NOW - 5000 + number})
    await room.add("work", job_id="later", opts={"delay": 60_000, "timestamp": NOW})


@arranged
async def a_total_concurrency(room: Room) -> None:
    await jobs_that_wait(room)
    await call(room, "HSET", room.keys.meta, "concurrency", ACTIVE - 2)


@arranged
async def a_rate_limit(room: Room) -> None:
    await jobs_that_wait(room)
    await call(room, "HSET", room.keys.meta, "max", 3, "duration", MINUTE)


@arranged
async def a_paused_queue(room: Room) -> None:
    await jobs_that_wait(room)
    await call(room, "HSET", room.keys.meta, "paused", 1)


@arranged
async def few_events_kept(room: Room) -> None:
    await jobs_that_wait(room)
    await call(room, "HSET", room.keys.meta, "opts.maxLenEvents", 10)


@arranged
async def counts_of_another_minute(room: Room) -> None:
    await jobs_that_wait(room)
    await call(room, "HSET", room.keys.metrics_completed, "count", 7, "prevTS", NOW - 180_000, "prevCount", 2)


@arranged
async def jobs_that_cannot_be_completed(room: Room) -> None:
    await jobs_that_wait(room)
    keys = room.keys
    await call(room, "DEL", keys.job("a0"))
    await call(room, "DEL", keys.job("a1") + ":lock")
    await call(room, "SET", keys.job("a2") + ":lock", "somebody")
    await call(room, "SADD", keys.job("a3") + ":dependencies", "child")
    await call(room, "LREM", keys.active, 1, "a4")


@arranged
async def a_job_that_breaks_the_script(room: Room) -> None:
    await jobs_that_wait(room)
    await call(room, "SET", room.keys.job("a2") + ":dependencies", "of the wrong type")


@arranged
async def children_of_a_parent_elsewhere(room: Room) -> None:
    await jobs_that_wait(room)
    parents = QueueKeys(room.keys.prefix, f"{room.keys.queue}-parents")
    parent = parents.job("mother")
    await call(room, "HSET", parent, "name", "mother", "priority", 0, "delay", 0)
    await call(room, "ZADD", f"{parents.base}waiting-children", NOW, "mother")
    for child in ("a1", "a4"):
        await call(room, "SADD", f"{parent}:dependencies", room.keys.job(child))
        relation = json.dumps({"id": "mother", "queueKey": parents.base[:-1]})
        await call(room, "HSET", room.keys.job(child), "parentKey", parent, "parent", relation)


@arranged
async def a_duplicate_that_comes_next(room: Room) -> None:
    base = room.keys.base
    await call(room, "HSET", room.keys.job("a1"), "deid", "same")
    await call(room, "SET", f"{base}de:same", "a1")
    opts = {"attempts": 1, "de": {"id": "same", "keepLastIfActive": True}}
    await call(room, "HSET", f"{base}dn:same", "name", "work", "data", "{}", "opts", json.dumps(opts), "jid", "next")


async def prepare(room: Room, arrange: Arrange) -> None:
    """Have `ACTIVE` jobs active, each locked by a token of its own, and the rest arranged."""
    await room.link.load([lua.bullmq("moveToFinished-14"), lua.bullmq("moveToActive-11"), lua.complete_many()])
    pack = templates(room)
    for number, token in enumerate(TOKENS):
        await room.add("work", job_id=f"a{number}", opts={"timestamp": NOW})
        found = await room.link.send(pack.fetch(token, NOW))
        assert isinstance(found, list)
    await arrange(room)


def templates(room: Room) -> Templates:
    return Templates(room.keys, worker_name="w", lock_ms=30_000, metrics_points=100)


def completions(pack: Templates, keep: dict[str, int]) -> list[Completion]:
    usual, _ = pack.finish_options(FinishSettings(3, keep, {"count": -1}))
    other, _ = pack.finish_options(FinishSettings(1, {"count": -1}, {"count": -1}))
    return [
        Completion(b"a%d" % number, token, b'{"number": %d}' % number, other if number == 3 else usual)
        for number, token in enumerate(TOKENS)
    ]


@pytest.mark.parametrize("keep", [{"count": 0}, {"count": 2}, {"count": -1}, {"age": 60, "count": 3}], ids=str)
@pytest.mark.parametrize("arrange", ARRANGED.values(), ids=ARRANGED)
async def test_it_is_as_if_each_had_been_completed_by_itself(
    bullpen_redis: str, arrange: Arrange, keep: dict[str, int]
) -> None:
    single, many = Room(bullpen_redis, "single"), Room(bullpen_redis, "together")
    async with single.link, many.link:
        for room in (single, many):
            await prepare(room, arrange)

        pack = templates(single)
        one_by_one: list[Reply] = []
        for job_id, token, value, options in completions(pack, keep):
            packed = pack.completed(job_id, token, NOW, value, options, fetch=True)
            one_by_one += await single.link.send_many(packed, 1)
        pack = templates(many)
        together = await many.link.send(pack.complete_many(completions(pack, keep), NOW))

        assert neutral(together, "together") == neutral(one_by_one, "single")
        assert neutral(await dump(many.link, many.keys), "together") == neutral(
            await dump(single.link, single.keys), "single"
        )


async def test_an_error_is_that_of_one_job_and_says_what_it_was(room: Room) -> None:
    await prepare(room, a_job_that_breaks_the_script)
    pack = templates(room)
    replies = await room.link.send(pack.complete_many(completions(pack, {"count": -1}), NOW))
    assert isinstance(replies, list)
    broken = replies.pop(2)
    assert isinstance(broken, ReplyError)
    assert broken.code == "WRONGTYPE"
    assert [reply[1] for reply in replies] == [b"w0", b"w1", b"w2", b"w3", b"w4"]  # type: ignore[index]
    assert await room.state("a2") == "active"


async def test_jobs_that_end_together_are_completed_by_one_call(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("work")
    async def work() -> None:
        """Do nothing."""

    await room.add_many("work", 400)
    await call(room, "CONFIG", "RESETSTAT")
    async with room.engine(q, hooks=ends, concurrency=20):
        await room.idle(ends, 400)
    assert ends.outcomes() == ["completed"] * 400
    assert await room.counts() == {"completed": 400}
    assert await room.locks() == 0
    text = (await call(room, "INFO", "commandstats")).decode()
    (line,) = (line for line in text.splitlines() if line.startswith("cmdstat_evalsha:"))
    assert int(line.partition("calls=")[2].partition(",")[0]) < 200


async def test_a_lost_lock_among_many_costs_no_other_job_anything(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("work")
    async def work() -> None:
        """Do nothing."""

    @q.handler("rob")
    async def rob() -> None:
        for number in range(0, 40, 8):  # of those that are locked by now, the locks are somebody else's
            await call(room, "SET", room.keys.job(f"j{number}") + ":lock", "thief", "XX")

    for number in range(40):
        await room.add("rob" if number == 3 else "work", job_id=f"j{number}")
    async with room.engine(q, hooks=ends, concurrency=10):
        await room.idle(ends, 40)
    assert set(ends.outcomes()) <= {"completed", "lock_lost"}
    for end in ends.ends:
        assert await room.state(end.job_id) == ("completed" if end.outcome == "completed" else "active")


async def test_scripts_that_were_flushed_are_loaded_again(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("work")
    async def work(number: int) -> None:
        if number == 50:
            await call(room, "SCRIPT", "FLUSH")

    for number in range(200):
        await room.add("work", {"number": number})
    async with room.engine(q, hooks=ends, concurrency=20):
        await room.idle(ends, 200)

        async def all_done() -> bool:
            return (await room.counts()) == {"completed": 200}

        await eventually(all_done)
    assert ends.outcomes() == ["completed"] * 200


async def test_a_server_that_takes_no_writes_any_more_is_left(room: Room) -> None:
    """An error inside of the answer that says so counts as one that is the answer."""
    await prepare(room, jobs_that_wait)
    line, pack = Line(room.link), templates(room)
    connection = await line.ready()
    gathered = Gathered(line, lambda: pack)
    other = Room(room.url)
    async with other.link:
        await call(other, "REPLICAOF", "127.0.0.1", 1)
        try:
            sent = [gathered.send(connection, each) for each in completions(pack, {"count": -1})]
            found = await asyncio.gather(*sent, return_exceptions=True)
        finally:
            await call(other, "REPLICAOF", "NO", "ONE")
    assert all(isinstance(each, ReplyError) and each.code == "READONLY" for each in found), found
    assert connection.lost is not None


async def test_what_cannot_be_sent_is_lost_for_each(room: Room) -> None:
    line, pack = Line(room.link), templates(room)
    connection = await line.ready()
    gathered = Gathered(line, lambda: pack)
    sent = [gathered.send(connection, each) for each in completions(pack, {"count": -1})]
    connection.abort("gone")
    found = await asyncio.gather(*sent, return_exceptions=True)
    assert all(isinstance(each, ConnectionLost) and not each.sent for each in found), found


async def test_an_answer_that_does_not_come_is_lost_for_each(room: Room) -> None:
    await prepare(room, jobs_that_wait)
    line, pack = Line(room.link), templates(room)
    connection = await line.ready()
    gathered = Gathered(line, lambda: pack)
    paused = connection.call(pack_command("CLIENT", "PAUSE", 100))
    sent = [gathered.send(connection, each) for each in completions(pack, {"count": -1})]
    sent[0].cancel()
    await paused
    connection.abort("gone")
    found = await asyncio.gather(*sent[1:], return_exceptions=True)
    assert all(isinstance(each, ConnectionLost) and each.sent for each in found), found
