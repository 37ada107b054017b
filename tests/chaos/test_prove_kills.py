"""Workers that are killed, at the recovery times that are built in, with a record that no Redis can blur."""

from __future__ import annotations

import functools
import time

import pytest

from tests.chaos import proving, recorded
from tests.support.processes import is_gone
from tests.support.waiting import eventually_sync

LOCK_S = 10.0
CHECK_S = 3.0


def kill(worker):
    """Kill the whole worker; gives its children, and when the last of them was seen dead."""
    pids = worker.children()
    worker.kill()
    eventually_sync(lambda: all(map(is_gone, pids)))
    return dict.fromkeys(pids, time.monotonic())


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_a_killed_worker_s_hundred_jobs_start_again_in_time_at_the_built_in_recovery(lab):
    lab.policy(recovery={})
    victim = proving.work(lab).ready()
    handles = lab.client.enqueue_many([recorded.nap.job(40) for _ in range(100)])
    eventually_sync(lambda: len(proving.running(lab)) == 100, 15)
    heir = proving.work(lab).ready()
    at = time.monotonic()
    dead = kill(victim)
    eventually_sync(lambda: set(proving.began(lab).values()) == {2}, LOCK_S + 2 * CHECK_S + 5, every=0.05)
    found = proving.runs(lab)
    again = [found[handle.id][1].began - at for handle in handles]
    print(f"100 jobs of a killed worker began again {min(again):.2f} to {max(again):.2f} s after the kill")
    assert max(again) <= LOCK_S + 2 * CHECK_S
    proving.never_twice_at_once(found, dead)
    eventually_sync(lambda: proving.completed(lab, 100), 60)
    assert {lab.job(handle.id)["atm"] for handle in handles} == {"1"}
    assert heir.probe()[0] == 200


def kill_again_and_again(lab, *, kills, running, poison):
    """Kill whole workers with so many jobs running; all complete, and none ran twice at once.

    Each job dies with its worker twice in a row, so it is suspect then and runs alone, which the next worker sees to before
    others come. `poison` jobs, each of which kills its process each time, run in the midst of others when the killing is
    over.
    """
    handles = []
    dead = {}
    for number in range(kills):
        worker = proving.work(lab, concurrency=2 * running).ready()
        if number % 2 == 0:
            eventually_sync(functools.partial(proving.completed, lab, len(handles)), 60, every=0.05)
            handles += lab.client.enqueue_many([recorded.nap.job(1.2) for _ in range(running + 5)])
        eventually_sync(lambda worker=worker: run_by(lab, worker) >= running, 30, every=0.02)
        dead |= kill(worker)
    survivor = lab.work(
        concurrency=2 * running,
        handlers="tests.chaos.deadly",
        environ={recorded.RECORD: str(proving.record(lab))},
    ).ready()
    poisons = [lab.client.enqueue(deadly_job()) for _ in range(poison)]
    handles += lab.client.enqueue_many([recorded.nap.job(1.2) for _ in range(running)])
    eventually_sync(lambda: lab.count("failed") == poison, 90, every=0.1)
    eventually_sync(lambda: lab.count("completed") == len(handles), 180, every=0.1)
    for handle in poisons:
        job = lab.job(handle.id)
        assert job["failedReason"] == "quarantined: its worker died 3 times while it ran"
        assert job["bullpen:crashes"] == "3"
    assert {lab.job(handle.id)["atm"] for handle in handles} == {"1"}
    assert {lab.job(handle.id).get("bullpen:crashes", "0") for handle in handles} == {"0"}
    assert survivor.process.poll() is None
    found = proving.runs(lab)
    for job in poisons:
        # A poison is the last thing that its process did.
        dead |= {run.pid: run.began + 0.05 for run in found.pop(job.id)}
    proving.never_twice_at_once(found, dead)


def run_by(lab, worker):
    """How many jobs this worker runs, by their own word."""
    pids = worker.children()
    return sum(each[-1].ended is None and each[-1].pid in pids for each in proving.runs(lab).values())


def deadly_job():
    from tests.chaos import deadly

    return deadly.die.job()


def test_kills_and_a_poison_harm_no_healthy_job(lab):
    kill_again_and_again(lab, kills=2, running=20, poison=1)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_twenty_kills_and_two_poisons_harm_no_healthy_job(lab):
    kill_again_and_again(lab, kills=20, running=25, poison=2)
