"""Node's tools at work on a queue that we produce for and work on, and the other way round."""

import pytest

from bullpen import Backoff, JobFailed, JobGone
from bullpen.queue.keys import QueueKeys
from tests.support.does import obedient, worker_process, working, write_policy
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "q")


@pytest.fixture
def queue(client):
    return client.queue("q")


async def test_a_worker_process_is_one_worker_to_node(node, redis_url, raw, tmp_path):
    with worker_process(redis_url, tmp_path / "log"):
        job_id = await eventually(lambda: node.add("q", "work", {"value": 1}))
        await node.waitUntilFinished("q", job_id, 50_000)
        workers = await node.getWorkers("q")
    assert len(workers) == 1
    assert workers[0]["rawname"].partition(":w:")[2] == raw.hget(KEYS.job(job_id), "pb")


async def test_a_result_is_told_although_the_job_is_removed_at_once(node, redis_url):
    await node.watch("q", "completed")
    async with working(redis_url, obedient()):
        job_id = await node.add("q", "work", {"value": {"a": 1}}, {"removeOnComplete": True})
        await eventually(lambda: node.events)
    assert node.events == [{"type": "completed", "jobId": job_id, "returnvalue": {"a": 1}, "prev": "active"}]
    assert await node.getJob("q", job_id) is None


async def test_node_moves_our_jobs_about(node, queue, redis_url):
    starts = []
    low = await queue.enqueue("low", {}, priority=50)
    high = await queue.enqueue("high", {}, priority=10)
    later = await queue.enqueue("later", {}, delay="1h")
    gone = await queue.enqueue("gone", {}, delay="2h")
    await node.queue("q", "remove", gone.id)
    await node.promote("q", later.id)
    await node.job("q", low.id, "changePriority", {"priority": 1})
    async with working(redis_url, obedient(starts), concurrency=1):
        await high.result(timeout="60s")
    assert [start.name for start in starts] == ["later", "low", "high"]
    with pytest.raises(JobGone):
        await gone.info()


async def test_node_reschedules_a_delayed_job_of_ours(node, queue, redis_url):
    handle = await queue.enqueue("work", {"value": 1}, delay="1h")
    async with working(redis_url, obedient()):
        await node.job("q", handle.id, "changeDelay", 50)
        assert await handle.result(timeout="60s") == 1


async def test_node_retries_all_that_failed_here(node, queue, redis_url):
    handles = [await queue.enqueue("work", {"does": "fail"}, attempts=1) for _ in range(3)]
    starts = []
    async with working(redis_url, obedient(starts)):
        for handle in handles:
            with pytest.raises(JobFailed):
                await handle.result(timeout="60s")
        await node.queue("q", "retryJobs", {"state": "failed"})
        await eventually(lambda: len(starts) == 6)
        await eventually(lambda: _counts(queue, failed=3, waiting=0, active=0))


async def _counts(queue, **expected):
    counts = await queue.counts()
    assert {state: counts[state] for state in expected} == expected
    return True


async def test_node_drains_and_cleans(node, queue, redis_url):
    async with working(redis_url, obedient()):
        await (await queue.enqueue("work", {})).result(timeout="60s")
    for options in ({}, {"priority": 3}, {"delay": "1h"}):
        await queue.enqueue("work", {}, **options)
    await node.queue("q", "drain", True)
    await eventually(lambda: _counts(queue, waiting=0, prioritized=0, delayed=0, completed=1))
    await node.queue("q", "clean", 0, 100, "completed")
    await eventually(lambda: _counts(queue, completed=0))


async def test_a_queue_that_node_obliterates_is_used_again_by_clients_and_workers_that_knew_it(
    node, queue, redis_url, raw
):
    write_policy(redis_url, retry={"attempts": 1})
    async with working(redis_url, obedient()):
        await (await queue.enqueue("work", {})).result(timeout="60s")
        await node.queue("q", "obliterate", {"force": True})
        assert not raw.exists(KEYS.meta)
        assert await (await queue.enqueue("work", {"value": 2})).result(timeout="60s") == 2
        job_id = await node.add("q", "work", {"value": 3})
        assert await node.waitUntilFinished("q", job_id, 50_000) == 3
    assert raw.hget(KEYS.policy, "v") == "1"  # what is declared is not Node's to forget


async def test_node_writes_to_a_job_that_we_run(node, queue, redis_url, raw):
    handle = await queue.enqueue("work", {"ms": 500, "value": "done"})
    starts = []
    async with working(redis_url, obedient(starts)):
        await eventually(lambda: starts)
        await node.queue("q", "updateJobProgress", handle.id, {"by": "node"})
        await node.queue("q", "addJobLog", handle.id, "a line of node's")
        assert await handle.result(timeout="60s") == "done"
    assert (await handle.info()).progress == {"by": "node"}
    assert await handle.logs() == ["a line of node's"]


async def test_a_job_that_node_has_worked_on_goes_on_here(node, queue, redis_url):
    """One attempt by Node, the next by us: the counts go on, and so does the list of traces."""
    await node.worker("q")
    handle = await queue.enqueue("work", {"does": "fail"}, attempts=2, backoff=Backoff.fixed("1h"))
    await eventually(lambda: _counts(queue, delayed=1))
    await node.closeWorker("q")
    starts = []
    async with working(redis_url, obedient(starts)):
        assert await handle.promote()
        with pytest.raises(JobFailed):
            await handle.result(timeout="60s")
    assert [start.attempt for start in starts] == [2]
    found = await node.getJob("q", handle.id)
    assert (found["attemptsMade"], found["attemptsStarted"], len(found["stacktrace"])) == (2, 2, 2)
    assert "driver.mjs" in found["stacktrace"][0]
    assert "RuntimeError" in found["stacktrace"][1]


async def test_a_job_that_we_have_worked_on_goes_on_there(node, queue, redis_url):
    starts = []
    handle = await queue.enqueue("work", {"does": "fail"}, attempts=2, backoff=Backoff.fixed("1h"))
    async with working(redis_url, obedient(starts)):
        await eventually(lambda: _counts(queue, delayed=1))
    await node.worker("q")
    assert await handle.promote()
    with pytest.raises(JobFailed):
        await handle.result(timeout="60s")
    assert [job["attempt"] for job in (await node.told()).jobs] == [1]
    found = await node.getJob("q", handle.id)
    assert (found["attemptsMade"], found["attemptsStarted"], len(found["stacktrace"])) == (2, 2, 2)


async def test_a_job_of_node_without_a_priority_is_filed_under_the_default_level(node, redis_url, raw):
    """BullMQ serves jobs without a priority before all that have one; a queue with levels files them."""
    write_policy(redis_url, priorities={"levels": {"high": 1, "normal": 10, "low": 50}, "default": "normal"})
    await node.pause("q")
    for name, opts in (("plain", {}), ("low", {"priority": 50}), ("high", {"priority": 1})):
        await node.add("q", name, {}, opts)
    starts = []
    async with working(redis_url, obedient(starts), concurrency=1):
        await eventually(lambda: raw.zcard(KEYS.prioritized) == 3)
        await node.resume("q")
        await eventually(lambda: len(starts) == 3)
    assert [start.name for start in starts] == ["high", "plain", "low"]
