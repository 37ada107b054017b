"""Control of one job and of a queue."""

import json

import pytest

from bullpen import JobCancelled, JobGone, JobNotEnded, JobScheduled, JobSpec, JobType, Keep, OptionInvalid, Retention
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.jobs import CancelJob

KEYS = QueueKeys("bull", "emails")


def kinds(raw, job_id):
    """The events of one job, without its id."""
    found = [fields for _, fields in raw.xrange(KEYS.events) if fields.get("jobId") == job_id]
    return [fields["event"] for fields in found]


async def test_info(client, raw, finish):
    queue = client.queue("emails")
    handle = await queue.enqueue("welcome", {"userId": 7}, priority=3, attempts=4)
    info = await handle.info()
    assert (info.id, info.name, info.queue, info.state, info.data) == (
        handle.id, "welcome", "emails", "prioritized", {"userId": 7},
    )  # fmt: skip
    assert (info.priority, info.attempt, info.attempts, info.error, info.finished_at) == (3, 0, 4, None, None)
    plain = await queue.enqueue("welcome")
    finish.start(plain.id)
    assert ((await plain.info()).state, (await plain.info()).attempt) == ("active", 1)
    finish(plain.id, "failed", "declined")
    info = await plain.info()
    assert (info.state, info.attempt, info.attempts, info.error) == ("failed", 1, 3, "declined")
    assert info.finished_at is not None


@pytest.mark.parametrize("method", ["info", "promote", "retry"])
async def test_a_job_that_is_not_there(client, method):
    with pytest.raises(JobGone, match="'emails'"):
        await getattr(client.queue("emails").job("none"), method)()


async def test_a_job_that_is_not_there_cannot_be_cancelled_or_removed(client):
    handle = client.queue("emails").job("none")
    assert not await handle.cancel()
    assert not await handle.remove()
    assert await handle.logs() == []


async def test_promote(client):
    queue = client.queue("emails")
    handle = await queue.enqueue("x", {}, delay="1h")
    assert await handle.promote()
    assert (await handle.info()).state == "waiting"
    assert not await handle.promote()


@pytest.mark.parametrize("options", [{}, {"delay": "1h"}, {"priority": 5}])
async def test_a_job_that_waits_is_cancelled_at_once(options, client, raw):
    handle = await client.queue("emails").enqueue("x", {}, **options)
    assert await handle.cancel("nobody waits any more")
    info = await handle.info()
    assert (info.state, info.error) == ("cancelled", "cancelled: nobody waits any more")
    assert kinds(raw, handle.id)[-1] == "failed"
    for key in (KEYS.wait, KEYS.active):
        assert raw.llen(key) == 0
    for key in (KEYS.prioritized, KEYS.delayed):
        assert raw.zcard(key) == 0
    assert raw.zrange(KEYS.failed, 0, -1) == [handle.id]
    assert not await handle.cancel("again")


async def test_a_cancellation_that_is_sent_again_as_its_answer_was_lost_is_told_truly(client):
    handle = await client.queue("emails").enqueue("x", {}, delay="1h")
    cancel = CancelJob(KEYS, handle.id, "late", 1_790_000_000_000, {"count": -1})
    assert [await client._session.perform(cancel) for _ in range(2)] == ["cancelled", "cancelled"]
    assert not await handle.cancel("late")  # another call: there is nothing to cancel any more


async def test_a_job_that_waits_in_a_paused_queue_is_cancelled(client, raw):
    queue = client.queue("emails")
    await queue.pause()
    handle = await queue.enqueue("x")
    assert await handle.cancel()
    assert (await handle.info()).error == "cancelled"


async def test_a_cancelled_job_is_kept_as_its_options_say(client, raw):
    handle = await client.queue("emails").enqueue("x", {}, retention=Retention(failed=Keep(count=0)))
    assert await handle.cancel("why")
    assert not raw.exists(KEYS.job(handle.id))
    last = [fields for _, fields in raw.xrange(KEYS.events) if fields["event"] == "failed"]
    assert last[0]["failedReason"] == "cancelled: why"


async def test_a_reason_may_be_anything_and_is_kept_in_bounds(client, raw):
    for reason in ("\ud800", "why " * 100_000):
        handle = await client.queue("emails").enqueue("welcome")
        assert await handle.cancel(reason)
        assert len(raw.hget(KEYS.job(handle.id), "failedReason")) < 1_100
        with pytest.raises(JobCancelled):
            await handle.result(timeout="60s")


async def test_the_queue_s_own_keys_are_no_jobs(client, sync_client, raw):
    await client.queue("emails").pause()
    for make in (client.queue("emails").job, sync_client.queue("emails").job):
        with pytest.raises(OptionInvalid, match="'meta'"):
            make("meta")
    for both in (client, sync_client):
        with pytest.raises(OptionInvalid, match="bullpen:policy"):
            both.handle(JobType("welcome", queue="emails", data=dict), "bullpen:policy")
    assert await client.queue("emails").paused()


async def test_a_job_that_runs_has_its_worker_told(client, raw, finish):
    handle = await client.queue("emails").enqueue("x")
    finish.start(handle.id)
    with raw.pubsub(ignore_subscribe_messages=True) as nudges:
        nudges.subscribe(KEYS.nudge)
        nudges.get_message(timeout=5)
        assert await handle.cancel("stop it")
        assert nudges.get_message(timeout=5)["data"] == "cancelled"
    order = json.loads(raw.hget(KEYS.cancelled, handle.id))
    assert (order["v"], order["reason"]) == (1, "stop it")
    assert 0 < raw.pttl(KEYS.cancelled) <= 24 * 3_600_000
    assert (await handle.info()).state == "active"


async def test_a_job_that_has_ended_cannot_be_cancelled(client, finish):
    handle = await client.queue("emails").enqueue("x")
    finish(handle.id, "completed", "7")
    assert not await handle.cancel()
    assert (await handle.info()).state == "completed"


async def test_the_next_run_of_a_schedule_is_neither_cancelled_nor_removed(client, raw):
    handle = await client.queue("emails").enqueue("x", {}, delay="1h")
    run = "repeat:daily:1790000000000"
    raw.rename(KEYS.job(handle.id), KEYS.job(run))
    raw.zadd(KEYS.delayed, {run: 1})
    raw.hset(KEYS.job(run), "rjk", "daily")
    raw.zadd(KEYS.repeat, {"daily": 1790000000000})
    job = client.queue("emails").job(run)
    assert not await job.cancel()
    with pytest.raises(JobScheduled, match="schedule"):
        await job.remove()
    assert raw.exists(KEYS.job(run))


async def test_a_deduplicated_job_that_is_cancelled_makes_room(client):
    from bullpen import Deduplication

    queue = client.queue("emails")
    first = await queue.enqueue("x", {}, deduplication=Deduplication.simple("d"))
    await first.cancel()
    second = await queue.enqueue("x", {}, deduplication=Deduplication.simple("d"))
    assert first.id != second.id


async def test_retry(client, raw, finish):
    handle = await client.queue("emails").enqueue("x", {}, attempts=2)
    finish(handle.id, "failed", "declined", fields=["bullpen:error", '{"type":"E"}', "bullpen:crashes", "2"])
    with pytest.raises(JobNotEnded):
        await client.queue("emails").job((await client.queue("emails").enqueue("y")).id).retry()
    await handle.retry()
    info = await handle.info()
    assert (info.state, info.attempt, info.error) == ("waiting", 0, None)
    assert not raw.hmget(KEYS.job(handle.id), "bullpen:error", "bullpen:crashes", "finishedOn")[0]
    finish(handle.id, "failed", "declined", fields=["bullpen:crashes", "2"])
    raw.hset(KEYS.cancelled, handle.id, "{}")  # an order that came as the job ended
    await handle.retry(reset_attempts=False)
    assert not raw.hexists(KEYS.cancelled, handle.id)
    assert (await handle.info()).attempt == 1
    assert raw.hget(KEYS.job(handle.id), "bullpen:crashes") == "2"


async def test_a_completed_job_can_be_run_again(client, finish):
    handle = await client.queue("emails").enqueue("x")
    finish(handle.id, "completed", "7")
    await handle.retry()
    assert (await handle.info()).state == "waiting"


async def test_remove(client, raw, finish):
    queue = client.queue("emails")
    handle = await queue.enqueue("x")
    assert await handle.remove()
    assert not raw.exists(KEYS.job(handle.id))
    running = await queue.enqueue("x")
    finish.start(running.id)
    raw.set(KEYS.lock(running.id), "token")
    assert not await running.remove()
    assert raw.exists(KEYS.job(running.id))


async def test_logs(client, raw):
    handle = await client.queue("emails").enqueue("x")
    raw.rpush(KEYS.logs(handle.id), "one", "zwei ü")
    assert await handle.logs() == ["one", "zwei ü"]


async def test_pause_and_resume(client, raw):
    queue = client.queue("emails")
    await queue.enqueue("x")
    await queue.pause()
    assert await queue.paused()
    assert not raw.exists(KEYS.marker)
    await queue.enqueue("y")
    assert (await queue.counts())["waiting"] == 2
    await queue.resume()
    assert not await queue.paused()
    assert raw.zrange(KEYS.marker, 0, -1) == ["0"]


async def test_resume_brings_back_what_an_old_node_put_aside(client, raw):
    queue = client.queue("emails")
    raw.rpush(KEYS.paused, *(f"job-{n}" for n in range(15_000)))
    raw.lpush(KEYS.wait, "first")
    raw.hset(KEYS.meta, "paused", 1)
    await queue.resume()
    assert (raw.llen(KEYS.paused), raw.llen(KEYS.wait)) == (0, 15_001)


async def test_listing(client, finish):
    queue = client.queue("emails")
    handles = await queue.enqueue_many(JobSpec.by_name(f"job-{n}") for n in range(5))
    assert [job.name for job in await queue.jobs("waiting")] == [f"job-{n}" for n in range(5)]
    assert [job.name for job in await queue.jobs("waiting", start=1, count=2)] == ["job-1", "job-2"]
    assert [job.name for job in await queue.jobs("waiting", count=2, newest_first=True)] == ["job-4", "job-3"]
    finish(handles[0].id, "failed", "cancelled: by hand")
    assert [(job.name, job.state) for job in await queue.jobs("failed")] == [("job-0", "cancelled")]
    assert await queue.jobs("completed") == []
    for wrong in ({"start": -1}, {"count": 0}, {"count": 1001}):
        with pytest.raises(OptionInvalid):
            await queue.jobs("waiting", **wrong)


def test_the_blocking_twin(sync_client, finish):
    queue = sync_client.queue("emails")
    handle = queue.enqueue("x", {"a": 1}, delay="1h")
    assert handle.promote()
    assert not handle.promote()
    assert handle.info().state == "waiting"
    assert [job.id for job in queue.jobs("waiting")] == [handle.id]
    finish(handle.id, "failed", "oh")
    handle.retry()
    assert handle.cancel("enough")
    assert handle.info().state == "cancelled"
    assert handle.remove()
    with pytest.raises(JobGone):
        handle.info()
    queue.pause()
    assert queue.paused()
    queue.resume()
    assert queue.counts()["waiting"] == 0
    assert handle.logs() == []
    assert sync_client.health().healthy
