"""Jobs that come without a priority, where the queue has priorities: BullMQ would serve them before the most urgent."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bullpen.redis.failures import ReplyError
from bullpen_worker.keeping.keeper import Terms
from tests.support.keeping import TERMS


async def lay(client, queue, *job_ids, **fields):
    for job_id in job_ids:
        await client.hset(queue.keys.job(job_id), mapping={"name": "x", "data": "{}", "opts": "{}", **fields})
        await client.lpush(queue.keys.wait, job_id)


async def order(client, queue):
    return [raw.decode() for raw in await client.zrange(queue.keys.prioritized, 0, -1)]


async def test_they_are_filed_under_the_default_level_in_their_order(client, queue, keeper):
    await client.zadd(queue.keys.prioritized, {"urgent": 1 * 2**32, "low": 15 * 2**32})
    await lay(client, queue, "1", "2", "3")
    keeper.terms = dataclasses.replace(TERMS, demote_to=10)
    await keeper.check()
    assert await order(client, queue) == ["urgent", "1", "2", "3", "low"]
    assert await client.llen(queue.keys.wait) == 0
    assert await client.hget(queue.keys.job("2"), "priority") == b"10"
    assert await client.zscore(queue.keys.marker, "0") == 0


async def test_one_that_has_a_priority_gets_it_back(client, queue, keeper):
    await lay(client, queue, "1", priority="20")
    await lay(client, queue, "2")
    await keeper.demote(10)
    assert await order(client, queue) == ["2", "1"]


async def test_what_has_no_hash_is_dropped_and_a_paused_queue_stays_asleep(client, queue, keeper):
    await client.hset(queue.keys.meta, "paused", 1)
    await client.lpush(queue.keys.wait, "ghost")
    await lay(client, queue, "1")
    assert await keeper.demote(10) == 1
    assert await order(client, queue) == ["1"]
    assert not await client.exists(queue.keys.marker)


@pytest.mark.parametrize("priority", ["nan", "inf", "-inf", "1e300", "?", "-3"])
async def test_what_is_no_priority_counts_as_none(client, queue, keeper, priority):
    await lay(client, queue, "1", priority=priority)
    assert await keeper.demote(10) == 1
    assert await client.zscore(queue.keys.prioritized, "1") == 10 * 2**32 + 1


async def test_an_error_half_way_loses_no_job(client, queue, keeper):
    await lay(client, queue, "1", "2")
    await client.set(queue.keys.priority_counter, "no number")
    for _ in range(2):
        with pytest.raises(ReplyError):
            await keeper.demote(10)
    assert await client.lrange(queue.keys.wait, 0, -1) == [b"2", b"1"]
    await client.delete(queue.keys.priority_counter)
    assert await keeper.demote(10) == 2
    assert await order(client, queue) == ["1", "2"]


async def test_without_the_wish_they_stay_first(client, queue, keeper):
    await lay(client, queue, "1")
    await keeper.check()
    assert await client.llen(queue.keys.wait) == 1


@pytest.mark.parametrize(
    ("priorities", "level"),
    [
        (None, None),
        ({"levels": {"high": 1, "normal": 7}, "default": "normal"}, 7),
        ({"levels": {"high": 1, "normal": 7}, "default": "normal", "unprioritized": "Demote"}, 7),
        ({"levels": {"high": 1, "normal": 7}, "default": "normal", "unprioritized": "First"}, None),
        ({"levels": {"high": 1}, "default": "gone"}, None),
    ],
)
def test_the_policy_says_where_to(priorities, level):
    assert Terms.of_policy(json.dumps({"priorities": priorities})).demote_to == level
