"""Reading a job's hash: what others wrote is never refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.queue import records
from bullpen.queue.records import StoredJob


def test_options_have_bullmqs_long_names():
    opts = records.decode_opts(b'{"de":{"id":"x"},"kl":5,"fpof":true,"attempts":3}')
    assert opts == {"deduplication": {"id": "x"}, "keepLogs": 5, "failParentOnFailure": True, "attempts": 3}
    assert records.wire_opts(opts) == {"de": {"id": "x"}, "kl": 5, "fpof": True, "attempts": 3}


@pytest.mark.parametrize("raw", [None, b"", b"{", b"[]", b"7", b"\xff", b"null", b"[" * 200_000, b'{"a":' * 200_000])
def test_options_that_are_none_count_as_none(raw):
    assert records.decode_opts(raw) == {}


@pytest.mark.parametrize(
    ("opts", "version"),
    [
        ({}, 1),
        ({"bullpen": {"v": 3}}, 3),
        ({"bullpen": {"v": "3"}}, 1),
        ({"bullpen": []}, 1),
        ({"bullpen": {"v": True}}, 1),
    ],
)
def test_payload_version(opts, version):
    assert records.payload_version(opts) == version


def test_a_job_of_node():
    fields = {
        b"name": b"welcome",
        b"data": b'{"a":1}',
        b"opts": b'{"attempts":2}',
        b"timestamp": b"1790000000000",
        b"delay": b"5",
        b"priority": b"3",
        b"atm": b"1",
        b"ats": b"2",
        b"stc": b"1",
        b"pb": b"w",
        b"rjk": b"daily",
        b"failedReason": b"oh",
        b"stacktrace": b'["x"]',
        b"progress": b"50",
        b"processedOn": b"1790000000001",
        b"finishedOn": b"1790000000002",
        b"returnvalue": b"7",
        b"deid": b"d",
        b"defa": b"later",
        b"parentKey": b"p:1",
    }
    job = StoredJob("7", fields)
    assert (job.id, job.name, job.data, job.opts, job.timestamp) == (
        "7",
        "welcome",
        b'{"a":1}',
        {"attempts": 2},
        1790000000000,
    )
    assert (job.delay, job.priority, job.attempts_made, job.attempts_started, job.stalled) == (5, 3, 1, 2, 1)
    assert (job.processed_by, job.scheduler_id, job.failed_reason, job.stacktrace) == ("w", "daily", "oh", ["x"])
    assert (job.progress, job.processed_on, job.finished_on, job.returnvalue) == (
        50,
        1790000000001,
        1790000000002,
        b"7",
    )
    assert (job.deduplication_id, job.deferred_failure, job.parent_key) == ("d", "later", "p:1")


def test_our_fields():
    fields = {
        b"bullpen:snoozes": b"2",
        b"bullpen:company": b"1",
        b"bullpen:suspect": b"1",
        b"bullpen:crashes": b"3",
        b"bullpen:unknown": b"17",
        b"bullpen:error": records.error_field("shop.Declined").encode(),
    }
    job = StoredJob("7", fields)
    assert (job.snoozes, job.company, job.suspect, job.crashes, job.unknown_since) == (2, 1, True, 3, 17)
    assert job.error_type == "shop.Declined"


def test_a_hash_with_nothing_in_it():
    job = StoredJob("7", {})
    assert (job.name, job.data, job.opts, job.progress, job.failed_reason, job.finished_on) == (
        "",
        b"null",
        {},
        None,
        None,
        None,
    )
    assert (job.suspect, job.error_type, job.stacktrace, job.version) == (False, "", [], 1)


def test_the_payload_is_not_shown():
    assert "secret" not in repr(StoredJob("7", {b"name": b"n", b"data": b'"secret"'}))


@given(
    st.dictionaries(
        st.sampled_from(
            [b"opts", b"atm", b"timestamp", b"progress", b"stacktrace", b"bullpen:error", b"bullpen:snoozes", b"name"]
        ),
        st.binary(max_size=20) | st.sampled_from([b"1e400", b"nan", b"1.7e+18", b"-3", json.dumps([1]).encode()]),
    )
)
def test_nothing_that_lies_there_raises(fields):
    job = StoredJob("7", fields)
    for name in (
        "name",
        "opts",
        "attempts_made",
        "timestamp",
        "progress",
        "stacktrace",
        "error_type",
        "snoozes",
        "version",
    ):
        getattr(job, name)
