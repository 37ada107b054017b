"""What the operator shows of its JobQueues: the names of the contract, no more than there is, gone with the JobQueue."""

import dataclasses
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bullpen.queue.observation import Reading
from bullpen.scaling import Limited, Reason
from bullpen_operator import metrics
from bullpen_operator.kube.kinds import JOBQUEUE, Key
from bullpen_operator.metrics import FAMILIES, Metrics
from bullpen_operator.scaling.units import Crew, ScalingState

EMAILS = Key(JOBQUEUE, "shop", "emails")
READING = Reading(
    at_ms=1_000_000,
    waiting=3,
    paused_waiting=0,
    prioritized=2,
    active=4,
    delayed=5,
    due=1,
    next_due_ms=None,
    scheduled=0,
    waiting_children=0,
    completed=60,
    failed=7,
    paused=False,
    total_concurrency=None,
    rate_jobs=None,
    rate_per_ms=None,
    limited_for_ms=None,
    oldest_ms=1_234_500,
    completed_total=1000,
    failed_total=10,
)


@pytest.fixture
def shown() -> Metrics:
    """The metrics of a leader."""
    found = Metrics(process=False)
    found.leading(leads=True)
    return found


def series(shown: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Parse what a scrape would see, by name of the sample; what prometheus_client adds of its own is left out."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(shown.render().decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = tuple(sorted(sample.labels.items()))
                assert labels not in found.setdefault(sample.name, {}), f"{sample.name} twice"
                found[sample.name][labels] = sample.value
    return found


def of_emails(shown: Metrics, name: str) -> dict[str, float]:
    """Give the samples of a name, by their labels other than the queue's."""
    own = {"namespace": "shop", "jobqueue": "emails", "queue": "mail"}
    found = {}
    for labels, value in series(shown).get(name, {}).items():
        assert own.items() <= dict(labels).items()
        found[",".join(f"{key}={text}" for key, text in labels if key not in own)] = value
    return found


def fill(shown: Metrics) -> None:
    shown.counted(EMAILS, "mail", READING)
    shown.sized(EMAILS, "mail", desired=5, replicas=3, max_replicas=20, limited=[Reason.SCALE_UP_LIMIT, Reason.WINDOW])
    shown.thresholds(EMAILS, "mail", oldest_job_age_seconds=300.0, failure_ratio=0.05)
    shown.dead_letters(EMAILS, "mail", 2)
    shown.scaled(EMAILS, "mail", "up", Reason.JOBS_WAITING)
    shown.scaled(EMAILS, "mail", "up", Reason.JOBS_WAITING)
    shown.woke(EMAILS, "mail", 0.02)
    shown.woke(EMAILS, "mail", 7.0)


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        (
            "bullpen_queue_jobs",
            {
                "state=waiting": 3,
                "state=prioritized": 2,
                "state=delayed": 5,
                "state=active": 4,
                "state=completed": 60,
                "state=failed": 7,
                "state=paused": 0,
            },
        ),
        ("bullpen_queue_oldest_job_timestamp_seconds", {"": 1234.5}),
        ("bullpen_queue_paused", {"": 0}),
        ("bullpen_queue_jobs_completed_total", {"": 1000}),
        ("bullpen_queue_jobs_failed_total", {"": 10}),
        ("bullpen_queue_desired_replicas", {"": 5}),
        ("bullpen_queue_replicas", {"": 3}),
        ("bullpen_queue_max_replicas", {"": 20}),
        ("bullpen_queue_scaling_limited", {"reason=ScaleUpLimit": 1, "reason=Window": 1}),
        ("bullpen_queue_scale_total", {"direction=up,reason=JobsWaiting": 2}),
        ("bullpen_queue_alert_threshold", {"alert=oldestJobAge": 300, "alert=failureRatio": 0.05}),
        ("bullpen_queue_dead_letter_jobs", {"": 2}),
        ("bullpen_queue_wake_seconds_count", {"": 2}),
        ("bullpen_queue_wake_seconds_sum", {"": 7.02}),
        (
            "bullpen_queue_wake_seconds_bucket",
            {f"le={bound}": count for bound, count in zip((*metrics.WAKE_BOUNDS_SECONDS, "+Inf"), [0] + [1] * 7 + [2], strict=True)},
        ),
    ],
)  # fmt: skip
def test_what_is_known_of_a_queue_is_shown(shown, name, samples):
    fill(shown)
    assert of_emails(shown, name) == samples


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ({"oldest_ms": None}, "bullpen_queue_oldest_job_timestamp_seconds"),
        ({"completed_total": None, "failed_total": None}, "bullpen_queue_jobs_completed_total"),
        ({"completed_total": None, "failed_total": None}, "bullpen_queue_jobs_failed_total"),
    ],
)
def test_what_is_not_known_is_absent_and_no_zero(shown, change, absent):
    fill(shown)
    shown.counted(EMAILS, "mail", dataclasses.replace(READING, **change))
    assert of_emails(shown, absent) == {}


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_where_no_job_ever_ended_so_there_are_none(shown, outcome):
    """Redis has a count from the first job on: a share of failures needs both, above all where every job fails."""
    shown.counted(EMAILS, "mail", dataclasses.replace(READING, **{f"{outcome}_total": None}))
    assert of_emails(shown, f"bullpen_queue_jobs_{outcome}_total") == {"": 0}


def test_what_is_no_more_is_shown_no_more(shown):
    fill(shown)
    shown.sized(EMAILS, "mail", desired=5, replicas=5, max_replicas=None, limited=[])
    shown.thresholds(EMAILS, "mail", oldest_job_age_seconds=None, failure_ratio=None)
    shown.dead_letters(EMAILS, "mail", None)
    for name in ("max_replicas", "scaling_limited", "alert_threshold", "dead_letter_jobs"):
        assert of_emails(shown, f"bullpen_queue_{name}") == {}
    assert of_emails(shown, "bullpen_queue_replicas") == {"": 5}


@pytest.mark.parametrize(
    ("state", "reasons", "replicas"),
    [
        (ScalingState(reading=READING), {}, {}),
        (ScalingState(reading=READING, absent=True), {}, {"": 0}),
        (ScalingState(reading=READING, desired=0), {}, {"": 0}),
        (ScalingState(reading=READING, desired=4, crew=Crew(replicas=3)), {}, {"": 3}),
        (
            ScalingState(
                reading=READING, desired=1, crew=Crew(replicas=1), cannot_start="ImagePullBackOff: no such image"
            ),
            {"reason=PodsCannotStart": 1},
            {"": 1},
        ),
        (
            ScalingState(
                reading=READING,
                desired=2,
                crew=Crew(replicas=2),
                limited=(Limited(Reason.MAX_REPLICAS, 2, ""), Limited(Reason.PODS_CANNOT_START, 2, "")),
                cannot_start="CrashLoopBackOff: back-off",
            ),
            {"reason=MaxReplicas": 1, "reason=PodsCannotStart": 1},
            {"": 2},
        ),
    ],
)
def test_what_the_scaler_knows_is_shown(shown, state, reasons, replicas):
    shown.scaling(EMAILS, "mail", state, max_replicas=2)
    assert of_emails(shown, "bullpen_queue_jobs")["state=waiting"] == 3
    assert of_emails(shown, "bullpen_queue_scaling_limited") == reasons
    assert of_emails(shown, "bullpen_queue_replicas") == replicas
    assert of_emails(shown, "bullpen_queue_max_replicas") == {"": 2}
    shown.scaling(EMAILS, "mail", ScalingState(reading=None, redis_trouble="away"), max_replicas=2)
    assert of_emails(shown, "bullpen_queue_jobs")["state=waiting"] == 3


def test_a_jobqueue_takes_all_its_series_along(shown):
    fill(shown)
    other = EMAILS._replace(name="reports")
    shown.counted(other, "reports", READING)
    shown.forget(EMAILS)
    shown.forget(EMAILS)
    assert b"emails" not in shown.render()
    assert b'jobqueue="reports"' in shown.render()


def test_a_jobqueue_made_anew_for_another_queue_shows_nothing_of_the_one_before(shown):
    fill(shown)
    shown.counted(EMAILS, "letters", READING)
    assert b'queue="mail"' not in shown.render()


def test_only_the_leader_shows_queues(shown):
    fill(shown)
    shown.leading(leads=False)
    assert b"bullpen_queue_" not in shown.render()
    assert series(shown)["bullpen_leader"] == {(): 0}


def test_the_operator_shows_itself(shown):
    shown.queue_depth(3)
    shown.reconciled("changed", 0.02)
    shown.redis_up("shared", True)
    shown.redis_up("other", False)
    shown.redis_polled("shared", 0.002)
    found = series(shown)
    assert found["bullpen_leader"] == {(): 1}
    assert found["bullpen_workqueue_depth"] == {(): 3}
    assert found["bullpen_reconcile_total"][(("result", "changed"),)] == 1
    assert found["bullpen_reconcile_total"][(("result", "failed"),)] == 0
    assert found["bullpen_reconcile_duration_seconds_count"] == {(): 1}
    assert found["bullpen_redis_up"] == {(("redis", "other"),): 0, (("redis", "shared"),): 1}
    assert found["bullpen_redis_poll_duration_seconds_count"] == {(("redis", "shared"),): 1}
    assert [*found["bullpen_build_info"].values()] == [1]
    shown.redis_gone("shared")
    shown.redis_gone("other")
    assert b'redis="' not in shown.render()


def test_a_queue_may_be_named_as_it_likes(shown):
    shown.counted(EMAILS, 'a"b\\c\nd', READING)
    (sample, *_) = series(shown)["bullpen_queue_paused"]
    assert dict(sample)["queue"] == 'a"b\\c\nd'


def test_every_metric_is_documented_where_it_is_defined(shown):
    fill(shown)
    shown.redis_up("shared", True)
    shown.redis_polled("shared", 0.002)
    named = set(re.findall(r"^(\w+) +(?:gauge|counter|histogram) ", metrics.__doc__, flags=re.MULTILINE))
    families = {
        family.name.removeprefix("bullpen_") + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(shown.render().decode())
        if not family.name.endswith("_created")
    }
    assert named == families
    assert {family.name.removeprefix("bullpen_") for family in FAMILIES} <= named


def test_the_text_of_a_quiet_queue_is_kept(shown):
    fill(shown)
    (queue,) = shown._queues.values()
    before = queue.written()
    shown.counted(EMAILS, "mail", dataclasses.replace(READING, at_ms=READING.at_ms + 5_000))
    assert queue.written() is before
    shown.counted(EMAILS, "mail", dataclasses.replace(READING, waiting=4))
    assert queue.written() is not before
