"""Redis frozen, and Redis restarted, under a worker at work; workers rolled over and over."""

from __future__ import annotations

import time

import pytest

from tests.chaos import jobs
from tests.chaos.conftest import LOCK_S, now
from tests.support.waiting import eventually_sync


def test_redis_frozen_for_three_lock_durations(lab):
    """Locks are noticed as lost, what they guarded is void and counted, and every job completes."""
    workers = [lab.work(concurrency=10).ready() for _ in range(2)]
    handles = [lab.client.enqueue(jobs.sleep_at_first.job(600)) for _ in range(20)]
    eventually_sync(lambda: len(lab.ids("start")) == 20)
    lab.server.freeze()
    frozen = now()
    while now() - frozen < 3 * LOCK_S:
        assert all(worker.process.poll() is None for worker in workers)
        time.sleep(0.1)
    lab.server.thaw()
    eventually_sync(lambda: lab.count("completed") == 20, 40)
    assert lab.count("failed") == 0
    eventually_sync(
        lambda: (
            sum(
                lab.metric(worker, 'job_attempts_total{name="sleep_at_first",outcome="lock_lost"') for worker in workers
            )
            == 20
        )
    )
    assert sum(lab.metric(worker, 'lock_renewals_total{outcome="lost"') for worker in workers) == 20
    for handle in handles:
        job = lab.job(handle.id)
        assert (job["atm"], job["ats"]) == ("1", "2")
        assert "defa" not in job
        assert job.get("bullpen:crashes", "0") == "0"
    assert all(worker.process.poll() is None for worker in workers)


def test_redis_restarted_with_aof_loses_nothing_and_work_goes_on(lab):
    lab.redis.config_set("appendonly", "yes")
    eventually_sync(lambda: lab.redis.info("persistence")["aof_rewrite_in_progress"] == 0)
    lab.redis.config_set("appendfsync", "always")
    worker = lab.work(concurrency=10).ready()
    handles = [lab.client.enqueue(jobs.sleep.job(0.2)) for _ in range(200)]
    eventually_sync(lambda: lab.count("completed") >= 40, 20)
    lab.server.restart()
    before = len(lab.ids("end"))
    eventually_sync(lambda: len(lab.ids("end")) > before)
    eventually_sync(lambda: lab.count("completed") == 200, 40)
    assert lab.count("failed") == 0
    assert {lab.job(handle.id)["atm"] for handle in handles} == {"1"}
    assert worker.process.poll() is None
    assert worker.probe()[0] == 200


def roll(lab, *, times, count, longest_s):
    """Roll the worker so often while `count` jobs of 1 ms to `longest_s` run (log-uniform): one starts, one gets SIGTERM."""
    # What is rolled gives its jobs back by itself; locks as short as the others' would run out on a machine that is busy.
    lab.policy(recovery={"lockDuration": "20s", "checkInterval": "500ms", "maxCrashes": 3})
    seconds = (0.001 * (longest_s * 1000) ** (n * 0.618034 % 1) for n in range(count))
    handles = [lab.client.enqueue(jobs.sleep.job(each)) for each in seconds]
    worker = lab.work(concurrency=50, grace="500ms").ready()
    for _ in range(times):
        after = lab.work(concurrency=50, grace="500ms").ready()
        worker.term()
        assert worker.wait(60) == 0
        worker = after
    eventually_sync(lambda: lab.count("completed") == count, 300, every=0.05)
    assert lab.count("failed") == 0
    for handle in handles:
        job = lab.job(handle.id)
        assert (job["atm"], job.get("stc", "0")) == ("1", "0")
        assert "bullpen:deaths" not in job
    overlaps(lab)


def overlaps(lab):
    """No job may have run twice at once: it may have ended once only."""
    ends = lab.ids("end")
    assert len(ends) == len(set(ends))


def test_rolling_restarts_spend_no_attempt(lab):
    roll(lab, times=4, count=600, longest_s=4)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_twenty_rolling_restarts_spend_no_attempt(lab):
    roll(lab, times=20, count=3000, longest_s=10)
