"""Orders from outside, obeyed by a real worker: retire, cancel, another policy; and what an idle one costs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.chaos import jobs
from tests.chaos.conftest import KEYS, LOCK_S
from tests.support.waiting import Stopwatch, eventually_sync


def retire(lab, worker, seconds=30):
    entries = lab.redis.hgetall(KEYS.workers)
    [name] = [name for name, entry in entries.items() if json.loads(entry)["pid"] == worker.pid]
    deadline = int((time.time() + seconds) * 1000)
    lab.redis.hset(KEYS.retiring, name, json.dumps({"v": 1, "start": 1, "deadline": deadline}))
    lab.redis.publish(KEYS.nudge, "retiring")
    return name


def test_a_retiring_worker_finishes_what_it_has_and_turns_not_ready(lab):
    worker = lab.work(concurrency=2).ready()
    first = lab.client.enqueue(jobs.sleep.job(6))
    eventually_sync(lambda: lab.ids("start"))
    name = retire(lab, worker)
    eventually_sync(lambda: worker.probe("/readyz") == (200, "retiring\n"))
    second = lab.client.enqueue(jobs.sleep.job(0))
    assert first.result(timeout="60s") == "slept"
    eventually_sync(lambda: worker.probe("/readyz") == (503, "retired\n"))
    assert json.loads(lab.redis.hget(KEYS.workers, name))["state"] == "retiring"
    assert worker.probe()[0] == 200
    assert lab.ids("start") == [first.id]
    other = lab.work(concurrency=2).ready()
    assert second.result(timeout="60s") == "slept"
    assert other.process.poll() is None


def test_a_lease_that_runs_out_lets_it_work_again(lab):
    worker = lab.work().ready()
    retire(lab, worker, 6)
    eventually_sync(lambda: worker.probe("/readyz")[0] == 503)
    handle = lab.client.enqueue(jobs.sleep.job(0))
    assert handle.result(timeout="60s") == "slept"


def test_a_running_job_is_cancelled_before_the_next_beat(lab):
    lab.work().ready()
    handle = lab.client.enqueue(jobs.sleep.job(600))
    eventually_sync(lambda: lab.ids("start"))
    entries = lab.redis.hgetall(KEYS.workers)
    eventually_sync(lambda: lab.redis.hgetall(KEYS.workers) != entries)  # a beat: the next is 5 s away
    with Stopwatch() as watch:
        handle.cancel("no need")
        eventually_sync(lambda: lab.count("failed") == 1)
    assert watch.seconds < 4
    assert lab.job(handle.id)["failedReason"] == "cancelled: no need"
    eventually_sync(lambda: not lab.redis.exists(KEYS.cancelled))


def test_another_policy_is_followed_at_once(lab):
    lab.work().ready()
    lab.policy(jobs=[{"name": "sleep", "timeout": "200ms", "retry": {"attempts": 1}}])
    lab.redis.publish(KEYS.nudge, "policy")
    eventually_sync(lambda: run_and_fail(lab), 10)


def test_a_policy_raises_the_concurrency_as_far_as_it_says(lab):
    """Further than the rows that the slot table began with: 128."""
    lab.policy(concurrency={"perWorker": 2})
    lab.work(concurrency=None).ready()
    jobs_at_once = 150
    running = [lab.client.enqueue(jobs.quiet.job(60)) for _ in range(jobs_at_once)]
    eventually_sync(lambda: lab.count("active") == 2)
    lab.policy(concurrency={"perWorker": 400})
    lab.redis.publish(KEYS.nudge, "policy")
    eventually_sync(lambda: lab.count("active") == jobs_at_once, 20)
    eventually_sync(lambda: [json.loads(entry)["slots"] for entry in lab.redis.hvals(KEYS.workers)] == [400], 2)
    locks = [KEYS.lock(handle.id) for handle in running]

    def renewed():
        return min(map(lab.redis.pttl, locks)) > 0.8 * LOCK_S * 1000

    eventually_sync(lambda: not renewed())
    eventually_sync(renewed)  # those in the new rows too


def run_and_fail(lab):
    handle = lab.client.enqueue(jobs.sleep.job(1))
    eventually_sync(lambda: "finishedOn" in lab.job(handle.id))
    return "timed out" in lab.job(handle.id).get("failedReason", "")


def test_two_processes_share_the_concurrency(lab):
    worker = lab.work(concurrency=5, processes=2).ready()
    for _ in range(12):
        lab.client.enqueue(jobs.sleep.job(1))
    eventually_sync(lambda: lab.count("active") == 5)
    assert len(worker.children()) == 2
    eventually_sync(lambda: lab.count("completed") == 12, 10)
    assert lab.metric(worker, "worker_slots") == 5


def pss_kb(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_a_pod_s_worth_of_memory(lab):
    worker = lab.work().ready()
    handle = lab.client.enqueue(jobs.sleep.job(0))
    handle.result(timeout="60s")
    assert sum(map(pss_kb, [worker.pid, *worker.children()])) < 120 * 1024


@pytest.mark.prove
def test_an_idle_worker_sends_less_than_a_command_a_second(lab):
    """At the recovery that is built in; commands as the server counts those that clients send, but for the wait."""
    lab.redis.delete(KEYS.policy)
    lab.work(concurrency=100).ready()

    first = lab.redis.hgetall(KEYS.workers)
    eventually_sync(lambda: lab.redis.hgetall(KEYS.workers) != first, 10)  # the next beat: the start is over
    sent = []
    with lab.redis.monitor() as monitor:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if monitor.connection.can_read(timeout=1):
                command = monitor.next_command()
                if command["client_type"] != "lua":
                    sent.append(command["command"].split()[0])
    beyond = [name for name in sent if name != "BZPOPMIN"]
    assert len(beyond) < 30, beyond


@pytest.mark.parametrize("workers", [1, 2], ids=["two children of one worker", "two workers"])
def test_a_limit_that_one_handler_met_holds_all_workers(lab, workers):
    """The queue has no rate limit of its own, so BullMQ's scripts look at the limit only where they are asked to."""
    limit_s = 6
    for _ in range(workers):
        lab.work(concurrency=2 // workers, processes=2 // workers).ready()
    met = lab.client.enqueue(jobs.limit.job(limit_s))
    eventually_sync(lambda: lab.ids("limit"))
    [(_, met_at)] = lab.notes()["limit"]
    eventually_sync(lambda: 0 < lab.redis.pttl(KEYS.limiter) < (limit_s - 0.5) * 1000, every=0.005)
    others = [lab.client.enqueue(jobs.sleep.job(0)) for _ in range(6)]
    late = lab.work(concurrency=1)  # one that comes in the middle of it obeys from its first fetch on
    for handle in (met, *others):
        handle.result(timeout="60s")
    starts = [at for _, at in lab.notes()["start"]]
    assert len(starts) == 7
    assert min(starts) >= met_at + limit_s - 0.05
    late.ready()
