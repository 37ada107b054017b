"""What a worker counts, and what a scrape shows of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from bullpen_worker.reports import metrics
from bullpen_worker.reports.exposition import WorkerMetrics

DURATION = "bullpen_job_duration_seconds"
WAIT = "bullpen_job_wait_seconds"


def samples(worker: WorkerMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Scrape as Prometheus does: the text is parsed, not the objects read."""
    text = worker.render().body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(worker: WorkerMetrics, metric: str, /, **labels: str) -> float | None:
    return samples(worker).get((metric, frozenset({"queue": "emails", **labels}.items())))


def absorbed(*recorders: metrics.Recorder) -> WorkerMetrics:
    worker = WorkerMetrics("emails")
    for pid, recorder in enumerate(recorders, start=100):
        worker.absorb(pid, json.loads(json.dumps(recorder.snapshot())))  # as it comes over the control channel
    return worker


def test_an_attempt_that_ran_is_in_duration_wait_and_attempts() -> None:
    recorder = metrics.Recorder(["welcome"])
    recorder.ran("welcome", "completed", 0.02, 0.3)
    worker = absorbed(recorder)
    assert value(worker, f"{DURATION}_count", name="welcome", outcome="completed") == 1
    assert value(worker, f"{DURATION}_sum", name="welcome", outcome="completed") == pytest.approx(0.3)
    assert value(worker, f"{WAIT}_sum", name="welcome") == pytest.approx(0.02)
    assert value(worker, "bullpen_job_attempts_total", name="welcome", outcome="completed") == 1


def test_a_bucket_includes_its_bound_and_all_shorter_ones() -> None:
    recorder = metrics.Recorder(["welcome"])
    for seconds in (0.0005, 0.25, 0.2500001, 7200.0):
        recorder.ran("welcome", "completed", 0, seconds)
    worker = absorbed(recorder)
    counts = {
        bound: value(worker, f"{DURATION}_bucket", name="welcome", outcome="completed", le=bound)
        for bound in ("0.001", "0.1", "0.25", "0.5", "3600.0", "+Inf")
    }
    assert counts == {"0.001": 1, "0.1": 1, "0.25": 2, "0.5": 3, "3600.0": 3, "+Inf": 4}


def test_names_without_a_handler_are_counted_as_other() -> None:
    recorder = metrics.Recorder(["welcome"])
    for number in range(1000):
        recorder.ran(f"made-up-{number}", "failed", 0, 0.001)
    worker = absorbed(recorder)
    assert value(worker, "bullpen_job_attempts_total", name="other", outcome="failed") == 1000
    assert {dict(labels).get("name") for _, labels in samples(worker)} == {"other", None}


def test_a_job_that_never_ran_has_no_duration() -> None:
    recorder = metrics.Recorder(["welcome"])
    recorder.never_ran("welcome", "expired")
    worker = absorbed(recorder)
    assert value(worker, "bullpen_job_attempts_total", name="welcome", outcome="expired") == 1
    assert value(worker, f"{DURATION}_count", name="welcome", outcome="expired") is None
    assert value(worker, f"{WAIT}_count", name="welcome") is None


def test_a_clock_that_stepped_back_makes_no_negative_time() -> None:
    recorder = metrics.Recorder(["welcome"])
    recorder.ran("welcome", "completed", -5.0, -1.0)
    worker = absorbed(recorder)
    assert value(worker, f"{WAIT}_sum", name="welcome") == 0
    assert value(worker, f"{DURATION}_sum", name="welcome", outcome="completed") == 0


def test_counters_survive_the_restart_of_a_child_even_with_the_same_pid() -> None:
    worker = WorkerMetrics("emails")
    for _ in range(3):
        child = metrics.Recorder(["welcome"])
        child.ran("welcome", "completed", 0, 0.01)
        worker.absorb(7, child.snapshot())
        child.ran("welcome", "completed", 0, 0.01)
        worker.absorb(7, child.snapshot())  # cumulative: takes the place of the one before
        worker.child_gone(7)
        worker.child_gone(7)
    assert value(worker, "bullpen_job_attempts_total", name="welcome", outcome="completed") == 6


def test_children_are_added_up() -> None:
    one, two = metrics.Recorder(["welcome"]), metrics.Recorder(["welcome"])
    one.ran("welcome", "completed", 1, 1)
    two.ran("welcome", "completed", 2, 2)
    two.ran("welcome", "retried", 2, 2)
    worker = absorbed(one, two)
    assert value(worker, f"{DURATION}_sum", name="welcome", outcome="completed") == 3
    assert value(worker, f"{WAIT}_sum", name="welcome") == 5


def test_the_worker_s_own_metrics() -> None:
    worker = WorkerMetrics("emails")
    assert value(worker, "bullpen_worker_last_fetch_timestamp_seconds") is None
    worker.slots, worker.busy, worker.last_fetch = 20, 7, 1_795_000_000.5
    worker.lock_renewals("renewed", 7)
    worker.lock_renewals("lost")
    worker.jobs_recovered(3)
    assert value(worker, "bullpen_worker_slots") == 20
    assert value(worker, "bullpen_worker_busy") == 7
    assert value(worker, "bullpen_worker_last_fetch_timestamp_seconds") == 1_795_000_000.5
    assert [value(worker, "bullpen_lock_renewals_total", outcome=outcome) for outcome in metrics.RENEWALS] == [7, 1, 0]
    assert value(worker, "bullpen_jobs_recovered_total") == 3


def test_open_metrics_where_it_is_asked_for() -> None:
    recorder = metrics.Recorder(["welcome"])
    recorder.ran("welcome", "completed", 0, 0.3)
    page = absorbed(recorder).render("application/openmetrics-text; version=1.0.0")
    assert page.content_type.startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(page.body.decode())}
    assert {DURATION, WAIT, "bullpen_job_attempts", "bullpen_jobs_recovered"} <= names


def test_a_snapshot_is_not_changed_by_what_comes_later() -> None:
    recorder = metrics.Recorder(["welcome"])
    recorder.ran("welcome", "completed", 0, 1)
    before, revision = recorder.snapshot(), recorder.revision
    text = json.dumps(before)
    recorder.ran("welcome", "completed", 0, 1)
    assert json.dumps(before) == text
    assert recorder.revision > revision


@given(st.lists(st.floats(0, 10_000), max_size=30))
def test_each_attempt_falls_into_one_bucket_of_those_that_hold_it(durations: list[float]) -> None:
    recorder = metrics.Recorder(["welcome"])
    for seconds in durations:
        recorder.ran("welcome", "completed", 0, seconds)
    cells = recorder.snapshot()["durations"].get("welcome", {}).get("completed", [0] * (metrics.ATTEMPTS + 1))
    for index, bound in enumerate(metrics.BOUNDS_SECONDS):
        assert sum(cells[: index + 1]) == sum(seconds <= bound for seconds in durations)
    assert sum(cells[: metrics.SUM]) == cells[metrics.ATTEMPTS] == len(durations)
