"""Redis frozen, killed, full, slow and read-only under workers at work and producers that go on."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from bullpen import SyncClient, embedded
from bullpen.errors import EnqueueUncertain, RedisUnavailable
from tests.chaos import proving, recorded
from tests.chaos.conftest import LOCK_S
from tests.support.waiting import eventually_sync


@pytest.fixture
def redis_server(redis_binary):
    """One that has on disk whatever it said yes to."""
    with embedded.start(binary=redis_binary, config={"appendfsync": "always"}) as server:
        yield server


class Producer(threading.Thread):
    """Enqueues without a break; keeps which jobs are promised, which may be there, and what was said of the rest."""

    def __init__(self, url, *, seconds, pause_s=0.01):
        super().__init__(daemon=True)
        self.promised = []
        self.doubtful = 0
        self.errors = []
        self.took = []
        self._client = SyncClient(url, timeout="1s")
        self._seconds = seconds
        self._pause_s = pause_s
        self._done = threading.Event()

    def run(self):
        while not self._done.wait(self._pause_s):
            began = time.monotonic()
            try:
                self.promised.append(self._client.enqueue(recorded.nap.job(self._seconds)))
            except EnqueueUncertain as error:
                self.doubtful += 1
                self.errors.append(error)
            except RedisUnavailable as error:
                self.errors.append(error)
            self.took.append(time.monotonic() - began)

    def stop(self):
        self._done.set()
        self.join(10)
        assert not self.is_alive()
        self._client.close()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()


def all_promised_end(lab, producer, within_s=60):
    """What `enqueue` promised completes; nothing fails; nothing waits."""

    def idle():
        proving.completed(lab, 0)
        assert not any(lab.count(state) for state in ("wait", "active", "prioritized", "delayed"))
        return True

    eventually_sync(idle, within_s, every=0.05)
    count = lab.count("completed")
    assert len(producer.promised) <= count <= len(producer.promised) + producer.doubtful
    lost = [handle.id for handle in producer.promised if lab.redis.zscore("bull:chaos:completed", handle.id) is None]
    assert not lost


# -- frozen ------------------------------------------------------------------------------------------------------


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_redis_frozen_for_three_lock_durations_at_the_built_in_recovery(lab):
    """30 s of silence. The short form is in `test_outages`; here the record shows that no two runs overlap."""
    lab.policy(recovery={})
    workers = [proving.work(lab, concurrency=20).ready() for _ in range(2)]
    handles = lab.client.enqueue_many([recorded.nap.job(45) for _ in range(40)])
    eventually_sync(lambda: len(proving.running(lab)) == 40)
    lab.server.freeze()
    frozen = time.monotonic()
    while time.monotonic() - frozen < 30:
        assert all(worker.process.poll() is None and worker.probe()[0] == 200 for worker in workers)
        time.sleep(0.1)
    told = proving.runs(lab)
    lab.server.thaw()
    assert {run.how for each in told.values() for run in each} == {"cancelled"}
    late = max(run.ended for each in told.values() for run in each) - frozen
    print(f"the last handler was told that its lock is lost {late:.1f} s after the freeze")
    eventually_sync(lambda: proving.completed(lab, 40), 120, every=0.1)
    proving.never_twice_at_once(proving.runs(lab))
    attempts = 'job_attempts_total{name="nap",outcome="lock_lost"'
    eventually_sync(lambda: sum(lab.metric(worker, attempts) for worker in workers) == 40)
    assert sum(lab.metric(worker, 'lock_renewals_total{outcome="lost"') for worker in workers) == 40
    for handle in handles:
        job = lab.job(handle.id)
        assert (job["atm"], job["ats"], job.get("bullpen:crashes", "0")) == ("1", "2", "0")


# -- restarted -------------------------------------------------------------------------------------------------------


def restart_again_and_again(lab, *, times, kill):
    """Restart Redis under two workers and a producer; work must go on within 5 s of each."""
    workers = [proving.work(lab, concurrency=10).ready() for _ in range(2)]
    slowest = 0.0
    with Producer(lab.server.url, seconds=0.1) as producer:
        for _ in range(times):
            before = len(proving.runs(lab))
            eventually_sync(lambda before=before: len(proving.runs(lab)) > before + 20, 10)
            if kill:
                lab.server.kill()
            lab.server.restart()
            back = time.monotonic()
            before = proving.began(lab)
            eventually_sync(lambda before=before: len(proving.began(lab)) > len(before), 5)
            slowest = max(slowest, time.monotonic() - back)
    print(f"Redis {'killed' if kill else 'restarted'} {times} times: work went on within {slowest:.2f} s of its return")
    all_promised_end(lab, producer)
    assert producer.promised
    proving.never_twice_at_once(proving.runs(lab))
    assert {lab.job(handle.id)["atm"] for handle in producer.promised} == {"1"}
    assert all(worker.process.poll() is None and worker.probe()[0] == 200 for worker in workers)


def test_redis_killed_under_work_and_producers(lab):
    restart_again_and_again(lab, times=1, kill=True)


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_redis_restarted_ten_times_under_work_and_producers(lab, kill):
    restart_again_and_again(lab, times=10, kill=kill)


# -- full, read-only -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full(lab):
    """Let Redis have no memory left; nothing is evicted."""
    lab.redis.config_set("maxmemory", "1mb")
    try:
        yield
    finally:
        lab.redis.config_set("maxmemory", "0")


@contextlib.contextmanager
def read_only(lab):
    """Make Redis a replica of nobody: it refuses writes."""
    lab.redis.config_set("replica-serve-stale-data", "yes")
    lab.redis.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        lab.redis.replicaof("NO", "ONE")


def refuse_for(lab, refusing, seconds, says):
    """Have Redis refuse writes so long, with jobs running and others waiting; then all must go on."""
    workers = [proving.work(lab, concurrency=10).ready() for _ in range(2)]
    with Producer(lab.server.url, seconds=0.2, pause_s=0.02) as producer:
        eventually_sync(lambda: len(proving.runs(lab)) > 40, 15)
        with refusing(lab):
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                assert all(worker.process.poll() is None for worker in workers)
                time.sleep(0.05)
            before = len(proving.runs(lab))
        back = time.monotonic()
        eventually_sync(lambda: len(proving.runs(lab)) > before, 5)
        print(f"{says}: work went on {time.monotonic() - back:.2f} s after it was over")
    all_promised_end(lab, producer)
    assert producer.errors
    assert all(says in str(error) for error in producer.errors), producer.errors
    assert not producer.doubtful
    assert max(producer.took) < 20  # it was told, and did not hang
    proving.never_twice_at_once(proving.runs(lab))
    assert {lab.job(handle.id)["atm"] for handle in producer.promised} == {"1"}
    assert all(worker.process.poll() is None and worker.probe()[0] == 200 for worker in workers)


FULL = "its memory is full (maxmemory); give it more, or remove jobs"
READ_ONLY = "it is a replica; name the primary"


@pytest.mark.parametrize(("refusing", "says"), [(full, FULL), (read_only, READ_ONLY)], ids=["full", "read-only"])
def test_redis_refuses_writes_for_a_moment(lab, refusing, says):
    refuse_for(lab, refusing, 1, says)


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("refusing", "says"), [(full, FULL), (read_only, READ_ONLY)], ids=["full", "read-only"])
def test_redis_refuses_writes_for_longer_than_locks_last(lab, refusing, says):
    refuse_for(lab, refusing, 4 * LOCK_S, says)
