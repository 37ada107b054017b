"""No wake-up is lost: the next job starts because it can, not because a worker looks every 5 s: these never do. `make bench` has figures."""

from __future__ import annotations

import itertools
import json
import time

from tests.chaos import proving, recorded
from tests.chaos.conftest import KEYS
from tests.support.waiting import eventually_sync

UNPOLLED = "tests.chaos.unpolled"


def spans(lab):
    """Beginnings and ends of all runs, in the order of their beginnings."""
    return sorted((run.began, run.ended) for each in proving.runs(lab).values() for run in each)


def most_at_once(found):
    changes = sorted([(began, 1) for began, _ in found] + [(ended, -1) for _, ended in found])
    return max(itertools.accumulate(change for _, change in changes))


def test_a_total_below_the_worker_s_concurrency_neither_stalls_nor_is_passed(lab):
    lab.redis.hset(KEYS.meta, "concurrency", 2)
    proving.work(lab, concurrency=10, handlers=UNPOLLED).ready()
    handles = lab.client.enqueue_many([recorded.nap.job(0.05) for _ in range(40)])
    eventually_sync(lambda: proving.completed(lab, 40), 30)
    found = spans(lab)
    assert most_at_once(found) == 2
    proving.spent_nothing(lab, handles)


def test_what_a_retiring_worker_may_no_longer_run_the_other_starts(lab):
    """Total concurrency 1: the other worker cannot start anything until the retiring one's job has ended."""
    lab.redis.hset(KEYS.meta, "concurrency", 1)
    crew = [proving.work(lab, concurrency=5, handlers=UNPOLLED).ready() for _ in range(2)]
    names = {json.loads(entry)["pid"]: name for name, entry in lab.redis.hgetall(KEYS.workers).items()}
    workers = {child: worker for worker in crew for child in worker.children()}
    lab.client.enqueue_many([recorded.nap.job(0.7).with_options(priority=n % 3 + 1) for n in range(6)])
    eventually_sync(lambda: proving.running(lab))
    first, *_ = proving.runs(lab).values()
    retiring = workers[first[0].pid]
    order = {"v": 1, "start": 1, "deadline": int((time.time() + 60) * 1000)}
    lab.redis.hset(KEYS.retiring, names[retiring.pid], json.dumps(order))
    lab.redis.publish(KEYS.nudge, "retiring")
    eventually_sync(lambda: retiring.probe("/readyz")[1].strip().startswith("retir"))
    eventually_sync(lambda: proving.completed(lab, 6), 30)
    found = spans(lab)
    assert most_at_once(found) == 1
    last = max((run for each in proving.runs(lab).values() for run in each), key=lambda run: run.began)
    assert workers[last.pid] is not retiring


def test_a_rate_limit_lets_a_burst_through_in_each_window(lab):
    lab.redis.hset(KEYS.meta, mapping={"max": 5, "duration": 1000})
    proving.work(lab, concurrency=10, handlers=UNPOLLED).ready()
    lab.client.enqueue_many([recorded.at.job() for _ in range(20)])
    eventually_sync(lambda: proving.completed(lab, 20), 30)
    events = lab.redis.xrange(KEYS.events)
    starts_ms = [int(at.partition("-")[0]) for at, event in events if event["event"] == "active"]
    assert len(starts_ms) == 20
    # The first opens a window; the last is not before the fourth, however late within their windows others came.
    assert starts_ms[-1] - starts_ms[0] > 2_800


def test_delayed_jobs_wake_an_idle_worker(lab):
    proving.work(lab, concurrency=10, handlers=UNPOLLED).ready()
    lab.client.enqueue_many([recorded.at.job().with_options(delay=f"{100 * n}ms") for n in range(1, 21)])
    eventually_sync(lambda: proving.completed(lab, 20), 30)
