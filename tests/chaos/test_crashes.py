"""Workers that are killed: what comes back, when, and whose fault it is taken to be."""

from __future__ import annotations

import functools
import json

import pytest

from tests.chaos import jobs
from tests.chaos.conftest import KEYS, now
from tests.support.waiting import eventually_sync


def test_a_killed_worker_s_hundred_jobs_start_again(lab):
    """How soon is asked in `make prove`."""
    victim = lab.work().ready()
    running = [lab.client.enqueue(jobs.sleep_at_first.job(600)) for _ in range(100)]
    eventually_sync(lambda: len(lab.ids("start")) == 100)
    lab.work().ready()
    killed = now()
    victim.kill()
    eventually_sync(lambda: len(lab.ids("start")) == 200, 60)
    assert sorted(lab.ids("start")[100:]) == sorted(handle.id for handle in running)
    started = [int(lab.job(handle.id)["processedOn"]) / 1000 for handle in running]
    assert min(started) > killed
    eventually_sync(lambda: lab.count("completed") == 100, 30)
    for handle in running:
        job = lab.job(handle.id)
        assert (job["ats"], job["atm"], job["bullpen:company"]) == ("2", "1", "1")
        assert "bullpen:suspect" not in job


def test_a_job_that_kills_its_process_is_quarantined_and_its_neighbours_are_not(lab):
    worker = lab.work(concurrency=10).ready()
    neighbours = [lab.client.enqueue(jobs.sleep.job(2)) for _ in range(5)]
    poison = lab.client.enqueue(jobs.poison.job())
    eventually_sync(lambda: lab.count("failed") == 1, 40)
    job = lab.job(poison.id)
    assert job["failedReason"] == "quarantined: its worker died 3 times while it ran"
    assert "finishedOn" in job
    assert job["bullpen:crashes"] == "3"
    # Twice in company, three times alone; when it was alone from the start, three times in all.
    assert 3 <= len([job_id for job_id in lab.ids("start") if job_id == poison.id]) <= 5
    eventually_sync(lambda: lab.count("completed") == 5, 20)
    for handle in neighbours:
        assert lab.job(handle.id)["bullpen:crashes"] == "0"
        assert lab.job(handle.id)["atm"] == "1"
    assert worker.process.poll() is None


def test_a_job_that_kills_its_whole_worker_is_quarantined_where_it_is_the_only_one(lab):
    poison = lab.client.enqueue(jobs.poison_all.job())
    for _ in range(3):
        worker = lab.work(concurrency=2)
        worker.wait(60)
    lab.work(concurrency=2).ready()
    eventually_sync(lambda: lab.count("failed") == 1, 15)
    assert lab.job(poison.id)["failedReason"].startswith("quarantined: its worker died 3 times")
    assert len(lab.ids("start")) == 3


def test_a_suspect_runs_alone_and_its_worker_goes_on_with_the_others(lab):
    worker = lab.work(concurrency=3).ready()
    first = lab.client.enqueue(jobs.sleep.job(0.1))
    eventually_sync(lambda: lab.count("completed") == 1)
    suspect = lab.client.enqueue(jobs.sleep.job(5), delay="600s")
    lab.redis.hset(f"bull:chaos:{suspect.id}", mapping={"bullpen:company": 2, "bullpen:suspect": 1})
    suspect.promote()
    eventually_sync(lambda: suspect.id in lab.ids("start"), 10)
    assert len(worker.children()) == 2
    others = [lab.client.enqueue(jobs.sleep.job(0.05)) for _ in range(20)]
    assert suspect.result(timeout="60s") == "slept"
    eventually_sync(lambda: lab.count("completed") == 22)
    assert len(others) == 20
    assert lab.ids("start").count(suspect.id) == 1
    eventually_sync(lambda: len(worker.children()) == 1)
    assert lab.job(first.id)["atm"] == "1"


def held_by(lab, worker):
    """How many jobs this worker runs: active, locked, and marked as its own. Those of dead workers are active, too."""
    names = [name for name, entry in lab.redis.hgetall(KEYS.workers).items() if json.loads(entry)["pid"] == worker.pid]
    pipe = lab.redis.pipeline(transaction=False)
    for job_id in lab.redis.lrange(KEYS.active, 0, -1):
        pipe.hget(KEYS.job(job_id), "pb")
        pipe.exists(KEYS.lock(job_id))
    answers = pipe.execute()
    return sum(name in names and locked for name, locked in zip(answers[::2], answers[1::2], strict=True))


def kill_again_and_again(lab, *, kills, running):
    """Kill a worker with at least `running` jobs, so often; another follows each time. Then let everything end.

    Jobs are added for as long as it takes: many of those that died twice with others are suspect, and run alone.
    """
    ids = []

    def at_work(worker):
        if held_by(lab, worker) >= running:
            return True
        if lab.count("wait") < running:
            ids.extend(handle.id for handle in lab.client.enqueue_many([jobs.sleep.job(0.5)] * running))
        return False

    for _ in range(kills):
        worker = lab.work(concurrency=running * 2)
        eventually_sync(functools.partial(at_work, worker), 60, every=0.02)
        worker.kill()
    lab.work(concurrency=running * 2)
    eventually_sync(lambda: lab.count("completed") == len(ids), 300, every=0.1)
    assert lab.count("failed") == 0
    assert {lab.job(job_id)["atm"] for job_id in ids} == {"1"}
    assert {lab.job(job_id).get("bullpen:crashes", "0") for job_id in ids} == {"0"}


def test_kills_in_company_fail_no_healthy_job(lab):
    kill_again_and_again(lab, kills=4, running=5)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_twenty_kills_of_whole_workers_fail_no_healthy_job(lab):
    kill_again_and_again(lab, kills=20, running=20)
