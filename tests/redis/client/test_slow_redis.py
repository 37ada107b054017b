"""Who waits for a Redis that is far away, frozen or busy waits no longer than was said, and no shorter."""

import contextlib
import threading
import time

import pytest
import redis

from bullpen import Client, EnqueueUncertain, JobCancelled, JobSpec, RedisUnavailable, ResultTimeout, SyncClient
from bullpen.clients import enqueueing, handles
from bullpen.clients.sync_session import SyncSession
from bullpen.queue.keys import QueueKeys
from bullpen.redis import blocking
from tests.support.slow import slow
from tests.support.waiting import eventually_sync

KEYS = QueueKeys("bull", "emails")


@pytest.fixture
def far_away(bullpen_redis):
    """A Redis that answers after half a second."""
    with slow(bullpen_redis) as far:
        far.delay_s = 0.25
        yield far.url


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_each_batch_of_a_bulk_has_the_clients_timeout(far_away, monkeypatch, kind):
    monkeypatch.setattr(enqueueing, "BATCH", 1)
    jobs = [JobSpec.by_name("x") for _ in range(20)]  # ten seconds, at the least
    if kind == "async":
        async with Client(far_away, timeout="8s") as client:
            assert len({handle.id for handle in await client.queue("emails").enqueue_many(jobs)}) == 20
    else:
        with SyncClient(far_away, timeout="8s") as blocking, pytest.warns(match="blocks the event loop"):
            assert len({handle.id for handle in blocking.queue("emails").enqueue_many(jobs)}) == 20


async def test_a_bulk_fails_within_one_timeout_where_redis_freezes(redis_server, monkeypatch):
    monkeypatch.setattr(enqueueing, "BATCH", 1)
    async with Client(redis_server.url, timeout="2s") as client:
        await client.queue("emails").enqueue("warm")
        redis_server.freeze()
        try:
            began = time.monotonic()
            with pytest.raises(EnqueueUncertain):
                await client.queue("emails").enqueue_many(JobSpec.by_name("x") for _ in range(20))
            took = time.monotonic() - began
        finally:
            redis_server.thaw()
    assert took < 20  # not one timeout for each


@pytest.mark.parametrize("named_by", ["the URL", "the environment"])
async def test_a_url_says_how_long_a_call_may_take(redis_server, monkeypatch, named_by):
    url = f"{redis_server.url}?timeout=1s"
    monkeypatch.setenv("BULLPEN_REDIS_URL", url)
    given = url if named_by == "the URL" else None
    redis_server.freeze()
    try:
        async with Client(given) as client:
            with pytest.raises(RedisUnavailable, match="nothing within 1 s"):
                await client.queue("emails").counts()
        async with Client(given, timeout="500ms") as client:
            with pytest.raises(RedisUnavailable, match=r"nothing within 0\.5 s"):
                await client.queue("emails").counts()
    finally:
        redis_server.thaw()


def test_a_url_says_how_long_a_blocking_call_may_take(redis_server):
    redis_server.freeze()
    try:
        with SyncClient(f"{redis_server.url}?timeout=1s") as client, pytest.raises(RedisUnavailable, match="1 s"):
            client.queue("emails").counts()
    finally:
        redis_server.thaw()


def test_a_blocking_wait_ends_in_time_where_redis_is_frozen(redis_server):
    with SyncClient(redis_server.url, timeout="1m") as client:
        handle = client.queue("emails").enqueue("x", delay="1h")
        over = threading.Event()

        def freeze():
            eventually_sync(lambda: over.is_set() or b"cmd=xread" in redis_server.execute(b"CLIENT", b"LIST"))
            redis_server.freeze()

        frozen = threading.Thread(target=freeze)
        frozen.start()
        try:
            began = time.monotonic()
            with pytest.raises(ResultTimeout):
                handle.result(timeout="5s")
            took = time.monotonic() - began
        finally:
            over.set()
            frozen.join()
            redis_server.thaw()
    assert took < 30  # not the client's own minute


@pytest.mark.parametrize("way", ["result", "events"])
def test_blocking_waits_look_at_the_job_though_others_stir_all_the_time(bullpen_redis, monkeypatch, way):
    """Its own end was trimmed from the stream before it was read; others' events never stop."""
    monkeypatch.setattr(handles, "LOOK_EVERY_SECONDS", 1.5)
    monkeypatch.setattr(SyncSession, "longest_read", 1.5)
    over, waits = threading.Event(), threading.Event()
    with SyncClient(bullpen_redis) as client, contextlib.closing(redis.Redis.from_url(bullpen_redis)) as raw:
        handle = client.queue("emails").enqueue("x", delay="1h")

        def stir():
            cancelled = False
            while not over.wait(0.005):
                with raw.pipeline() as together:  # that nobody reads the end between its coming and its going
                    if waits.is_set() and not cancelled:
                        cancelled = True
                        together.delete(KEYS.delayed)
                        together.zadd(KEYS.failed, {handle.id: 1})
                        together.hset(KEYS.job(handle.id), mapping={"finishedOn": 1, "failedReason": "cancelled: late"})
                    together.xadd(KEYS.events, {"event": "active", "jobId": "another", "prev": "waiting"})
                    together.execute()

        def look_on():
            with contextlib.closing(redis.Redis.from_url(bullpen_redis, decode_responses=True)) as other:
                eventually_sync(lambda: any(each["cmd"] == "xread" for each in other.client_list()))
            waits.set()

        threads = [threading.Thread(target=stir), threading.Thread(target=look_on)]
        for each in threads:
            each.start()
        try:
            if way == "result":
                with pytest.raises(JobCancelled, match="late"):
                    handle.result(timeout="1m")
            else:
                with handle.events() as changes:
                    assert [event.state for event in changes] == ["cancelled"]
        finally:
            over.set()
            for each in threads:
                each.join()


class Interrupted(BaseException):
    """What a signal's handler raises, wherever the program is: gunicorn's on a timeout, for one."""


def test_a_blocking_call_that_is_interrupted_leaves_no_answer_to_the_next(redis_server, monkeypatch):
    left = blocking._left
    calls = iter((1, 2))

    def interrupted(deadline):
        if next(calls) == 2:  # the command is sent, nothing is read yet
            raise Interrupted
        return left(deadline)

    with SyncClient(redis_server.url) as client:
        queue = client.queue("emails")
        handle = queue.enqueue("x")
        redis_server.freeze()
        back = threading.Timer(0.5, redis_server.thaw)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(blocking, "_left", interrupted)
                with pytest.raises(Interrupted):
                    handle.logs()
            back.start()
            assert queue.counts()["waiting"] == 1
        finally:
            redis_server.thaw()
            back.join()
