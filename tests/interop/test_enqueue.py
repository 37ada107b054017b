"""The same add by Node's Queue and by our client: Redis shows no difference; and each reads the other's jobs."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from bullpen import Backoff, Deduplication, JobSpec, Keep, Retention, SyncClient
from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen.queue.policy import QueuePolicy

# name: (our options, Node's)
OPTIONS = {
    "none": ({}, {}),
    "attempts": ({"attempts": 5}, {"attempts": 5}),
    "delay": ({"delay": "5m"}, {"delay": 300_000}),
    "priority": ({"priority": 7}, {"priority": 7}),
    "delay and priority": ({"delay": timedelta(seconds=90), "priority": 3}, {"delay": 90_000, "priority": 3}),
    "job id": ({"job_id": "order-7"}, {"jobId": "order-7"}),
    "lifo": ({"lifo": True}, {"lifo": True}),
    "fixed": ({"backoff": Backoff.fixed("2s")}, {"backoff": {"type": "fixed", "delay": 2000}}),
    "exponential": (
        {"attempts": 3, "backoff": Backoff.exponential("1s", jitter=0.5)},
        {"attempts": 3, "backoff": {"type": "exponential", "delay": 1000, "jitter": 0.5}},
    ),
    "retention": (
        {"retention": Retention(completed=Keep(count=10), failed=Keep(age="1h", count=5))},
        {"removeOnComplete": {"count": 10}, "removeOnFail": {"age": 3600, "count": 5}},
    ),
    "keep all": (
        {"retention": Retention(completed=Keep(), failed=Keep())},
        {"removeOnComplete": False, "removeOnFail": False},
    ),
    "simple": ({"deduplication": Deduplication.simple("d")}, {"deduplication": {"id": "d"}}),
    "throttle": ({"deduplication": Deduplication.throttle("d", "5s")}, {"deduplication": {"id": "d", "ttl": 5000}}),
    "debounce": (
        {"deduplication": Deduplication.debounce("d", "5s")},
        {"delay": 5000, "deduplication": {"id": "d", "ttl": 5000, "extend": True, "replace": True}},
    ),
    "keep last": (
        {"deduplication": Deduplication.keep_last("d")},
        {"deduplication": {"id": "d", "keepLastIfActive": True}},
    ),
}
DATA = {"userId": 7, "text": 'ü \u2028 "x"', "nested": {"list": [1, 2.5, None, True]}}


def record(raw, queue, job_id):
    """What lies in Redis for a job, without what differs from add to add: id and time."""
    fields = raw.hgetall(f"bull:{queue}:{job_id}")
    assert abs(int(fields.pop("timestamp")) - datetime.now(UTC).timestamp() * 1000) < 60_000
    fields["opts"] = json.loads(fields["opts"])
    return fields


def events(raw, queue, job_id):
    found = [fields for _, fields in raw.xrange(f"bull:{queue}:events")]
    for fields in found:
        for name in ("jobId", "deduplicatedJobId"):
            if fields.get(name) == job_id:
                fields[name] = "the job"
        if fields["event"] == "delayed":
            fields["delay"] = "a time"
    return found


def places(raw, queue):
    """In which of the queue's lists and sets something lies, and their kinds; not how they are named by job."""
    return {
        key.removeprefix(f"bull:{queue}:"): raw.type(key)
        for key in raw.scan_iter(f"bull:{queue}:*")
        if raw.type(key) != "hash"
    }


@pytest.mark.parametrize("name", OPTIONS)
async def test_redis_shows_no_difference(name, node, client, raw):
    ours, nodes = OPTIONS[name]
    theirs = await node.add("node", "welcome", DATA, nodes)
    handle = await client.queue("ours").enqueue("welcome", DATA, **ours)
    assert record(raw, "ours", handle.id) == record(raw, "node", theirs)
    assert events(raw, "ours", handle.id) == events(raw, "node", theirs)
    assert places(raw, "ours") == places(raw, "node")
    assert raw.zrange("bull:ours:marker", 0, -1) == raw.zrange("bull:node:marker", 0, -1)
    meta, nodes_meta = raw.hgetall("bull:ours:meta"), raw.hgetall("bull:node:meta")
    assert meta["opts.maxLenEvents"] == nodes_meta["opts.maxLenEvents"]


async def test_a_bulk_is_as_single_adds_are(node, client, raw):
    ids = await node.addBulk(
        "node", [{"name": name, "data": DATA, "opts": nodes} for name, (_, nodes) in OPTIONS.items()]
    )
    handles = await client.queue("ours").enqueue_many(
        JobSpec.by_name(name, DATA).with_options(**ours) for name, (ours, _) in OPTIONS.items()
    )
    for theirs, handle in zip(ids, handles, strict=True):
        if raw.exists(f"bull:node:{theirs}"):
            assert record(raw, "ours", handle.id) == record(raw, "node", theirs)
    assert places(raw, "ours") == places(raw, "node")


async def test_node_reads_what_we_enqueue(node, client):
    handle = await client.queue("q").enqueue("welcome", DATA, priority=3, attempts=4, delay="1h")
    found = await node.getJob("q", handle.id)
    assert found["data"] == DATA
    assert (found["name"], found["state"], found["opts"]["attempts"]) == ("welcome", "delayed", 4)
    await node.promote("q", handle.id)
    assert (await handle.info()).state == "prioritized"


async def test_we_read_what_node_enqueues(node, client):
    job_id = await node.add("q", "welcome", DATA, {"attempts": 4, "backoff": {"type": "fixed", "delay": 10}})
    info = await client.queue("q").job(job_id).info()
    assert (info.name, info.data, info.state, info.attempts) == ("welcome", DATA, "waiting", 4)


async def test_a_node_worker_obeys_the_policy_that_our_client_wrote_into_the_job(node, client, raw):
    policy = QueuePolicy.from_spec(
        JobQueueSpec.model_validate(
            {
                "retry": {"attempts": 2, "backoff": {"type": "Fixed", "delay": "1ms", "jitter": "0%"}},
                "retention": {"completed": {"count": 0}},
            }
        )
    )
    raw.hset("bull:q:bullpen:policy", mapping={"v": "1", "rev": policy.rev, "doc": policy.doc})
    failing = await client.queue("q").enqueue("fails", {"does": "fail"})
    done = await client.queue("q").enqueue("works", {"does": "return", "value": 7})
    await node.worker("q")
    with pytest.raises(Exception, match="it failed"):
        await failing.result(timeout="60s")
    assert [job["attempt"] for job in (await node.told()).jobs if job["name"] == "fails"] == [0, 1]
    assert (await failing.info()).attempts == 2
    assert not raw.exists(f"bull:q:{done.id}")


async def test_results_of_a_node_worker(node, client):
    await node.worker("q")
    queue = client.queue("q")
    handle = await queue.enqueue("works", {"does": "return", "value": {"messageId": "m-7"}})
    assert await handle.result(timeout="60s") == {"messageId": "m-7"}
    gone = await queue.enqueue(
        "works", {"does": "return", "value": [1, 2], "ms": 100}, retention=Retention(completed=Keep(count=0))
    )
    assert await gone.result(timeout="60s") == [1, 2]  # from the event: the job itself is removed at once


async def test_events_of_a_node_worker(node, client):
    handle = await client.queue("q").enqueue("works", {"does": "progress", "value": {"half": 50}}, delay="1h")
    async with handle.events() as changes:
        await node.worker("q")
        await handle.promote()
        seen = [(event.type, event.state, event.progress) async for event in changes]
    assert seen == [
        ("state", "waiting", None),
        ("state", "active", None),
        ("progress", "active", {"half": 50}),
        ("completed", "completed", {"half": 50}),
    ]


async def test_our_control_as_node_sees_it(node, client):
    queue = client.queue("q")
    await queue.pause()
    assert await node.isPaused("q")
    await queue.resume()
    assert not await node.isPaused("q")
    handle = await queue.enqueue("works", {})
    assert await handle.cancel("not needed")
    found = await node.getJob("q", handle.id)
    assert (found["state"], found["failedReason"]) == ("failed", "cancelled: not needed")
    await node.retry("q", handle.id)
    assert (await handle.info()).state == "waiting"


def test_the_blocking_client_writes_the_same(redis_url, raw):
    with SyncClient(redis_url) as client:
        handle = client.queue("q").enqueue("welcome", DATA, delay="5m", attempts=2)
    fields = record(raw, "q", handle.id)
    assert fields["opts"] == {"attempts": 2, "delay": 300_000}
    assert json.loads(fields["data"]) == DATA
