"""Jobs that are cancelled and do not stop for it, in a real worker."""

from __future__ import annotations

from tests.chaos import jobs
from tests.support.waiting import eventually_sync


def test_a_thread_that_does_not_listen_is_cancelled_when_its_time_is_over(lab):
    lab.policy(jobs=[{"name": "thread", "timeout": "2s"}])
    lab.work(kill_grace="100ms").ready()
    handle = lab.client.enqueue(jobs.thread.job(3600))
    eventually_sync(lambda: lab.ids("start"))
    handle.cancel("no need")
    eventually_sync(lambda: lab.count("failed") == 1, 30)
    assert lab.job(handle.id)["failedReason"] == "cancelled: no need"
    assert lab.ids("start") == [handle.id]
