"""Waiting for results and watching events: nothing is missed, every wait ends."""

import asyncio
import threading

import pytest

from bullpen import JobCancelled, JobFailed, JobGone, JobType, Payload, ResultInvalid, ResultTimeout
from bullpen.clients import handles
from bullpen.queue.keys import QueueKeys
from support.waiting import eventually

KEYS = QueueKeys("bull", "emails")


class Receipt(Payload):
    message_id: str


welcome = JobType("welcome", queue="emails", data=dict[str, int], result=Receipt)


@pytest.fixture(params=["before", "while"])
def when(request):
    """Whether the job ends before anybody waits, or while somebody does."""
    return request.param


async def awaited(handle, end, when, *, timeout="5s"):
    """The result of the job that `end` ends."""
    if when == "before":
        end()
        return await handle.result(timeout=timeout)
    waiting = asyncio.ensure_future(handle.result(timeout=timeout))
    await watched(handle)
    end()
    return await waiting


async def watched(handle):
    watcher = handle._session.watcher(handle.queue)
    await eventually(lambda: handle.id in watcher._inboxes and watcher._placed is None)


async def test_a_result_has_its_type(client, finish, when):
    handle = await client.enqueue(welcome.job({"userId": 7}))
    result = await awaited(handle, lambda: finish(handle.id, "completed", '{"messageId":"m-7"}'), when)
    assert result == Receipt(message_id="m-7")
    assert await client.handle(welcome, handle.id).result(timeout="60s") == Receipt(message_id="m-7")


async def test_a_result_of_another_type(client, finish, when):
    handle = await client.enqueue(welcome.job({"userId": 7}))
    with pytest.raises(ResultInvalid, match="messageId"):
        await awaited(handle, lambda: finish(handle.id, "completed", '{"other":1}'), when)


async def test_a_failure_says_what_and_how_often(client, finish, when):
    handle = await client.enqueue(welcome.job({}))
    with pytest.raises(JobFailed) as caught:
        await awaited(
            handle,
            lambda: finish(handle.id, "failed", "declined", fields=["bullpen:error", '{"type":"shop.Declined"}']),
            when,
        )
    assert (caught.value.reason, caught.value.error_type, caught.value.attempts) == ("declined", "shop.Declined", 1)


async def test_a_job_that_is_cancelled(client, when):
    handle = await client.enqueue(welcome.job({}))

    async def cancelled():
        await handle.cancel("too late")

    if when == "before":
        await cancelled()
        waiting = handle.result(timeout="60s")
    else:
        waiting = asyncio.ensure_future(handle.result(timeout="60s"))
        await watched(handle)
        await cancelled()
    with pytest.raises(JobCancelled) as caught:
        await waiting
    assert caught.value.reason == "too late"


async def test_a_job_that_is_removed_says_so_at_once(client, when):
    handle = await client.enqueue(welcome.job({}))
    if when == "before":
        await handle.remove()
    waiting = asyncio.ensure_future(handle.result(timeout="60s"))
    if when == "while":
        await watched(handle)
        await handle.remove()
    async with asyncio.timeout(60):
        with pytest.raises(JobGone):
            await waiting


async def test_a_job_that_is_removed_as_it_ends_has_its_result_in_the_event(client, finish):
    handle = await client.enqueue(welcome.job({}))
    result = await awaited(handle, lambda: finish(handle.id, "completed", '{"messageId":"m"}', keep=0), "while")
    assert result.message_id == "m"
    other = await client.enqueue(welcome.job({}))
    with pytest.raises(JobFailed, match="declined"):
        await awaited(other, lambda: finish(other.id, "failed", "declined", keep=0), "while")


async def test_a_job_that_ends_between_taking_a_place_and_looking(client, finish):
    """The event is read again from the place, since the job itself is gone."""
    handle = await client.enqueue(welcome.job({}))
    async with client._session.watcher("emails").watch(handle.id) as (_, place):
        finish(handle.id, "completed", '{"messageId":"m"}', keep=0)
        ended = await handle._look(place)
    assert ended is not None
    assert ended.returnvalue == b'{"messageId":"m"}'


async def test_every_wait_ends(client):
    handle = await client.enqueue(welcome.job({}))
    with pytest.raises(ResultTimeout, match=r"0\.05 s.*goes on"):
        await handle.result(timeout="50ms")
    assert (await handle.info()).state == "waiting"


async def test_one_reader_serves_all_who_wait(client, raw, finish):
    handles = await client.enqueue_many(welcome.job({"n": n}) for n in range(50))
    waiting = [asyncio.ensure_future(handle.result(timeout="60s")) for handle in handles]
    watcher = client._session.watcher("emails")
    await eventually(lambda: len(watcher._inboxes) == 50 and watcher._placed is None)
    await eventually(lambda: sum(each["cmd"] == "xread" for each in raw.client_list()) == 1)
    for n, handle in enumerate(handles):
        finish(handle.id, "completed", f'{{"messageId":"m-{n}"}}')
    assert [receipt.message_id for receipt in await asyncio.gather(*waiting)] == [f"m-{n}" for n in range(50)]
    assert not watcher._inboxes


async def test_events_from_now_on_until_the_end(client, raw, finish):
    handle = await client.enqueue(welcome.job({}))
    async with handle.events() as changes:
        finish.start(handle.id)
        raw.xadd(KEYS.events, {"event": "progress", "jobId": handle.id, "data": "50"})
        finish(handle.id, "completed", '{"messageId":"m"}')
        seen = [(event.type, event.state, event.progress) async for event in changes]
    assert seen == [("state", "active", None), ("progress", "active", 50), ("completed", "completed", 50)]
    async with handle.events() as changes:  # it has ended: its last change
        assert [event.type async for event in changes] == ["completed"]
    with pytest.raises(JobGone):
        async with client.queue("emails").job("none").events():
            pass


async def test_a_reader_that_lost_its_connection_goes_on(client, raw, finish):
    handle = await client.enqueue(welcome.job({}))
    waiting = asyncio.ensure_future(handle.result(timeout="60s"))
    await watched(handle)
    reader = await eventually(lambda: next((each["id"] for each in raw.client_list() if each["cmd"] == "xread"), None))
    raw.client_kill_filter(_id=reader)
    finish(handle.id, "completed", '{"messageId":"m"}', keep=0)
    assert (await waiting).message_id == "m"


async def test_a_client_that_is_closed_lets_go_of_who_waits(bullpen_redis):
    from bullpen import Client, RedisUnavailable

    client = Client(bullpen_redis)
    handle = await client.enqueue(welcome.job({}))
    waiting = asyncio.ensure_future(handle.result(timeout="60s"))
    await watched(handle)
    await client.close()
    with pytest.raises(RedisUnavailable, match="closed"):
        await waiting


def test_blocking_results(sync_client, finish):
    def end(state, value, **more):
        handle = sync_client.enqueue(welcome.job({}))
        thread = threading.Timer(0.1, finish, (handle.id, state, value), more)
        thread.start()
        try:
            return handle.result(timeout="60s")
        finally:
            thread.join()

    assert end("completed", '{"messageId":"m"}') == Receipt(message_id="m")
    assert end("completed", '{"messageId":"m"}', keep=0) == Receipt(message_id="m")
    with pytest.raises(JobFailed, match="declined"):
        end("failed", "declined")
    with pytest.raises(JobCancelled):
        end("failed", "cancelled: late", keep=0)
    handle = sync_client.enqueue(welcome.job({}))
    with pytest.raises(ResultTimeout):
        handle.result(timeout="50ms")
    handle.remove()
    with pytest.raises(JobGone):
        handle.result(timeout="60s")


def test_blocking_events(sync_client, finish):
    handle = sync_client.enqueue(welcome.job({}))
    with handle.events() as changes:
        finish(handle.id, "completed", '{"messageId":"m"}')
        assert [event.state for event in changes] == ["active", "completed"]
    with handle.events() as changes:
        assert [event.type for event in changes] == ["completed"]


async def test_what_was_trimmed_while_the_connection_was_lost_is_found_in_the_job(client, raw, finish, monkeypatch):
    monkeypatch.setattr(handles, "LOOK_EVERY_SECONDS", 3_600.0)
    handle = await client.enqueue(welcome.job({}))
    waiting = asyncio.ensure_future(handle.result(timeout="60s"))
    await watched(handle)
    reader = await eventually(lambda: next((each["id"] for each in raw.client_list() if each["cmd"] == "xread"), None))
    raw.client_kill_filter(_id=reader)
    finish(handle.id, "completed", '{"messageId":"m"}')
    raw.xtrim(KEYS.events, maxlen=0, approximate=False)
    assert (await waiting).message_id == "m"  # and not by the look now and then
