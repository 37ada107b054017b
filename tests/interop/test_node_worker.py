"""We produce, wait and watch; a Node worker runs the jobs."""

import asyncio

import pytest

from bullpen import Backoff, Deduplication, JobCancelled, JobFailed, JobGone, Keep, ResultTimeout, Retention
from tests.interop.conftest import put_off_ms
from tests.support.waiting import eventually


@pytest.fixture
def queue(client):
    return client.queue("q")


def names(node):
    return [job["name"] for job in node.jobs]


@pytest.mark.parametrize("value", [{"messageId": "m-7", "ü": [1, 2.5, None]}, 7, "text", [], None])
async def test_our_handle_gives_nodes_result(node, queue, value):
    await node.worker("q")
    handle = await queue.enqueue("work", {"value": value})
    assert await handle.result(timeout="60s") == value
    info = await handle.info()
    assert (info.state, info.attempt) == ("completed", 1)


async def test_our_handle_raises_nodes_error(node, queue):
    await node.worker("q")
    handle = await queue.enqueue("work", {"does": "fail", "message": "no such card"}, attempts=2)
    with pytest.raises(JobFailed, match="no such card") as caught:
        await handle.result(timeout="60s")
    assert (caught.value.reason, caught.value.attempts) == ("no such card", 2)
    assert (await handle.info()).error == "no such card"


async def test_a_result_that_does_not_come_in_time(node, queue):
    await node.worker("q")
    handle = await queue.enqueue("work", {"ms": 5_000, "value": "late"})
    with pytest.raises(ResultTimeout):
        await handle.result(timeout="200ms")
    assert await handle.result(timeout="60s") == "late"


async def test_a_job_that_node_removes_while_we_wait(node, queue):
    handle = await queue.enqueue("work", {})
    waiting = asyncio.create_task(handle.result(timeout="60s"))
    await eventually(lambda: _is_watched(handle))
    await node.remove("q", handle.id)
    with pytest.raises(JobGone):
        await waiting


async def _is_watched(handle):
    return (await handle.info()).state == "waiting"


# -- options -------------------------------------------------------------------------------------------------------


async def test_priorities_and_lifo_decide_who_is_first(node, queue):
    for name, options in [
        ("second", {}),
        ("third", {}),
        ("first", {"lifo": True}),
        ("sixth", {"priority": 20}),
        ("fourth", {"priority": 1}),
        ("fifth", {"priority": 1}),
    ]:
        await queue.enqueue(name, {}, **options)
    await node.worker("q", {"concurrency": 1})
    await eventually(lambda: len(node.jobs) == 6)
    assert names(node) == ["first", "second", "third", "fourth", "fifth", "sixth"]


async def test_a_delay(node, queue):
    await node.worker("q")
    handle = await queue.enqueue("late", {}, delay="300ms")
    assert (await handle.info()).state == "delayed"
    await handle.result(timeout="60s")
    info = await handle.info()
    assert (info.started_at - info.enqueued_at).total_seconds() >= 0.3


async def test_one_job_id_is_one_job(node, queue):
    await node.worker("q")
    first = await queue.enqueue("work", {"value": 1}, job_id="order-7")
    await first.result(timeout="60s")
    again = await queue.enqueue("work", {"value": 2}, job_id="order-7")
    assert await again.result(timeout="60s") == 1
    assert len((await node.told()).jobs) == 1


@pytest.mark.parametrize(
    ("backoff", "waits_ms"),
    [
        (Backoff.immediate(), [(0, 0), (0, 0)]),
        (Backoff.fixed("60ms"), [(60, 60), (60, 60)]),
        (Backoff.exponential("40ms", jitter=0), [(40, 40), (80, 80)]),
        (Backoff.exponential("100ms", jitter=0.9), [(10, 100), (20, 200)]),
    ],
    ids=["immediate", "fixed", "exponential", "jitter"],
)
async def test_attempts_and_backoff(node, queue, raw, backoff, waits_ms):
    """What Node understands of our backoff it obeys."""
    await node.worker("q")
    handle = await queue.enqueue("work", {"does": "fail"}, attempts=3, backoff=backoff)
    with pytest.raises(JobFailed):
        await handle.result(timeout="60s")
    assert [job["attempt"] for job in (await node.told()).jobs] == [0, 1, 2]
    found = await node.getJob("q", handle.id)
    assert found["attemptsMade"] == 3
    events = raw.xrange("bull:q:events")
    starts_ms = [int(at.partition("-")[0]) for at, fields in events if fields["event"] == "active"]
    for index, (least, most) in enumerate(waits_ms):
        waited_ms = starts_ms[index + 1] - starts_ms[index]
        assert least - 2 <= waited_ms
        assert put_off_ms(raw)[index] <= most


@pytest.mark.parametrize(
    ("keep", "kept"), [(Keep(count=0), 0), (Keep(), 5), (Keep(count=2), 2), (Keep(age="1h"), 5)], ids=str
)
@pytest.mark.parametrize("ends", ["completed", "failed"])
async def test_retention(node, queue, keep, kept, ends):
    await node.worker("q")
    does = {"completed": "return", "failed": "fail"}[ends]
    for _ in range(5):
        await queue.enqueue("work", {"does": does}, attempts=1, retention=Retention(**{ends: keep}))
    await eventually(lambda: _counts(queue, waiting=0, active=0, **{ends: kept}))
    assert len((await node.told()).jobs) == 5


async def _counts(queue, **expected):
    counts = await queue.counts()
    assert {state: counts[state] for state in expected} == expected
    return True


async def test_simple_and_throttle(node, queue):
    await node.worker("q")
    first = await queue.enqueue("work", {"ms": 2_000}, deduplication=Deduplication.simple("d"))
    assert (await queue.enqueue("work", {}, deduplication=Deduplication.simple("d"))).id == first.id
    await first.result(timeout="60s")
    throttle = Deduplication.throttle("t", "1m")
    second = await queue.enqueue("work", {}, deduplication=throttle)
    assert second.id != first.id
    await second.result(timeout="60s")
    assert (await queue.enqueue("work", {}, deduplication=throttle)).id == second.id
    assert len((await node.told()).jobs) == 2


async def test_debounce_runs_the_last(node, queue):
    await node.worker("q")
    for number in range(4):
        await queue.enqueue("work", {"number": number}, deduplication=Deduplication.debounce("d", "2s"))
    await eventually(lambda: node.jobs)
    await eventually(lambda: _counts(queue, waiting=0, active=0, delayed=0))
    assert [job["data"]["number"] for job in (await node.told()).jobs] == [3]


async def test_keep_last_runs_the_last_afterwards(node, queue):
    await node.worker("q")
    keep_last = Deduplication.keep_last("d")
    await queue.enqueue("work", {"number": 0, "ms": 2_000}, deduplication=keep_last)
    await eventually(lambda: node.jobs)
    for number in (1, 2, 3):
        await queue.enqueue("work", {"number": number}, deduplication=keep_last)
    await eventually(lambda: len(node.jobs) == 2)
    await eventually(lambda: _counts(queue, waiting=0, active=0))
    assert [job["data"]["number"] for job in node.jobs] == [0, 3]


# -- what we see of it, and how we steer it ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [42, {"half": 50}])
async def test_progress(node, queue, value):
    handle = await queue.enqueue("work", {"does": "progress", "value": value}, delay="1h")
    async with handle.events() as changes:
        await node.worker("q")
        await handle.promote()
        seen = [event.progress async for event in changes if event.type == "progress"]
    assert seen == [value]
    assert (await handle.info()).progress == value


async def test_logs(node, queue):
    await node.worker("q")
    handle = await queue.enqueue("work", {"does": "log", "message": "on its way"})
    await handle.result(timeout="60s")
    assert await handle.logs() == ["on its way"]


async def test_our_pause_holds_node_and_our_resume_lets_it_go(node, queue):
    await node.worker("q")
    await (await queue.enqueue("work", {})).result(timeout="60s")
    await queue.pause()
    held = await queue.enqueue("work", {})
    with pytest.raises(ResultTimeout):
        await held.result(timeout="400ms")
    await queue.resume()
    await held.result(timeout="60s")


async def test_a_job_that_we_cancel_before_node_has_it(node, queue):
    handle = await queue.enqueue("work", {}, delay="1h")
    assert await handle.cancel("not needed")
    await node.worker("q")
    with pytest.raises(JobCancelled, match="not needed"):
        await handle.result(timeout="60s")
    await (await queue.enqueue("other", {})).result(timeout="60s")
    assert names(await node.told()) == ["other"]


async def test_a_job_that_failed_under_node_is_retried_by_us(node, queue):
    await node.worker("q")
    handle = await queue.enqueue("work", {"does": "fail-first", "times": 1, "value": "at last"}, attempts=1)
    with pytest.raises(JobFailed):
        await handle.result(timeout="60s")
    await handle.retry(reset_attempts=False)
    assert await handle.result(timeout="60s") == "at last"


async def test_removing_and_listing_what_a_node_worker_did(node, queue):
    await node.worker("q")
    done = await queue.enqueue("work", {"value": 1})
    await done.result(timeout="60s")
    assert [job.id for job in await queue.jobs("completed")] == [done.id]
    assert await done.remove()
    assert await node.getJob("q", done.id) is None
