"""A handler that holds the GIL without a break for four lock durations."""

from __future__ import annotations

import time

import pytest

from tests.chaos import proving, recorded
from tests.chaos.conftest import LOCK_S
from tests.support.waiting import eventually_sync


def hold(lab, lock_s):
    length = proving.letters_for(4 * lock_s)
    worker = proving.work(lab, concurrency=10).ready()
    handle = lab.client.enqueue(recorded.match.job(length), attempts=1)
    eventually_sync(lambda: proving.running(lab))
    health, slowest = set(), 0.0
    while proving.running(lab):
        asked = time.monotonic()
        health.add(worker.probe()[0])
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.05)
    [run] = proving.runs(lab)[handle.id]
    print(f"the GIL was held for {run.ended - run.began:.1f} s, /healthz answered within {slowest * 1000:.0f} ms")
    assert run.ended - run.began >= 4 * lock_s
    assert health == {200}
    assert handle.result(timeout="60s") == "matched"
    proving.spent_nothing(lab, [handle])
    stuck = lab.client.enqueue(recorded.match.job(length + 6))
    eventually_sync(lambda: proving.running(lab))
    worker.term()
    assert worker.wait(20) == 0
    assert lab.redis.lrange("bull:chaos:wait", 0, -1) == [stuck.id]
    assert "atm" not in lab.job(stuck.id)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_the_gil_held_for_four_lock_durations(lab):
    """The short form of this is in `test_supervisor`; here without a break, which costs up to twice the time."""
    hold(lab, LOCK_S)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_the_gil_held_for_four_lock_durations_at_the_built_in_recovery(lab):
    lab.policy(recovery={})
    hold(lab, 10.0)
