"""Custody whole: locks, beats and policy over its own links; handing back what a dead process ran."""

from __future__ import annotations

import asyncio
import threading

import pytest
import redis.asyncio

from bullpen.queue.keys import QueueKeys
from bullpen.redis.settings import RedisSettings
from bullpen_worker.keeping.custody import Custody, CustodyThread
from bullpen_worker.keeping.heartbeat import Entry
from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.recovery import Death
from tests.support.keeping import SELF, TERMS, Line, Queue, now_ms
from tests.support.waiting import eventually

ENTRY = Entry("pod", 1, 2, 10, 0, 1, "working", [], "0.1")


class Told:
    def __init__(self):
        self.threads = set()
        self.lost_jobs, self.policies, self.troubles = [], [], []
        self.kept = 0

    def lost(self, run):
        self.lost_jobs.append(run.view.job_id)

    def cancel(self, run, reason): ...

    def retire(self, *, retiring): ...

    def limited(self, delay_ms): ...

    def policy(self, rev, doc):
        self.threads.add(threading.get_ident())
        self.policies.append((rev, doc))

    def renewed(self, kept, lost):
        self.kept += kept

    def recovered(self, decisions): ...

    def trouble(self, doing, error):
        self.troubles.append(doing)


@pytest.fixture
def told():
    return Told()


def make(url, queue, told):
    settings = RedisSettings.from_url(url)
    return Custody(settings, queue.keys, name=SELF, hooks=told, entry=lambda: ENTRY, terms=TERMS)


@pytest.fixture
async def custody(bullpen_redis, queue, told):
    made = make(bullpen_redis, queue, told)
    task = asyncio.create_task(made.run())
    await eventually(lambda: told.policies)
    yield made
    task.cancel()
    await asyncio.wait([task])


async def hold(queue, table, slot, job_id, **fields):
    await queue.start(job_id, SELF, "token", 60_000, **fields)
    table.occupy(slot, job_id=job_id.encode(), token=b"token", started_ms=now_ms())
    return Run.of(table, table.view(slot))


async def test_a_release_spends_nothing_and_wakes_a_worker(custody, queue, table, client):
    run = await hold(queue, table, 0, "7")
    [released] = await custody.release([run])
    assert (released.given_back, released.quarantined) == (True, False)
    assert await queue.waiting() == ["7"]
    assert await client.zscore(queue.keys.marker, "0") == 0
    assert await client.exists(queue.keys.lock("7")) == 0
    assert await queue.field("7", "bullpen:deaths") is None


async def test_a_job_with_a_priority_goes_back_to_its_priority_with_a_marker(custody, queue, table, client):
    run = await hold(queue, table, 0, "7", priority=5)
    await client.delete(queue.keys.marker)
    await custody.release([run])
    assert await client.zrange(queue.keys.prioritized, 0, -1) == [b"7"]
    assert await client.zscore(queue.keys.marker, "0") == 0


async def test_a_paused_queue_gets_no_marker(custody, queue, table, client):
    await client.hset(queue.keys.meta, "paused", 1)
    run = await hold(queue, table, 0, "7")
    await custody.release([run])
    assert await client.exists(queue.keys.marker) == 0
    assert await queue.waiting() == ["7"]


@pytest.mark.parametrize(
    ("death", "crashes", "company", "quarantined"),
    [(Death.COMPANY, "2", "1", False), (Death.ALONE, "3", "0", True)],
)
async def test_a_crash_is_accounted_for(custody, queue, table, death, crashes, company, quarantined):
    run = await hold(queue, table, 0, "7", **{"bullpen:crashes": 2})
    [released] = await custody.release([run], death=death, by=f"{SELF}/1")
    assert released.quarantined is quarantined
    assert await queue.field("7", "bullpen:crashes") == crashes
    assert await queue.field("7", "bullpen:company") == company
    assert await queue.field("7", "bullpen:suspect") == "1"
    assert await queue.field("7", "bullpen:deaths") == f"{death.value[0]}:{SELF}/1"
    assert (await queue.field("7", "defa") is not None) is quarantined


async def test_many_jobs_go_back_in_their_order(custody, queue, table):
    held = [await hold(queue, table, slot, str(slot)) for slot in range(8)]
    assert all(released.given_back for released in await custody.release(held, death=Death.COMPANY, by="x"))
    assert await queue.waiting() == [str(slot) for slot in range(8)]


async def test_who_has_many_jobs_waits_for_a_frozen_redis_once(redis_server, told, table):
    """Not for each of them, which would keep a pod of a hundred slots for minutes after its end."""
    client = redis.asyncio.Redis.from_url(redis_server.url)
    line = Line(redis_server.url)
    queue = Queue(client, QueueKeys("bull", "mail"), line)
    custody = make(redis_server.url, queue, told)
    task = asyncio.create_task(custody.run())
    try:
        await eventually(lambda: told.policies)
        held = [await hold(queue, table, slot, str(slot)) for slot in range(8)]
        redis_server.freeze()
        async with asyncio.timeout(40):  # one wait takes 10 s, and eight 80
            released = await custody.release(held)
        assert not any(each.given_back for each in released)
    finally:
        redis_server.thaw()
        task.cancel()
        await asyncio.wait([task])
        await line.close()
        await client.aclose()


async def test_what_somebody_else_runs_by_now_is_left_alone(custody, queue, table, client):
    run = await hold(queue, table, 0, "7")
    await client.set(queue.keys.lock("7"), "another")
    [released] = await custody.release([run], death=Death.ALONE, by="x")
    assert not released.given_back
    assert await queue.active() == ["7"]
    assert await queue.field("7", "bullpen:deaths") is None


async def test_locks_are_kept_from_a_thread_of_its_own(bullpen_redis, queue, table, told, client):
    doc = '{"recovery":{"lockDuration":"5s"}}'
    await client.hset(queue.keys.policy, mapping={"v": "1", "rev": "r", "doc": doc})
    ended = []
    thread = CustodyThread(lambda: make(bullpen_redis, queue, told), ended.append)
    custody = thread.start()
    thread.call(lambda: custody.watch(table))
    await queue.start("7", SELF)
    table.occupy(0, job_id=b"7", token=b"token", started_ms=now_ms())
    await eventually(lambda: told.kept >= 3)
    assert await client.pttl(queue.keys.lock("7")) > TERMS.lock_ms / 4
    assert told.threads
    assert threading.get_ident() not in told.threads
    await asyncio.to_thread(thread.stop)
    thread.stop()
    assert ended == [None]
    assert await client.exists(queue.keys.workers) == 0


async def test_redis_that_comes_late_is_waited_for(redis_server, queue, told):
    redis_server.freeze()
    custody = make(redis_server.url, queue, told)
    task = asyncio.create_task(custody.run())
    try:
        await asyncio.wait([task], timeout=0.1)
        assert not custody.connected_once
        redis_server.thaw()
        await eventually(lambda: told.policies, 10)
        assert custody.up_seconds is not None
        redis_server.restart()
        await eventually(lambda: "the connection" in told.troubles, 10)
        await eventually(lambda: custody.up_seconds is not None, 10)
    finally:
        task.cancel()
        await asyncio.wait([task])
