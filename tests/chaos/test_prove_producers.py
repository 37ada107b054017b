"""Producers when Redis is not what it should be: an error that says where and why, within the client's timeout."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bullpen import Client, SyncClient
from bullpen.errors import EnqueueUncertain, RedisUnavailable
from bullpen.redis.settings import RedisSettings
from tests.chaos import proving, recorded
from tests.chaos.conftest import KEYS, ROOT
from tests.support.slow import slow
from tests.support.waiting import Stopwatch, eventually_sync

TIMEOUT_S = 0.8
ALLOWED_S = TIMEOUT_S + 2
"""Who hangs, or takes the default, takes longer."""


def single(client):
    return client.enqueue(recorded.plain.job({"n": 1}))


def bulk(client):
    return client.enqueue_many([recorded.plain.job({"n": number}) for number in range(1200)])


def sync_call(url, call, between):
    """Enqueue once where Redis is well, then again after `between`; gives the error and how long it took."""
    with SyncClient(url, timeout="800ms") as client:
        if between is not None:
            call(client)
            between()
        with Stopwatch() as watch, pytest.raises(RedisUnavailable) as caught:
            call(client)
        return caught.value, watch.seconds


def async_call(url, call, between):
    async def run():
        async with Client(url, timeout="800ms") as client:
            if between is not None:
                await call(client)
                await asyncio.to_thread(between)
            with Stopwatch() as watch, pytest.raises(RedisUnavailable) as caught:
                await call(client)
            return caught.value, watch.seconds

    return asyncio.run(run())


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "fresh"])
@pytest.mark.parametrize("call", [single, bulk])
@pytest.mark.parametrize("client", [sync_call, async_call])
def test_a_dead_redis(lab, client, call, connected):
    where = RedisSettings.from_url(lab.server.url).where
    if not connected:
        lab.server.kill()
    error, took = client(lab.server.url, call, lab.server.kill if connected else None)
    assert took < ALLOWED_S
    assert where in str(error), error
    if connected:  # who had not heard of the end yet has sent it, and says so
        assert re.search("cannot be reached|was lost|no answer", str(error)), error
    else:
        assert "cannot be reached" in str(error), error
        assert not isinstance(error, EnqueueUncertain)


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "fresh"])
@pytest.mark.parametrize("call", [single, bulk])
@pytest.mark.parametrize("client", [sync_call, async_call])
def test_a_frozen_redis(lab, client, call, connected):
    """The command may yet be carried out, where it was sent: then the error says so."""
    where = RedisSettings.from_url(lab.server.url).where
    if not connected:
        lab.server.freeze()
    error, took = client(lab.server.url, call, lab.server.freeze if connected else None)
    assert TIMEOUT_S * 0.9 < took < ALLOWED_S
    assert where in str(error), error
    assert "answer" in str(error) or "nothing within" in str(error), error
    assert isinstance(error, EnqueueUncertain) is connected


# -- slow --------------------------------------------------------------------------------------------------------------


def test_work_goes_on_over_a_slow_network_and_recovers_from_one_that_is_too_slow(lab):
    """100 ms each way, then 1.5 s each way for longer than locks last, then none.

    Who reaches Redis later than a lock lasts may run a job that somebody else has begun again; the lock is noticed as lost.
    """
    with slow(lab.server.url) as between:
        lab.server, honest = Behind(lab.server, between.url), lab.server
        between.delay_s = 0.1
        worker = proving.work(lab, concurrency=10).ready()
        with SyncClient(between.url, timeout="2s") as client:
            handles = client.enqueue_many([recorded.nap.job(0.01) for _ in range(100)])
            eventually_sync(lambda: proving.completed(lab, 100), 30)
            proving.spent_nothing(lab, handles)
            handles += client.enqueue_many([recorded.nap.job(1) for _ in range(40)])
            eventually_sync(lambda: lab.count("active") == 10)
            between.delay_s = 1.5
            with pytest.raises(EnqueueUncertain, match=str(between.port)):
                client.enqueue(recorded.nap.job(0.01))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert worker.process.poll() is None
            time.sleep(0.05)
        between.delay_s = 0.0
        eventually_sync(lambda: lab.count("completed") >= 140 and not lab.count("active") + lab.count("wait"), 60)
        assert lab.count("failed") == 0
        assert {lab.job(handle.id)["atm"] for handle in handles} == {"1"}
        assert worker.process.poll() is None
        lab.server = honest


class Behind:
    """A server that is reached by another address."""

    def __init__(self, server, url):
        self.url = url
        self.thaw = server.thaw


# -- threads, forks ----------------------------------------------------------------------------------------------------


def test_one_sync_client_for_many_threads(lab):
    threads, each = 32, 40
    start = threading.Barrier(threads)

    def produce(number):
        ids = []
        start.wait()
        for turn in range(each):
            if turn % 10 == 9:
                handles = lab.client.enqueue_many([recorded.plain.job({"n": number})] * 3)
            else:
                handles = [lab.client.enqueue(recorded.plain.job({"n": number}))]
            assert [handle.info().data for handle in handles] == [{"n": number}] * len(handles)
            ids += [handle.id for handle in handles]
        return ids

    with ThreadPoolExecutor(threads) as pool:
        ids = [job_id for found in pool.map(produce, range(threads), timeout=60) for job_id in found]
    assert len(set(ids)) == len(ids) == lab.count("wait") == threads * (each - each // 10 + 3 * (each // 10))


def child_enqueues(client, count, number):
    for _ in range(count):
        assert client.enqueue(recorded.plain.job({"n": number})).info().data == {"n": number}
    os._exit(0)


def test_a_sync_client_in_use_survives_forks_from_a_process_with_threads(lab):
    """Parent and children go on at once, over connections of their own; no answer reaches the wrong one."""
    stop = threading.Event()
    wrong: list[object] = []
    done = [0]

    def parent():
        while not stop.is_set():
            data = lab.client.enqueue(recorded.plain.job({"n": -1})).info().data
            done[0] += 1
            if data != {"n": -1}:
                wrong.append(data)

    thread = threading.Thread(target=parent)
    thread.start()
    context = multiprocessing.get_context("fork")
    try:
        eventually_sync(lambda: done[0] > 20)
        children = [context.Process(target=child_enqueues, args=(lab.client, 100, number)) for number in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
            assert child.exitcode == 0
    finally:
        stop.set()
        thread.join(10)
    assert not wrong
    assert lab.count("wait") == 400 + done[0]


PRELOAD = """
import os, signal, sys
from bullpen import SyncClient
from tests.chaos import recorded

# As gunicorn --preload: the application is made, and used, before the workers are forked.
client = SyncClient(sys.argv[1])
first = client.enqueue(recorded.plain.job({"n": 0}))
workers = []
for number in range(1, 5):
    pid = os.fork()
    if not pid:
        for _ in range(50):
            assert client.enqueue(recorded.plain.job({"n": number})).info().data == {"n": number}
        os._exit(0)
    workers.append(pid)
assert first.info().data == {"n": 0}
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
for pid in workers[:1]:
    # A worker that comes later, as after --max-requests.
    if not (late := os.fork()):
        client.enqueue(recorded.plain.job({"n": 9}))
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(late, 0)[1]))
client.enqueue(recorded.plain.job({"n": 0}))
sys.exit(0 if codes == [0] * 5 else 1)
"""


def test_a_sync_client_made_and_used_before_workers_are_forked(lab):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELOAD, lab.server.url], cwd=ROOT, timeout=60, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert lab.redis.llen(KEYS.wait) == 203


def test_a_client_in_use_says_so_when_it_is_forked(lab):
    """An async one cannot go on: its connection is the parent's."""
    code = f"""
import asyncio, os
from bullpen import Client
from bullpen.errors import BullpenError
from tests.chaos import recorded

client = Client({lab.server.url!r})
loop = asyncio.new_event_loop()

async def enqueue():
    await client.enqueue(recorded.plain.job({{"n": 1}}))

loop.run_until_complete(enqueue())
if not (pid := os.fork()):
    try:
        asyncio.run(enqueue())
    except BullpenError as error:
        os._exit(7 if "before this process was forked" in str(error) else 1)
    os._exit(2)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
loop.run_until_complete(enqueue())
loop.run_until_complete(client.close())
loop.close()
raise SystemExit(code)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=False).returncode == 7
    assert lab.count("wait") == 2
