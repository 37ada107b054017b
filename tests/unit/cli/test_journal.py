"""The journal: from a worker's lines to the account of its queue."""

import json

import pytest

from bullpen_cli.local.journal import LONGEST_LINE, Journal, mean, quantile


def line(**fields):
    event = f"{fields['count']} more jobs" if "count" in fields else "job"
    return json.dumps({"event": f"{event} {fields.get('outcome')}", "level": "info", **fields}) + "\n"


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"outcome": "completed"}, "completed"),
        ({"outcome": "retried"}, "retried"),
        ({"outcome": "failed"}, "failed"),
        ({"outcome": "expired"}, "failed"),
        ({"outcome": "timeout", "final": False}, "retried"),
        ({"outcome": "timeout", "final": True}, "failed"),
        ({"outcome": "cancelled"}, "cancelled"),
        ({"outcome": "released"}, "released"),
        ({"outcome": "lock_lost"}, "lockLost"),
    ],
)
def test_each_outcome_is_counted_where_it_belongs(fields, counted):
    journal = Journal(["emails"])
    assert journal.read("emails", line(**fields)).job
    report = journal.report()["emails"]
    assert {name: value for name, value in report.items() if value} == {counted: 1}


def test_a_line_that_stands_for_many_counts_as_many():
    journal = Journal([])
    journal.read("emails", line(outcome="completed", count=41, mean_ms=0.3))
    journal.read("emails", line(outcome="completed", duration_ms=5, wait_ms=1))
    assert journal.accounts["emails"].completed == 42
    assert list(journal.accounts["emails"].runs) == [5.0]


def test_times_are_mean_and_p95():
    journal = Journal(["emails"])
    for ms in range(1, 101):
        journal.read("emails", line(outcome="completed", duration_ms=ms, wait_ms=ms * 10))
    report = journal.report()["emails"]
    assert (report["runMeanMs"], report["runP95Ms"]) == (50.5, 95)
    assert (report["waitMeanMs"], report["waitP95Ms"]) == (505, 950)


@pytest.mark.parametrize(
    "raw",
    [
        "a print of a handler\n",
        "{broken json",
        "[1, 2]",
        "[" * 100_000,
        "9" * 5_000,
        '{"no": "event"}',
        '{"event": 7, "outcome": "completed"}',
    ],
)
def test_other_lines_are_kept_and_count_nothing(raw):
    journal = Journal(["emails"])
    read = journal.read("emails", raw)
    assert (read.text, read.job) == (raw.rstrip()[:LONGEST_LINE], False)
    assert not any(journal.report()["emails"].values())


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "card declined", "outcome": "declined", "wait_ms": 3},
        {"event": "job completed", "outcome": "completed", "logger": "shop.jobs"},
    ],
)
def test_lines_of_the_application_s_own_have_no_say_in_the_account(fields):
    journal = Journal(["emails"])
    assert not journal.read("emails", json.dumps(fields)).job
    assert not any(journal.report()["emails"].values())


def test_a_structured_line_reads_as_a_sentence():
    read = Journal([]).read("emails", json.dumps({"event": "ready", "level": "warning", "queue": "q", "slots": 4}))
    assert (read.text, read.level) == ("ready  slots=4", "warning")


@pytest.mark.parametrize(
    ("fields", "text", "routine"),
    [
        (
            {"outcome": "completed", "job": "7", "name": "welcome", "attempt": 2, "duration_ms": 3.4},
            "welcome completed (attempt 2, 3 ms)  job=7",
            True,
        ),
        (
            {"outcome": "lock_lost", "level": "warning", "job": "7", "name": "welcome", "attempt": 1, "reason": "gone"},
            "welcome lock lost (attempt 1): gone  job=7",
            False,
        ),
        ({"event": "5 more jobs completed", "outcome": "completed", "count": 5}, "5 more jobs completed  outcome=completed count=5", True),
        ({"event": "worker starts", "logger": "bullpen.supervisor"}, "worker starts", True),
        ({"event": "Redis is away", "level": "warning", "logger": "bullpen.worker"}, "Redis is away", False),
        ({"event": "seen", "logger": "shop.jobs", "user": 7}, "seen  user=7", False),
    ],
)  # fmt: skip
def test_news_reads_as_a_sentence_and_routine_is_marked(fields, text, routine):
    read = Journal([]).read("emails", line(**fields))
    assert (read.text, read.routine) == (text, routine)


def test_an_endless_line_is_cut_when_it_is_shown_and_not_before_it_is_read():
    journal = Journal([])
    assert len(journal.read("emails", "x" * 100_000).text) == LONGEST_LINE
    journal.read("emails", line(outcome="retried", job="7", exception="x" * 100_000))
    assert journal.accounts["emails"].retried == 1


@pytest.mark.parametrize(
    ("values", "share", "expected"), [([], 0.95, 0), ([7], 0.95, 7), ([1, 2, 3, 4], 0.5, 2), ([3, 1, 2], 1.0, 3)]
)
def test_quantile(values, share, expected):
    assert quantile(values, share) == expected


def test_mean_of_nothing_is_zero():
    assert mean([]) == 0
