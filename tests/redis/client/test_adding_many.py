"""A bulk of jobs is in Redis what as many single adds would be, whatever kinds are mixed."""

import json

import pytest

from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import AddJobs, JobShape, NewJob
from bullpen.queue.operations.base import Eval
from bullpen.redis.link import Link
from bullpen.redis.settings import RedisSettings
from tests.support.keyspace import dump, neutral

NOW = 1_795_000_000_000


def jobs(keys: QueueKeys) -> list[NewJob]:
    plain = JobShape(keys, "plain", {"attempts": 3, "removeOnComplete": {"count": 5}})
    lifo = JobShape(keys, "lifo", {"attempts": 1, "lifo": True}, lifo=True)
    urgent = JobShape(keys, "urgent", {"attempts": 1, "priority": 7}, priority=7)
    usual = JobShape(keys, "usual", {"attempts": 1, "priority": 9}, priority=9)
    later = JobShape(keys, "later", {"attempts": 1, "delay": 5000}, delay_ms=5000)
    once = {"id": "same", "ttl": 60_000}
    single = JobShape(keys, "unique", {"attempts": 1, "deduplication": once}, deduplication=once)
    last = {"id": "again", "keepLastIfActive": True, "replace": True}
    moved = JobShape(keys, "moved", {"attempts": 1, "delay": 9000, "deduplication": last}, 9000, deduplication=last)
    shapes = [plain, urgent, later, plain, single, usual, lifo, moved, later, single, moved, plain]
    found = [NewJob(shape, f"j{place}", b'{"n": %d}' % place, NOW + place) for place, shape in enumerate(shapes)]
    return [*found, NewJob(plain, "j3", b"{}", NOW), NewJob(later, "j2", b"{}", NOW)]  # with ids that are there already


ARRANGED = {
    "empty": [],
    "paused": [("HSET", "meta", "paused", 1)],
    "concurrency reached": [("HSET", "meta", "concurrency", 1), ("LPUSH", "active", "x")],
    "concurrency not reached": [("HSET", "meta", "concurrency", 2), ("LPUSH", "active", "x")],
    "events kept": [("HSET", "meta", "opts.maxLenEvents", 5)],
}


@pytest.mark.parametrize("arrangement", ARRANGED.values(), ids=ARRANGED)
async def test_it_is_as_if_each_had_been_added_by_itself(bullpen_redis, arrangement):
    single, many = QueueKeys("test", "single"), QueueKeys("test", "together")
    async with Link(RedisSettings.from_url(bullpen_redis), patient=True) as link:

        async def add(operation: AddJobs) -> list[object]:
            (call,) = operation.commands()
            assert isinstance(call, Eval)
            ids = operation.read([await link.eval(call.script, call.keys, (*call.args, *call.more_args))])
            assert isinstance(ids, tuple), ids
            return list(ids)

        for keys in (single, many):
            for name, key, *more in arrangement:
                await link.call(name, getattr(keys, key), *more)
        one_by_one = [job_id for job in jobs(single) for job_id in await add(AddJobs(single, (job,)))]
        together = await add(AddJobs(many, tuple(jobs(many))))
        assert together == one_by_one
        here, there = neutral(await dump(link, single), "single"), neutral(await dump(link, many), "together")
        assert there == here
        assert json.loads(there[":j0"][b"opts"])["removeOnComplete"] == {"count": 5}
        assert there[":meta"]
