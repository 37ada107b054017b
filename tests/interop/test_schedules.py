"""A declared schedule lies in Redis as Node's job scheduler does, and each side's worker carries the other's on."""

import contextlib
import json
import time

import pytest
import redis

from bullpen.queue import schedules
from bullpen.queue.keys import QueueKeys
from bullpen.queue.records import StoredJob
from bullpen.queue.schedules import Schedule
from support.waiting import eventually

OURS, NODES = QueueKeys("bull", "ours"), QueueKeys("bull", "node")
CASES = {
    "cron": (
        Schedule("s", "welcome", '{"a":1}', "0 8 * * 1", "Europe/Berlin"),
        {"pattern": "0 8 * * 1", "tz": "Europe/Berlin"},
    ),
    "seconds": (Schedule("s", "welcome", '{"a":1}', "30 0 8 * * *", "UTC"), {"pattern": "30 0 8 * * *", "tz": "UTC"}),
    "interval": (Schedule("s", "welcome", '{"a":1}', every_ms=3_600_000), {"every": 3_600_000}),
}


@pytest.fixture
def raw(redis_url):
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as raw:
        yield raw


def now_ms():
    return int(time.time() * 1000)


def scheduler(raw, keys):
    fields = raw.hgetall(keys.scheduler("s"))
    fields.pop("offset", None)  # of the moment at which an interval began
    fields["opts"] = json.loads(fields["opts"]) if "opts" in fields else None
    return fields


def run(raw, keys):
    """The newest run, without what is of the moment."""
    job_id = f"repeat:s:{int(raw.zscore(keys.repeat, 's'))}"
    fields = raw.hgetall(keys.job(job_id))
    opts = json.loads(fields.pop("opts"))
    for name in ("timestamp", "delay", "prevMillis", "jobId"):
        opts[name] = type(opts.get(name)).__name__
    opts["repeat"].pop("offset", None)
    del fields["timestamp"], fields["delay"]
    return fields | {"opts": opts}


def stored(raw, keys, job_id):
    fields = raw.hgetall(keys.job(job_id))
    return StoredJob(job_id, {name.encode(): value.encode() for name, value in fields.items()})


@pytest.mark.parametrize("name", CASES)
async def test_redis_shows_no_difference(name, node, client, raw):
    schedule, repeat = CASES[name]
    await node.upsertJobScheduler("node", "s", repeat, {"name": "welcome", "data": {"a": 1}})
    await client._session.run(schedules.upsert(OURS, schedule, now_ms()))
    assert scheduler(raw, OURS) == scheduler(raw, NODES)
    assert run(raw, OURS) == run(raw, NODES)
    if name != "interval":
        assert raw.zscore(OURS.repeat, "s") == raw.zscore(NODES.repeat, "s")
    (shown,) = await node.getJobSchedulers("ours")
    assert (shown["key"], shown["name"], shown["template"]["data"]) == ("s", "welcome", {"a": 1})


async def test_node_carries_ours_on(node, client, raw):
    await client._session.run(schedules.upsert(OURS, Schedule("s", "welcome", '{"a":1}', every_ms=200), now_ms()))
    await node.worker("ours")
    await eventually(lambda: len(node.jobs) >= 3, timeout=15)
    assert {job["name"] for job in node.jobs} == {"welcome"}


@pytest.mark.parametrize("repeat", [{"pattern": "0 8 * * 1", "tz": "Europe/Berlin"}, {"every": 3_600_000}])
async def test_we_carry_nodes_on_as_node_does(repeat, node, client, raw):
    for queue in ("node", "ours"):
        await node.upsertJobScheduler(
            queue, "s", repeat, {"name": "welcome", "data": {"a": 1}, "opts": {"attempts": 2}}
        )
    first = await node.getJobSchedulers("ours")
    run_id = f"repeat:s:{first[0]['next']}"
    advance = schedules.advance(OURS, stored(raw, OURS, run_id), now_ms())
    assert advance is not None
    assert await client._session.perform(advance) is not None
    nodes_run = f"repeat:s:{int(raw.zscore(NODES.repeat, 's'))}"
    if raw.zscore(NODES.delayed, nodes_run) is not None:
        await node.promote("node", nodes_run)
    await node.worker("node")
    await eventually(lambda: int(raw.zscore(NODES.repeat, "s")) != int(nodes_run.rpartition(":")[2]), timeout=15)
    assert run(raw, OURS) == run(raw, NODES)
    assert scheduler(raw, OURS) == scheduler(raw, NODES)
    if "pattern" in repeat:
        assert raw.zscore(OURS.repeat, "s") == raw.zscore(NODES.repeat, "s")
