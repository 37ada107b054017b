"""What callers see of jobs whose fields others wrote."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from bullpen.clients import views
from bullpen.jobs import moment
from bullpen.queue.operations.jobs import FoundJob
from bullpen.queue.policy import BUILT_IN
from bullpen.queue.records import StoredJob


@pytest.mark.parametrize("raw", [b"1000000000000000000", b"-1e300", b"1e300", b"9" * 5_000, b"inf", b"soon", b""])
@pytest.mark.parametrize("state", ["failed", "waiting"])
def test_odd_times_hide_no_job(raw, state):
    fields = {b"name": b"welcome", b"timestamp": raw, b"processedOn": raw, b"finishedOn": raw, b"failedReason": b"x"}
    found = FoundJob(StoredJob("7", fields), state)
    info = views.info("emails", found, BUILT_IN)
    assert (info.name, info.state) == ("welcome", state)
    assert (views.final_event(found) is not None) is (state == "failed")
    assert info.enqueued_at.astimezone(timezone(timedelta(hours=14)))


def test_a_time_is_that_of_its_milliseconds():
    assert moment(1_790_000_000_123) == datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)
