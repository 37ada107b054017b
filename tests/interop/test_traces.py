"""What a worker leaves in Redis: the same by Node's and by ours, but for what is listed here."""

import json

import pytest

from tests.support.does import obedient, working, write_policy
from tests.support.waiting import eventually

OURS_ONLY = {"bullpen:error", "bullpen:due"}
"""Fields that only our worker writes: the class of the error, and when a retry is due (for the wait that metrics tell)."""

OTHER_VALUES = {"pb", "stacktrace", "timestamp", "processedOn", "finishedOn"}
"""Fields whose values differ by nature: the worker's name, a traceback of its language, moments."""

JOBS = {
    "result": ({"value": {"a": [1, "ü", None]}}, {}),
    "no result": ({}, {}),
    "failed at once": ({"does": "give-up"}, {"attempts": 3}),
    "failed for good": ({"does": "fail"}, {"attempts": 2}),
    "retried": ({"does": "fail-first", "times": 1, "value": 1}, {"attempts": 2}),
    "retried later": ({"does": "fail-first", "times": 1}, {"attempts": 2, "backoff": 20}),
    "delayed": ({}, {"delay": 30}),
    "with priority": ({}, {"priority": 5}),
    "progress": ({"does": "progress", "value": 50}, {}),
    "log": ({"does": "log", "message": "m"}, {}),
    "deduplicated": ({}, {"deduplication": {"id": "d"}}),
    "removed": ({"value": 1}, {"removeOnComplete": True}),
}


@pytest.mark.parametrize("name", JOBS)
async def test_a_job_that_has_ended(node, redis_url, raw, name):
    data, opts = JOBS[name]
    opts = {"attempts": 1, "removeOnFail": False, "removeOnComplete": False, **opts}
    # Where a job brings no backoff ours is the policy's; Node has none.
    write_policy(redis_url, "ours", retry={"attempts": 1, "backoff": {"type": "Immediate"}})
    queues = {queue: await node.add(queue, "work", data, opts) for queue in ("nodes", "ours")}
    await node.worker("nodes", {"name": "n", "metrics": {"maxDataPoints": 10_080}})
    async with working(redis_url, obedient(queue="ours"), queue="ours"):
        for queue in queues:
            await eventually(lambda queue=queue: _ended(raw, queue))
    nodes, ours = (raw.hgetall(f"bull:{queue}:{job_id}") for queue, job_id in queues.items())
    assert set(ours) - set(nodes) <= OURS_ONLY
    assert set(nodes) <= set(ours)
    for field in set(nodes) - OTHER_VALUES:
        assert _value(ours[field]) == _value(nodes[field]), field
    assert _events(raw, "ours") == _events(raw, "nodes")
    assert _keys(raw, "ours") == _keys(raw, "nodes")
    ended = "failed" if name.startswith("failed") else "completed"
    for queue in queues:
        assert raw.hget(f"bull:{queue}:metrics:{ended}", "count") == "1"


def _ended(raw, queue):
    ended = raw.zcard(f"bull:{queue}:completed") + raw.zcard(f"bull:{queue}:failed")
    events = {fields["event"] for _, fields in raw.xrange(f"bull:{queue}:events")}
    return ended or ("completed" in events and not raw.llen(f"bull:{queue}:active"))


def _value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def _events(raw, queue):
    found = [fields for _, fields in raw.xrange(f"bull:{queue}:events") if fields["event"] != "drained"]
    for fields in found:
        if fields["event"] == "delayed":
            fields["delay"] = "a time"
    return found


def _keys(raw, queue):
    """The queue's keys without ours, and without those that come and go while a worker waits."""
    names = (key.removeprefix(f"bull:{queue}:") for key in raw.scan_iter(f"bull:{queue}:*"))
    passing = {"marker", "stalled-check", "stalled"}
    return {name for name in names if not name.startswith("bullpen:") and name not in passing}


async def test_what_our_client_writes_differs_from_nodes_by_the_version_in_meta_alone(node, client, raw):
    """Beside the id (minted by us, counted by Node): Node's own version, by which its tools tell who made the queue."""
    await node.add("nodes", "work", {})
    await client.queue("ours").enqueue("work", {})
    nodes, ours = raw.hgetall("bull:nodes:meta"), raw.hgetall("bull:ours:meta")
    assert nodes.pop("version").startswith("bullmq:")
    assert ours == nodes
    assert _keys(raw, "nodes") - _keys(raw, "ours") == {"1"}
