"""Clocks that are wrong, and clocks that are set while a worker works.

Who fetches tells Redis what time it is (BullMQ's scripts ask no clock), so a delayed job is due by the clock of the worker
that looks. What must not depend on any clock: locks, timeouts, that work goes on, that nothing is lost.
"""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

from tests.chaos import proving, recorded
from tests.chaos.conftest import KEYS, LOCK_S
from tests.support.waiting import eventually_sync

HOUR = 3600.0


class Clock:
    """The wall clock of a worker."""

    def __init__(self, path):
        self.path = path
        self.path.write_bytes(struct.pack("=d", 0.0))

    def set(self, seconds):
        with self.path.open("r+b") as file:
            file.write(struct.pack("=d", seconds))

    @property
    def environ(self):
        return {"SKEW": str(self.path), "PYTHONPATH": str(Path(__file__).parent / "skewed")}


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path / "skew")


@pytest.mark.parametrize(
    "hours", [pytest.param(1, marks=pytest.mark.prove), -1, pytest.param(20, marks=pytest.mark.prove), -20]
)
def test_a_clock_that_jumps_under_running_and_waiting_jobs(lab, clock, hours):
    """By less than the 24 h that completed jobs are kept for: retention goes by the clock of who completes the next."""
    worker = proving.work(lab, concurrency=5, environ=clock.environ).ready()
    handles = lab.client.enqueue_many([recorded.nap.job(1.5 * LOCK_S) for _ in range(5)])
    eventually_sync(lambda: len(proving.running(lab)) == 5)
    clock.set(hours * HOUR)
    handles += lab.client.enqueue_many([recorded.nap.job(0.01) for _ in range(40)])
    eventually_sync(lambda: proving.completed(lab, 45), 30)
    clock.set(0)
    handles += lab.client.enqueue_many([recorded.nap.job(0.01) for _ in range(40)])
    eventually_sync(lambda: proving.completed(lab, 85), 30)
    proving.spent_nothing(lab, handles)
    proving.never_twice_at_once(proving.runs(lab))
    assert worker.probe()[0] == 200
    assert lab.metric(worker, 'lock_renewals_total{outcome="lost"') == 0


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_in_an_idle_worker(lab, clock, hours):
    """Neither the marker nor the poll may wait for a time that is an hour away by now."""
    proving.work(lab, concurrency=5, environ=clock.environ).ready()
    lab.client.enqueue(recorded.nap.job(0.01)).result(timeout="60s")
    clock.set(hours * HOUR)
    lab.client.enqueue(recorded.nap.job(0.01)).result(timeout="60s")
    # Without a marker: only the poll of the worker finds it.
    lab.redis.hset(KEYS.job("found"), mapping={"name": "nap", "data": '{"seconds":0}', "opts": "{}", "timestamp": 1})
    lab.redis.lpush(KEYS.wait, "found")
    eventually_sync(lambda: proving.completed(lab, 3), 15)


def test_a_clock_set_back_within_a_rate_limit(lab, clock):
    lab.redis.hset(KEYS.meta, mapping={"max": 2, "duration": 1500})
    proving.work(lab, concurrency=5, environ=clock.environ).ready()
    handles = lab.client.enqueue_many([recorded.nap.job(0.01) for _ in range(6)])
    eventually_sync(lambda: lab.count("completed") >= 2)
    clock.set(-HOUR)
    eventually_sync(lambda: proving.completed(lab, 6), 30)
    proving.spent_nothing(lab, handles)


def test_timeouts_and_delays_after_a_jump(lab, clock):
    """A timeout is counted by no wall clock; a retry's delay by that of the worker that wrote it and looks again."""
    lab.policy(jobs=[{"name": "nap", "timeout": "1s", "retry": {"attempts": 2}}])
    proving.work(lab, concurrency=5, environ=clock.environ).ready()
    slow = lab.client.enqueue(recorded.nap.job(30))
    eventually_sync(lambda: proving.running(lab))
    clock.set(-HOUR)
    eventually_sync(lambda: lab.count("failed") == 1, 30)
    first, second = proving.runs(lab)[slow.id]
    assert 0.9 < first.ended - first.began < 25
    assert 0.9 < second.ended - second.began < 25
    assert "timed out" in lab.job(slow.id)["failedReason"]


def test_two_workers_whose_clocks_are_hours_apart(lab, clock, tmp_path):
    """Neither takes the other for dead, and one that dies is found out all the same."""
    ahead = Clock(tmp_path / "ahead")
    ahead.set(5 * HOUR)
    clock.set(-5 * HOUR)
    victim = proving.work(lab, concurrency=20, environ=ahead.environ).ready()
    handles = lab.client.enqueue_many([recorded.nap.job(2 * LOCK_S) for _ in range(20)])
    eventually_sync(lambda: len(proving.running(lab)) == 20)
    heir = proving.work(lab, concurrency=20, environ=clock.environ).ready()
    eventually_sync(lambda: proving.completed(lab, 20), 30)
    proving.spent_nothing(lab, handles)
    entries = [json.loads(entry) for entry in lab.redis.hgetall(KEYS.workers).values()]
    assert {entry["pid"] for entry in entries} == {victim.pid, heir.pid}
    again = lab.client.enqueue_many([recorded.nap.job(2 * LOCK_S) for _ in range(40)])
    eventually_sync(lambda: len(proving.running(lab)) == 40)
    victim.kill()
    eventually_sync(lambda: proving.completed(lab, 60), 40)
    assert {lab.job(handle.id)["atm"] for handle in again} == {"1"}
    assert {lab.job(handle.id).get("bullpen:crashes", "0") for handle in again} == {"0"}


def test_the_clock_of_a_worker_is_really_set(lab, clock):
    """Else this whole module shows nothing: the job's times are those of the worker."""
    clock.set(-HOUR)
    proving.work(lab, environ=clock.environ).ready()
    handle = lab.client.enqueue(recorded.nap.job(0.01))
    eventually_sync(lambda: proving.completed(lab, 1))
    assert time.time() - int(lab.job(handle.id)["finishedOn"]) / 1000 > HOUR - 60
