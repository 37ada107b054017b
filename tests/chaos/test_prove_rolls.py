"""Deployments: workers are replaced again and again under a full queue, and no job notices."""

from __future__ import annotations

import time

import pytest

from tests.chaos import proving, recorded
from tests.support.waiting import eventually_sync

GOLDEN = 0.6180339887498949


def log_uniform(count, shortest_s, longest_s):
    """As many seconds, spread evenly over the orders of magnitude, in an order that looks random and is not."""
    return [shortest_s * (longest_s / shortest_s) ** (number * GOLDEN % 1) for number in range(count)]


def roll(lab, *, seconds, times, workers, concurrency, grace, apart_s, within_s):
    """Replace all workers so often while the jobs run: a new one for each, ready before the old gets SIGTERM."""
    handles = []
    for start in range(0, len(seconds), 1000):
        handles += lab.client.enqueue_many([recorded.nap.job(each) for each in seconds[start : start + 1000]])
    options = {"concurrency": concurrency, "grace": grace}
    crew = [proving.work(lab, **options) for _ in range(workers)]
    for worker in crew:
        worker.ready()
    rolled_with_work_left = 0
    for _ in range(times):
        began = time.monotonic()
        after = [proving.work(lab, **options) for _ in crew]
        for worker in after:
            worker.ready()
        rolled_with_work_left += lab.count("completed") < len(seconds)
        for worker in crew:
            worker.term()
        for worker in crew:
            assert worker.wait(30) == 0
        crew = after
        while time.monotonic() - began < apart_s and lab.count("completed") < len(seconds):
            time.sleep(0.05)
    eventually_sync(lambda: proving.completed(lab, len(seconds)), within_s, every=0.2)
    assert rolled_with_work_left
    found = proving.runs(lab)
    assert set(found) == {handle.id for handle in handles}
    proving.never_twice_at_once(found)
    assert {[run.how for run in each].count("done") for each in found.values()} == {1}
    assert {run.how for each in found.values() for run in each} == {"done", "cancelled"}
    proving.spent_nothing(lab, handles)
    for worker in crew:
        worker.term()
        assert worker.wait(30) == 0


def test_rolled_workers_run_each_job_once_to_its_end(lab):
    roll(
        lab, seconds=log_uniform(300, 0.001, 3), times=3, workers=1, concurrency=40, grace="500ms", apart_s=0,
        within_s=60,
    )  # fmt: skip


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_ten_thousand_jobs_through_twenty_rolls(lab):
    """1 ms to 30 s, half of them below 0.2 s; a grace period of 5 s; the recovery that is built in."""
    lab.policy(recovery={})
    roll(
        lab, seconds=log_uniform(10_000, 0.001, 30), times=20, workers=2, concurrency=200, grace="5s", apart_s=9,
        within_s=300,
    )  # fmt: skip
