"""What a supervisor does about its children: stuck, killed, stopping, unable to start."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from bullpen.redis.settings import RedisSettings
from bullpen_worker.reports.logs import LogSettings
from bullpen_worker.supervision import faults, vitality
from bullpen_worker.supervision.config import WorkerConfig
from bullpen_worker.supervision.supervisor import Supervisor
from tests.chaos import jobs
from tests.chaos.conftest import LOCK_S
from tests.support.processes import is_gone
from tests.support.waiting import eventually_sync


def test_a_handler_that_holds_the_gil_keeps_its_lock_and_probes_answer(lab):
    worker = lab.work().ready()
    handle = lab.client.enqueue(jobs.hold_gil.job(2.5 * LOCK_S))
    eventually_sync(lambda: lab.ids("start"))
    seen = []
    while not lab.ids("end"):
        seen.append(worker.probe()[0])
        time.sleep(0.1)
        assert len(seen) < 400
    assert set(seen) == {200}
    assert handle.result(timeout="60s") == "held"
    assert lab.ids("start") == [handle.id]
    job = lab.job(handle.id)
    assert (job["ats"], job["atm"], job.get("stc")) == ("1", "1", None)
    worker.term()
    assert worker.wait() == 0


def test_sigterm_is_obeyed_while_a_handler_holds_the_gil(lab):
    worker = lab.work(grace="1s").ready()
    stuck = lab.client.enqueue(jobs.hold_for_ever.job())
    eventually_sync(lambda: lab.ids("start"))
    worker.term()
    assert worker.wait(60) == 0
    job = lab.job(stuck.id)
    assert lab.redis.lrange("bull:chaos:wait", 0, -1) == [stuck.id]
    assert "atm" not in job
    assert "bullpen:deaths" not in job
    assert lab.redis.exists(f"bull:chaos:{stuck.id}:lock") == 0


def test_a_second_sigterm_gives_back_at_once(lab):
    worker = lab.work(grace="60s").ready()
    running = [lab.client.enqueue(jobs.sleep.job(30)) for _ in range(10)]
    eventually_sync(lambda: len(lab.ids("start")) == 10)
    worker.term()
    eventually_sync(lambda: worker.probe("/readyz")[1].strip() == "stopping")
    worker.term()
    assert worker.wait() == 0
    assert sorted(lab.redis.lrange("bull:chaos:wait", 0, -1)) == sorted(handle.id for handle in running)
    assert all("atm" not in lab.job(handle.id) for handle in running)


def test_a_handler_that_refuses_to_end_is_killed_at_the_deadline_and_its_job_goes_back(lab):
    worker = lab.work(grace="500ms").ready()
    stubborn = lab.client.enqueue(jobs.stubborn.job())
    eventually_sync(lambda: lab.ids("start"))
    worker.term()
    assert worker.wait() == 0
    assert lab.redis.lrange("bull:chaos:wait", 0, -1) == [stubborn.id]
    assert "atm" not in lab.job(stubborn.id)


def test_a_child_past_a_timeout_is_killed_the_guilty_times_out_the_others_go_back(lab):
    lab.policy(jobs=[{"name": "hold_for_ever", "timeout": "1s", "retry": {"attempts": 1}}])
    worker = lab.work(kill_grace="1s").ready()
    others = [lab.client.enqueue(jobs.sleep_at_first.job(600)) for _ in range(3)]
    eventually_sync(lambda: len(lab.ids("start")) == 3)
    guilty = lab.client.enqueue(jobs.hold_for_ever.job())
    eventually_sync(lambda: lab.count("failed") == 1, 15)
    job = lab.job(guilty.id)
    assert "timed out" in job["failedReason"]
    assert (job["atm"], job["ats"]) == ("1", "1")
    eventually_sync(lambda: lab.count("completed") == 3, 20)
    for handle in others:
        job = lab.job(handle.id)
        assert (job["atm"], job["ats"], job.get("stc")) == ("1", "2", None)
        assert "bullpen:deaths" not in job
    eventually_sync(lambda: lab.metric(worker, 'job_attempts_total{name="hold_for_ever",outcome="timeout"') == 1)


def test_a_timeout_is_retried_as_the_policy_says(lab):
    lab.policy(
        jobs=[
            {
                "name": "hold_for_ever",
                "timeout": "500ms",
                "retry": {"attempts": 2, "backoff": {"type": "Fixed", "delay": "100ms"}},
            }
        ]
    )
    lab.work(kill_grace="500ms").ready()
    guilty = lab.client.enqueue(jobs.hold_for_ever.job())
    eventually_sync(lambda: lab.count("failed") == 1, 30)
    assert lab.job(guilty.id)["atm"] == "2"
    assert lab.ids("start") == [guilty.id] * 2


def test_a_killed_child_s_jobs_start_again_at_once_in_another(lab):
    lab.policy(recovery={"lockDuration": "10m"})  # nobody waits for that
    worker = lab.work().ready()
    running = [lab.client.enqueue(jobs.sleep_at_first.job(600)) for _ in range(5)]
    eventually_sync(lambda: len(lab.ids("start")) == 5)
    [child] = worker.children()
    os.kill(child, signal.SIGKILL)
    eventually_sync(lambda: len(lab.ids("start")) == 10)
    eventually_sync(lambda: lab.count("completed") == 5, 15)
    for handle in running:
        job = lab.job(handle.id)
        assert (job["ats"], job["atm"], job["bullpen:company"]) == ("2", "1", "1")
        assert "bullpen:suspect" not in job
    assert worker.process.poll() is None


def test_children_die_with_their_supervisor(lab):
    worker = lab.work(processes=2).ready()
    lab.client.enqueue(jobs.hold_for_ever.job())
    eventually_sync(lambda: lab.ids("start"))
    pids = worker.children()
    assert len(pids) == 2
    worker.kill()
    eventually_sync(lambda: all(map(is_gone, pids)))


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("tests.chaos.no_such_module", "no_such_module"),
        ("tests.chaos.broken_lifespan", "the database is not there"),
        ("tests.chaos.dies_at_import", "3 children in a row ended before they were ready"),
    ],
)
def test_what_cannot_start_ends_the_worker_with_its_message(lab, module, says, monkeypatch):
    import tests.chaos.conftest as chaos

    popen = chaos.subprocess.Popen
    monkeypatch.setattr(
        chaos.subprocess,
        "Popen",
        lambda command, **rest: popen([module if word == "tests.chaos.jobs" else word for word in command], **rest),
    )
    worker = lab.work()
    assert worker.wait(60) == 1
    assert says in worker.log.read_text()


async def test_a_worker_that_can_start_no_process_ends(lab, caplog):
    config = WorkerConfig(
        queue="chaos",
        handlers=("tests.chaos.jobs",),
        redis=RedisSettings.from_url(lab.server.url),
        log=LogSettings("chaos", "w"),
    )
    assert await Supervisor(config, command=("/no/such/program",)).run() == 1
    assert "no child can be started" in caplog.text


async def test_a_child_that_does_not_fetch_is_ended_and_another_does_its_work(lab, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(vitality, "FETCH_MS", 1_000)
    monkeypatch.setattr(faults, "DEAF_FOR_S", 0.5)
    marker = tmp_path / "deaf"
    marker.touch()
    monkeypatch.setenv("CHAOS_DEAF", str(marker))
    monkeypatch.setenv("CHAOS_REDIS", lab.server.url)
    job = await asyncio.to_thread(lab.client.enqueue, jobs.sleep.job(0))
    worker = Supervisor(
        WorkerConfig(
            queue="chaos",
            handlers=("tests.chaos.deaf",),
            redis=RedisSettings.from_url(lab.server.url),
            log=LogSettings("chaos", "w"),
        )
    )
    running = asyncio.create_task(worker.run())
    assert await asyncio.to_thread(job.result, timeout="40s") == "slept"
    worker.stop(0)
    assert await running == 0
    assert not marker.exists()
    assert "it has free slots and has not fetched for 1 s" in caplog.text
    assert caplog.text.count("has ended (deaf") == 1
    assert lab.job(job.id)["atm"] == "1"
