"""What the event stream says about a job."""

import pytest

from bullpen.clients import events
from bullpen.clients.events import Ended, StreamEvent
from bullpen.errors import JobCancelled, JobFailed
from bullpen.queue.operations.jobs import FoundJob, cancelled_reason, cancelled_text
from bullpen.queue.records import StoredJob


def entry(entry_id, **fields):
    flat = [word.encode() for pair in fields.items() for word in pair]
    return [entry_id.encode(), flat]


def test_entries_about_jobs_are_read_and_others_passed_over():
    reply = [
        [
            b"bull:q:events",
            [
                entry("5-0", event="added", jobId="a", name="n"),
                entry("5-1", event="drained"),
                entry("6-0", event="progress", jobId="a", data='{"half":50}'),
                entry("7-0", event="invented", jobId="a"),
                entry("8-2", event="completed", jobId="b", returnvalue="7", prev="active"),
            ],
        ]
    ]
    found, last = events.read_entries(reply, "0-0")
    assert [(each.id, each.job_id, each.change, each.state, each.ends) for each in found] == [
        ("5-0", "a", "state", "waiting", False),
        ("6-0", "a", "progress", "active", False),
        ("8-2", "b", "completed", "completed", True),
    ]
    assert (last, found[2].at_ms) == ("8-2", 8)
    assert [each.id for each in events.by_job(found, "b")] == ["8-2"]


@pytest.mark.parametrize("reply", [None, [], {}])
def test_no_news(reply):
    assert events.read_entries(reply, "4-1") == ([], "4-1")


def test_how_a_job_ended_by_the_stream():
    def event(change, **fields):
        return StreamEvent("1-0", "a", change, "unknown", {name.encode(): value for name, value in fields.items()})

    assert events.ended_by_event(event("completed", returnvalue=b"7")) == Ended(b"7")
    failed = events.ended_by_event(event("failed", failedReason=b"oh"))
    assert isinstance(failed, JobFailed)
    assert (failed.reason, failed.error_type, failed.attempts) == ("oh", "", 0)
    cancelled = events.ended_by_event(event("failed", failedReason=b"cancelled: late"))
    assert isinstance(cancelled, JobCancelled)
    assert cancelled.reason == "late"
    assert events.ended_by_event(event("removed")) is None


def test_how_a_job_ended_by_its_hash():
    def found(state, **fields):
        hash_ = {name.replace("__", ":").encode(): value for name, value in fields.items()}
        return FoundJob(StoredJob("a", hash_), state)

    assert events.ended_by_hash(found("completed", returnvalue=b'{"a":1}')) == Ended(b'{"a":1}')
    assert events.ended_by_hash(found("completed")) == Ended(b"null")
    assert events.ended_by_hash(found("active")) is None
    failed = events.ended_by_hash(
        found("failed", failedReason=b"declined", atm=b"3", bullpen__error=b'{"type":"shop.Declined"}')
    )
    assert isinstance(failed, JobFailed)
    assert (failed.reason, failed.error_type, failed.attempts) == ("declined", "shop.Declined", 3)


@pytest.mark.parametrize("reason", ["", "late", "a: b", "ü"])
def test_reasons_of_cancelling_survive(reason):
    assert cancelled_reason(cancelled_text(reason)) == reason


@pytest.mark.parametrize("reason", ["cancelled by nobody", "cancelledness: x", "was cancelled: x", ""])
def test_other_reasons_are_none_of_cancelling(reason):
    assert cancelled_reason(reason) is None
