"""Beats, and the orders that come back with them."""

from __future__ import annotations

import asyncio
import json

import pytest

from bullpen.queue.operations.jobs import CancelJob
from bullpen.redis.link import Link
from bullpen.redis.settings import RedisSettings
from bullpen_worker.keeping import heartbeat
from bullpen_worker.keeping.heartbeat import Entry
from bullpen_worker.keeping.keeper import Keeper
from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.orders import Orders, Source
from bullpen_worker.keeping.recovery import worker_name
from tests.support.keeping import PASSING, SELF, TERMS, Line, now_ms
from tests.support.waiting import eventually

ENTRY = Entry("pod", 1, 2, 10, 3, 1, "working", ["welcome"], "0.1")


class Obeyed:
    def __init__(self):
        self.retired = []
        self.policies = []
        self.cancelled = []
        self.errors = []
        self.limits = []

    def limited(self, delay_ms):
        self.limits.append(delay_ms)

    def retire(self, *, retiring):
        self.retired.append(retiring)

    def policy(self, rev, doc):
        self.policies.append((rev, doc))

    def cancel(self, run, reason):
        self.cancelled.append((run.view.job_id, reason))

    def beat_failed(self, error):
        self.errors.append(error)


@pytest.fixture
def obeyed():
    return Obeyed()


@pytest.fixture
async def ear(bullpen_redis):
    async with Link(RedisSettings.from_url(bullpen_redis), patient=True, blocking=True) as link:
        yield link


@pytest.fixture
def orders(line, ear, queue, table, obeyed):
    def runs():
        return [Run.of(table, view) for view in table.views()]

    return Orders(line, ear, queue.keys, name=SELF, source=Source(lambda: ENTRY, runs), hooks=obeyed, passing=PASSING)


async def server_ms(client):
    seconds, micros = await client.time()
    return seconds * 1000 + micros // 1000


async def test_a_beat_says_who_works(orders, client, queue):
    await orders.beat()
    entry = json.loads(await client.hget(queue.keys.workers, SELF))
    assert abs(entry.pop("at") - await server_ms(client)) < 30_000
    assert entry == {
        "v": 1, "host": "pod", "pid": 1, "started": 2, "slots": 10, "busy": 3, "processes": 1, "state": "working",
        "names": ["welcome"], "versions": {"bullpen": "0.1"}, "protocol": 1,
    }  # fmt: skip
    assert 0 < await client.pttl(queue.keys.workers) <= 3_600_000
    await orders.goodbye()
    assert await client.exists(queue.keys.workers) == 0


@pytest.mark.parametrize(
    ("value", "is_limit"), [("9007199254740991", True), ("9007199254740993", True), ("4", False), (None, False)]
)
async def test_a_limit_that_a_handler_met_is_told_and_counted_starts_are_not(
    orders, client, queue, obeyed, value, is_limit
):
    if value is not None:
        await client.set(queue.keys.limiter, value, px=60_000)
    await orders.beat()
    assert [0 < delay_ms <= 60_000 for delay_ms in obeyed.limits] == [True] * is_limit


async def test_entries_of_workers_that_are_no_more_are_removed(orders, client, queue):
    now = await server_ms(client)
    await client.hset(
        queue.keys.workers,
        mapping={"old": f'{{"v":1,"at":{now - 60_500}}}', "new": f'{{"v":1,"at":{now - 30_000}}}', "odd": "?"},
    )
    await orders.beat()
    assert {raw.decode() for raw in await client.hkeys(queue.keys.workers)} == {"new", SELF}


async def test_retiring_is_a_lease(orders, client, queue, obeyed):
    lease = {"v": 1, "start": 2, "deadline": await server_ms(client) + 900}
    await client.hset(queue.keys.retiring, SELF, json.dumps(lease))
    assert await orders.beat() <= 901
    assert (orders.retiring, obeyed.retired) == (True, [True])
    await orders.beat()
    assert obeyed.retired == [True]
    task = asyncio.create_task(orders._beat_for_ever())
    await eventually(lambda: obeyed.retired == [True, False])
    task.cancel()
    assert not orders.retiring


async def test_who_retires_says_every_second_how_busy_it_is(orders, client, queue):
    assert await orders.beat() == heartbeat.BEAT_MS
    lease = {"v": 1, "pod": "uid", "start": 2, "deadline": await server_ms(client) + 30_000}
    await client.hset(queue.keys.retiring, SELF, json.dumps(lease))
    assert await orders.beat() <= 1_000


async def test_an_order_that_is_taken_back_ends(orders, client, queue, obeyed):
    lease = {"v": 1, "start": 2, "deadline": await server_ms(client) + 30_000}
    await client.hset(queue.keys.retiring, SELF, json.dumps(lease))
    await orders.beat()
    await client.hdel(queue.keys.retiring, SELF)
    await orders.beat()
    assert obeyed.retired == [True, False]


async def test_the_lease_runs_out_while_redis_is_away(orders, client, queue, obeyed, line):
    lease = {"v": 1, "start": 2, "deadline": await server_ms(client) + 2_000}
    await client.hset(queue.keys.retiring, SELF, json.dumps(lease))
    await orders.beat()

    async def away(script, keys, args):
        raise PASSING[0]("Redis is away")

    line.eval = away
    task = asyncio.create_task(orders._beat_for_ever())
    await eventually(lambda: obeyed.retired == [True, False])
    task.cancel()
    assert obeyed.errors


@pytest.mark.parametrize(
    "order",
    ["", "?", "[]", *(f'{{"deadline":{what}}}' for what in ('"soon"', "1", "true", "NaN", "Infinity", "1e999"))],
)
async def test_what_is_no_order_is_none(orders, client, queue, obeyed, order):
    await client.hset(queue.keys.retiring, SELF, order)
    await orders.beat()
    assert obeyed.retired == []


async def test_the_policy_is_told_when_it_changes(orders, client, queue, obeyed):
    await orders.beat()
    await client.hset(queue.keys.policy, mapping={"v": "1", "rev": "r1", "doc": '{"closed":true}'})
    await orders.beat()
    await orders.beat()
    await client.delete(queue.keys.policy)
    await orders.beat()
    assert obeyed.policies == [("", ""), ("r1", '{"closed":true}'), ("", "")]


async def test_a_running_job_is_cancelled_and_the_order_removed_when_obeyed(orders, client, queue, obeyed, table):
    table.occupy(0, job_id=b"7", token=b"t", started_ms=now_ms())
    table.occupy(1, job_id=b"8", token=b"t", started_ms=now_ms())
    await queue.start("7", SELF)
    await queue.start("9", "another")
    await client.hset(queue.keys.cancelled, mapping={"7": '{"v":1,"reason":"no need","at":1}', "9": "{}"})
    await orders.beat()
    await orders.beat()
    assert obeyed.cancelled == [(b"7", "no need")]
    assert await client.hexists(queue.keys.cancelled, "7")
    await client.hset(queue.keys.job("7"), "finishedOn", 1)
    table.clear(0)
    await orders.beat()
    assert await client.hkeys(queue.keys.cancelled) == [b"9"]


async def cancel(queue, job_id):
    [call] = CancelJob(queue.keys, job_id, "no need", 1, {"count": -1}).commands()
    assert await queue.line.eval(call.script, call.keys, call.args) == b"told"


async def test_an_order_that_came_too_late_is_not_for_the_next_job_of_that_id(orders, client, queue, obeyed, table):
    """The job ended before its worker heard of the order, was removed, and is added anew."""
    await queue.start("daily", SELF, timestamp=1_795_000_000_000)
    await cancel(queue, "daily")
    await client.delete(queue.keys.job("daily"), queue.keys.active)
    await queue.start("daily", SELF, timestamp=1_795_086_400_000)
    table.occupy(0, job_id=b"daily", token=b"t", started_ms=now_ms())
    orders._beats = 1  # the first sweeps
    await orders.beat()
    assert obeyed.cancelled == []
    assert not await client.exists(queue.keys.cancelled)
    await cancel(queue, "daily")
    await orders.beat()
    assert obeyed.cancelled == [(b"daily", "no need")]


async def test_orders_for_what_has_ended_are_swept_away(orders, client, queue, obeyed):
    for job_id in ("runs", "ended", "gone"):
        await queue.start(job_id, SELF)
        await cancel(queue, job_id)
    await client.hset(queue.keys.job("ended"), "finishedOn", 1)
    await client.delete(queue.keys.job("gone"))
    await orders.beat()
    assert await client.hkeys(queue.keys.cancelled) == [b"runs"]


async def test_a_job_whose_lock_was_lost_did_not_obey(orders, client, queue, obeyed, table):
    table.occupy(0, job_id=b"7", token=b"t", started_ms=now_ms())
    run = Run.of(table, table.view(0))
    await queue.start("7", SELF)
    await client.hset(queue.keys.cancelled, "7", '{"reason":"x"}')
    await orders.beat()
    orders.lost(run)
    table.clear(0)
    await orders.beat()
    assert await client.hexists(queue.keys.cancelled, "7")


async def test_a_nudge_is_heard_at_once_and_a_lost_connection_is_made_good(
    orders, client, queue, obeyed, ear, monkeypatch
):
    monkeypatch.setattr(heartbeat, "BEAT_MS", 3_600_000)  # what is heard was said

    async def listeners():
        return (await client.pubsub_numsub(queue.keys.nudge))[0][1] == 1

    task = asyncio.create_task(orders.run())
    try:
        for number in range(3):
            await eventually(listeners)
            await client.hset(queue.keys.policy, mapping={"v": "1", "rev": f"r{number}", "doc": "{}"})
            await client.publish(queue.keys.nudge, "policy")
            await eventually(lambda number=number: (f"r{number}", "{}") in obeyed.policies)
            for _ in range(200):  # more than wait for one
                await client.publish(queue.keys.nudge, "x")
            await client.hset(queue.keys.policy, mapping={"v": "1", "rev": f"again{number}", "doc": "{}"})
            ear.connection and ear.connection.abort("the test says so")  # who listens again looks, too
            await eventually(lambda number=number: (f"again{number}", "{}") in obeyed.policies)
    finally:
        task.cancel()


async def test_a_worker_that_was_only_thought_dead_takes_it_back(orders, client, queue, table, notes, bullpen_redis):
    """Another worker finds the lock gone and counts a death; we were only cut off."""
    other_line = Line(bullpen_redis)
    other = Keeper(
        other_line, queue.keys, name=worker_name("other", "1" * 12), hooks=notes, passing=PASSING, terms=TERMS
    )
    await queue.start("7", SELF, **{"bullpen:crashes": 2})
    await client.sadd(queue.keys.stalled, "7")
    await queue.forget_lock("7")
    await other.check()
    assert (await queue.field("7", "defa")).startswith("quarantined")
    table.occupy(0, job_id=b"7", token=b"token", started_ms=now_ms())
    orders.lost(Run.of(table, table.view(0)))
    table.clear(0)
    await orders.beat()
    assert await queue.field("7", "defa") is None
    assert await queue.field("7", "bullpen:crashes") == "2"
    assert await queue.field("7", "bullpen:deaths") == ""
    await orders.beat()
    assert await queue.field("7", "bullpen:crashes") == "2"
    await other_line.close()


async def test_an_idle_worker_costs_less_than_a_command_a_second(line, keeper, orders, queue, client):
    """Over the time that the loops ask to sleep: a beat each 5 s, and a check each interval (3 s when it is D)."""
    asked_ms = 0
    for _ in range(10):
        asked_ms += await orders.beat()
    assert asked_ms >= 10 * 5_000
    assert await keeper.check() >= TERMS.check_ms
    await keeper.renew()
    assert line.calls == 11
