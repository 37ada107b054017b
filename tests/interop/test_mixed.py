"""Node's workers and ours on one queue: limits hold over both, and each takes back what the other lost."""

import asyncio
import itertools
import json
from collections import Counter

import pytest

from bullpen.queue.keys import QueueKeys
from tests.support.does import obedient, worker_process, working, write_policy
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "q")
FAST_STALLS = {"lockDuration": 1_000, "stalledInterval": 300}


def left(raw):
    """What must be gone when all is done: what runs or waits, and locks."""
    running = raw.llen(KEYS.wait) + raw.llen(KEYS.active) + raw.zcard(KEYS.delayed) + raw.zcard(KEYS.prioritized)
    return running, sorted(raw.scan_iter("bull:q:*:lock")), raw.scard(KEYS.stalled)


async def test_a_mixed_fleet_runs_each_of_5000_jobs_once(start_node, redis_url, raw):
    first, second = await start_node(), await start_node()
    ours, jobs, bulk = [], 5_000, 500
    keep = {"removeOnComplete": False}
    for start in range(0, jobs, bulk):
        wanted = [{"name": "work", "data": {"value": n}, "opts": keep} for n in range(start, start + bulk)]
        await first.addBulk("q", wanted)
    async with working(redis_url, obedient(ours), concurrency=10):
        await first.worker("q", {"concurrency": 10, "name": "first"})
        await second.worker("q", {"concurrency": 10, "name": "second"})
        await eventually(lambda: raw.zcard(KEYS.completed) == jobs, 60, every=0.05)
        await eventually(lambda: left(raw) == (0, [], 0))
    pipe = raw.pipeline(transaction=False)
    for job_id in raw.zrange(KEYS.completed, 0, -1):
        pipe.hmget(KEYS.job(job_id), "atm", "ats", "stc", "returnvalue", "pb")
    found = pipe.execute()
    assert {tuple(each[:3]) for each in found} == {("1", "1", None)}
    assert sorted(json.loads(each[3]) for each in found) == list(range(jobs))
    workers = Counter(each[4] for each in found)
    assert len(workers) == 3, "somebody never got a job"
    ran = Counter(job["id"] for node in (first, second) for job in node.jobs) + Counter(start.id for start in ours)
    assert set(ran.values()) == {1}


async def test_total_concurrency_over_both(node, redis_url, raw):
    await node.setGlobalConcurrency("q", 3)
    most, jobs = 0, 40
    await node.addBulk("q", [{"name": "work", "data": {"ms": 40}}] * jobs)
    ours = []
    async with working(redis_url, obedient(ours), concurrency=10):
        await node.worker("q", {"concurrency": 10})

        async def done():
            nonlocal most
            most = max(most, raw.llen(KEYS.active))
            return raw.zcard(KEYS.completed) == jobs

        await eventually(done, 20)
    assert most == 3
    assert len(ours) + len((await node.told()).jobs) == jobs


async def test_a_rate_limit_over_both(node, redis_url, raw):
    jobs, most, per_ms = 15, 5, 400
    await node.setGlobalRateLimit("q", most, per_ms)
    ours = []
    async with working(redis_url, obedient(ours), concurrency=10):
        await node.worker("q", {"concurrency": 10})
        await node.addBulk("q", [{"name": "work", "data": {}}] * jobs)
        await eventually(lambda: len(ours) + len(node.jobs) == jobs, 15)
    events = raw.xrange("bull:q:events")
    starts_ms = [int(at.partition("-")[0]) for at, fields in events if fields["event"] == "active"]
    # The first opens a period; the last is not before the third, however late within their periods others came.
    assert starts_ms[-1] - starts_ms[0] >= 1.8 * per_ms


async def test_the_limiter_of_a_node_worker_counts_what_it_starts_itself(node, redis_url, raw):
    """BullMQ's limiter option binds its own worker alone; ours, which has none, goes on and does not use it up."""
    await node.worker("q", {"concurrency": 10, "limiter": {"max": 2, "duration": 60_000}})
    await node.addBulk("q", [{"name": "work", "data": {}}] * 4)
    await eventually(lambda: len(node.jobs) == 2)
    ours = []
    async with working(redis_url, obedient(ours)):
        await eventually(lambda: len(ours) == 2)
    assert len(node.jobs) == 2


async def test_a_rate_limit_that_a_node_worker_raises_is_obeyed_by_ours_where_the_queue_has_one(node, redis_url):
    await node.setGlobalRateLimit("q", 100, 1_000)
    await node.worker("q")
    await node.add("q", "work", {"does": "rate-limit", "ms": 500})
    await eventually(lambda: node.jobs)
    ours = []
    async with working(redis_url, obedient(ours)):
        await eventually(lambda: _limited(node))
        await node.closeWorker("q")
        began = asyncio.get_running_loop().time()
        ttl_ms = await node.queue("q", "getRateLimitTtl")
        await eventually(lambda: ours)
        assert ours[0].at - began >= ttl_ms / 1000 - 0.05
    assert ours[0].attempt == 1


async def _limited(node):
    return await node.queue("q", "getRateLimitTtl") > 0


async def test_we_take_back_what_a_killed_node_worker_had(start_node, redis_url, raw):
    write_policy(redis_url)
    producer, doomed = await start_node(), await start_node()
    await doomed.worker("q", FAST_STALLS)
    job_id = await producer.add("q", "work", {"does": "hang"}, {"attempts": 1})
    await eventually(lambda: doomed.jobs)
    ours = []
    await doomed.kill()
    raw.hset(KEYS.job(job_id), "data", json.dumps({"value": "recovered"}))
    async with working(redis_url, obedient(ours)):
        assert await producer.waitUntilFinished("q", job_id, 50_000) == "recovered"
    found = await producer.getJob("q", job_id)
    assert (found["attemptsMade"], found["attemptsStarted"], found["stalledCounter"]) == (1, 2, 1)
    assert left(raw) == (0, [], 0)


async def test_node_takes_back_what_our_killed_worker_had(node, redis_url, raw, tmp_path):
    write_policy(redis_url)
    job_id = await node.add("q", "work", {"does": "hang"}, {"attempts": 1})
    with worker_process(redis_url, tmp_path / "log") as doomed:
        await eventually(lambda: raw.llen(KEYS.active), 20)
        doomed.kill()
        await asyncio.to_thread(doomed.wait)
    raw.hset(KEYS.job(job_id), "data", json.dumps({"value": "recovered"}))
    await node.worker("q", FAST_STALLS)
    assert await node.waitUntilFinished("q", job_id, 50_000) == "recovered"
    assert (await node.told()).stalled == [job_id]
    assert left(raw) == (0, [], 0)


async def test_a_second_kill_does_not_fail_a_job_of_node(node, redis_url, raw, tmp_path):
    """Node's own default, `maxStalledCount` 1, would fail it; our worker's recovery counts deaths, not stalls."""
    write_policy(redis_url)
    job_id = await node.add("q", "work", {"does": "hang"}, {"attempts": 1})
    for _ in range(2):
        with worker_process(redis_url, tmp_path / "log") as doomed:
            await eventually(lambda: raw.llen(KEYS.active) and raw.exists(KEYS.lock(job_id)), 20)
            doomed.kill()
            await asyncio.to_thread(doomed.wait)
        raw.delete(KEYS.lock(job_id))
    raw.hset(KEYS.job(job_id), "data", json.dumps({"value": "recovered"}))
    with worker_process(redis_url, tmp_path / "log"):
        assert await node.waitUntilFinished("q", job_id, 50_000) == "recovered"
    assert raw.hget(KEYS.job(job_id), "atm") == "1"


async def test_locks_of_ours_are_renewed_under_a_node_worker_that_looks_for_stalled_jobs(node, redis_url, raw):
    write_policy(redis_url, recovery={"lockDuration": "5s", "checkInterval": "1s"})
    await node.worker("q", FAST_STALLS)
    await node.closeWorker("q")
    ours = []
    async with working(redis_url, obedient(ours)):
        job_id = await node.add("q", "work", {"ms": 11_000, "value": 1})
        await eventually(lambda: ours)
        await node.worker("q", FAST_STALLS)
        assert await node.waitUntilFinished("q", job_id, 50_000) == 1
    await node.told()
    assert (len(ours), node.stalled, node.jobs) == (1, [], [])


@pytest.mark.parametrize("ours_first", [True, False])
async def test_a_scheduler_goes_on_whoever_runs_it(node, redis_url, raw, ours_first):
    ours = []
    await node.upsertJobScheduler("q", "tick", {"every": 200}, {"name": "tick", "data": {"value": 1}})
    if not ours_first:
        await node.worker("q")
        await eventually(lambda: len(node.jobs) >= 2)
        await node.closeWorker("q")
    async with working(redis_url, obedient(ours)):
        await eventually(lambda: len(ours) >= 2)
    if ours_first:
        await node.worker("q")
        await eventually(lambda: len(node.jobs) >= 2)
        await node.closeWorker("q")
    ids = [start.id for start in ours] + [job["id"] for job in node.jobs]
    assert len(ids) == len(set(ids))
    assert raw.zcard(KEYS.delayed) == 1
    slots_ms = sorted(int(each.rpartition(":")[2]) for each in ids)
    assert all((after - before) % 200 == 0 for before, after in itertools.pairwise(slots_ms))
