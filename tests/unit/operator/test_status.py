"""What a status says, and when it is worth a write."""

import datetime as dt
from dataclasses import replace

import pytest

from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen.queue.observation import FIELDS, LATEST_MS, Reading
from bullpen.scaling import Reason
from bullpen.scaling.decide import Limited
from bullpen_operator import conditions, status
from bullpen_operator.conditions import Facts, Fleet, Known, Problem
from bullpen_operator.scaling.units import Crew, ScalingState

NOW = dt.datetime(2027, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
SPEC = JobQueueSpec.model_validate({"worker": {"image": "a", "handlers": ["a"]}, "scaling": {"maxReplicas": 5}})
FACTS = Facts(generation=3, spec=SPEC, redis_known=True, owned=True, queue="emails", prefix="bull", binding="b")
FLEET = Fleet(exists=True, wanted=2, replicas=2, updated=2, available=2, selector="a=b")


def reading(**fields):
    return Reading.parse([{**dict.fromkeys(FIELDS, 0), "at_ms": 1_000, **fields}[name] for name in FIELDS])


STATE = ScalingState(
    reading=reading(waiting=10, active=4, oldest_ms=5_000),
    desired=2,
    reason="JobsWaiting",
    message="10 jobs",
    decided_ms=9_000,
)
KNOWN = Known(FACTS, FLEET, STATE)


def verdicts(known=KNOWN, **facts):
    found = conditions.judge(replace(known, facts=replace(known.facts, **facts)))
    return {name: (each.status, each.reason) for name, each in found.items()}


def test_all_is_well():
    assert verdicts() == {
        "Ready": ("True", "AsDeclared"),
        "Reconciling": ("False", "UpToDate"),
        "Stalled": ("False", "NotStalled"),
        "RedisReachable": ("True", "Answers"),
        "QueueOwned": ("True", "Owned"),
        "WorkersAvailable": ("True", "Available"),
        "WorkersOutdated": ("False", "UpToDate"),
        "ScalingActive": ("True", "FollowsWork"),
        "ScalingLimited": ("False", "NotLimited"),
        "PriorityInversion": ("False", "NoInversion"),
        "Paused": ("False", "Running"),
    }


def spec(**fields):
    return JobQueueSpec.model_validate(
        {"worker": {"image": "a", "handlers": ["a"]}, "scaling": {"maxReplicas": 5}} | fields
    )


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            replace(KNOWN, facts=replace(FACTS, problem=Problem("InvalidSpec", "x"))),
            {
                "Ready": ("False", "InvalidSpec"),
                "Stalled": ("True", "InvalidSpec"),
                "Reconciling": ("False", "UpToDate"),
            },
        ),
        (
            replace(KNOWN, facts=replace(FACTS, problem=Problem("ChildRemains", "x", stalled=False))),
            {
                "Ready": ("False", "ChildRemains"),
                "Stalled": ("False", "NotStalled"),
                "Reconciling": ("True", "ChildRemains"),
            },
        ),
        (
            replace(KNOWN, facts=replace(FACTS, redis_trouble="no")),
            {
                "Ready": ("False", "RedisUnreachable"),
                "RedisReachable": ("False", "RedisUnreachable"),
                "Reconciling": ("True", "RedisUnreachable"),
            },
        ),
        (
            replace(KNOWN, redis_down="no"),
            {"Ready": ("False", "RedisUnreachable"), "ScalingActive": ("False", "RedisUnreachable")},
        ),
        (
            Known(Facts(generation=1, problem=Problem("InvalidSpec", "x"))),
            {
                "RedisReachable": ("Unknown", "NotAsked"),
                "QueueOwned": ("Unknown", "NotAsked"),
                "WorkersAvailable": ("Unknown", "NotKnown"),
                "Paused": ("Unknown", "NotRead"),
            },
        ),
        (
            replace(
                KNOWN, facts=replace(FACTS, owned=False, owner_message="x", problem=Problem("OwnedElsewhere", "x"))
            ),
            {"QueueOwned": ("False", "OwnedElsewhere"), "Ready": ("False", "OwnedElsewhere")},
        ),
        (
            replace(KNOWN, facts=replace(FACTS, deleting="Draining.")),
            {"Ready": ("False", "Deleting"), "Reconciling": ("True", "Deleting"), "Stalled": ("False", "NotStalled")},
        ),
        (
            replace(KNOWN, scaling=replace(STATE, cannot_start="ImagePullBackOff: no such image")),
            {"Ready": ("False", "WorkersCannotStart"), "WorkersAvailable": ("False", "WorkersCannotStart")},
        ),
        (
            replace(KNOWN, fleet=replace(FLEET, failing="FailedCreate: quota")),
            {"WorkersAvailable": ("False", "WorkersCannotStart")},
        ),
        (
            replace(KNOWN, fleet=replace(FLEET, wanted=0, replicas=0, available=0)),
            {"WorkersAvailable": ("True", "ScaledToZero"), "Ready": ("True", "AsDeclared")},
        ),
        (
            replace(KNOWN, fleet=replace(FLEET, available=0)),
            {"WorkersAvailable": ("Unknown", "Starting"), "Ready": ("True", "AsDeclared")},
        ),
        (
            replace(KNOWN, fleet=replace(FLEET, updated=1)),
            {"Reconciling": ("True", "Rollout"), "Ready": ("True", "AsDeclared")},
        ),
        (
            replace(KNOWN, scaling=replace(STATE, desired=None, trouble="no label")),
            {
                "Ready": ("False", "ScaleTarget"),
                "Stalled": ("True", "ScaleTarget"),
                "ScalingActive": ("False", "ScaleTarget"),
            },
        ),
        (
            replace(KNOWN, scaling=replace(STATE, limited=(Limited(Reason.MAX_REPLICAS, 5, "max"),))),
            {"ScalingLimited": ("True", "MaxReplicas")},
        ),
        (
            replace(KNOWN, scaling=replace(STATE, crew=Crew(outdated=2))),
            {"WorkersOutdated": ("True", "ProtocolDiffers")},
        ),
        (replace(KNOWN, scaling=replace(STATE, reading=reading(paused=1))), {"Paused": ("True", "Paused")}),
        (
            replace(KNOWN, scaling=replace(STATE, reading=reading(waiting=1, prioritized=1))),
            {"PriorityInversion": ("True", "JobsWithoutPriority")},
        ),
        (
            replace(
                KNOWN,
                facts=replace(FACTS, spec=spec(priorities={"levels": {"a": 1}, "default": "a"})),
                scaling=replace(STATE, reading=reading(waiting=1, prioritized=1)),
            ),
            {"PriorityInversion": ("False", "NoInversion")},
        ),
        (
            replace(KNOWN, facts=replace(FACTS, spec=spec(scaling={"mode": "Hold", "maxReplicas": 5}))),
            {"ScalingActive": ("False", "Hold")},
        ),
        (
            replace(KNOWN, facts=replace(FACTS, spec=spec(scaling={"mode": "Manual"}))),
            {"ScalingActive": ("False", "Manual")},
        ),
        (
            replace(KNOWN, facts=replace(FACTS, spec=spec(worker=None))),
            {"ScalingActive": ("False", "NothingToScale"), "WorkersAvailable": ("Unknown", "NoWorkers")},
        ),
    ],
)
def test_each_condition(known, expected):
    found = verdicts(known)
    assert {name: found[name] for name in expected} == expected


def compose(known=KNOWN, before=None, now=NOW):
    return status.compose(known, before or {}, now)


@pytest.mark.parametrize("ms", [-(2**62), LATEST_MS + 1, 2**62])
def test_a_time_that_is_none_is_the_nearest(ms):
    told = compose(replace(KNOWN, scaling=replace(STATE, decided_ms=ms)))["scaling"]["decidedTime"]
    assert told in {"1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"}


def test_the_whole_status():
    made = compose()
    del made["conditions"]
    assert made == {
        "observedGeneration": 3,
        "replicas": 2,
        "selector": "a=b",
        "binding": {"name": "b"},
        "queue": {"name": "emails", "prefix": "bull"},
        "jobs": {
            "waiting": 10,
            "prioritized": 0,
            "delayed": 0,
            "active": 4,
            "completed": 0,
            "failed": 0,
            "paused": 0,
            "observedTime": "1970-01-01T00:00:01Z",
        },
        "oldestJobTime": "1970-01-01T00:00:05Z",
        "scaling": {
            "desiredReplicas": 2,
            "reason": "JobsWaiting",
            "message": "10 jobs",
            "decidedTime": "1970-01-01T00:00:09Z",
        },
    }


def test_jobs_of_a_paused_queue_count_as_paused():
    made = compose(replace(KNOWN, scaling=replace(STATE, reading=reading(waiting=3, paused_waiting=2, paused=1))))
    assert (made["jobs"]["waiting"], made["jobs"]["paused"]) == (0, 5)


def test_what_was_read_before_a_restart_stays_until_it_is_read_anew():
    made = compose(replace(KNOWN, scaling=None), compose())
    assert made["jobs"] == compose()["jobs"]
    assert made["scaling"]["desiredReplicas"] == 2


def test_what_was_told_before_stays_where_the_spec_cannot_be_followed():
    before = {"replicas": 3, "selector": "a=b", "binding": {"name": "b"}, "queue": {"name": "q", "prefix": "p"}}
    written = status.compose(Known(Facts(generation=2, problem=Problem("InternalError", "It broke."))), before, NOW)
    assert {name: written[name] for name in before} == before


def test_the_time_of_a_transition_changes_with_the_status_alone():
    first = compose()
    later = NOW + dt.timedelta(minutes=1)
    second = compose(replace(KNOWN, facts=replace(FACTS, problem=Problem("NotYet", "x"))), first, later)
    third = compose(
        replace(KNOWN, facts=replace(FACTS, problem=Problem("InvalidSpec", "y"))),
        second,
        later + dt.timedelta(minutes=1),
    )
    times = [
        {each["type"]: each["lastTransitionTime"] for each in made["conditions"]} for made in (first, second, third)
    ]
    assert [each["Ready"] for each in times] == ["2027-01-02T03:04:05Z", "2027-01-02T03:05:05Z", "2027-01-02T03:05:05Z"]
    assert {each["Paused"] for each in times} == {"2027-01-02T03:04:05Z"}


def counted(**jobs):
    return compose(replace(KNOWN, scaling=replace(STATE, reading=reading(at_ms=int(NOW.timestamp() * 1000), **jobs))))


@pytest.mark.parametrize(
    ("before", "after", "seconds_later", "due"),
    [
        ({"waiting": 100}, {"waiting": 100}, 60, None),
        ({"waiting": 100}, {"waiting": 109}, 60, None),
        ({"waiting": 100}, {"waiting": 111}, 60, 0),
        ({"waiting": 100}, {"waiting": 111}, 10, 20),
        ({"waiting": 0}, {"waiting": 1}, 31, 0),
        ({"waiting": 0}, {"waiting": 1}, 0, 30),
        ({"failed": 1}, {"failed": 0}, 30, 0),
    ],
)
def test_counts_are_written_when_they_moved_and_not_too_often(before, after, seconds_later, due):
    old, new = counted(**before), counted(**after)
    assert status.due(new, old, NOW + dt.timedelta(seconds=seconds_later)).after_seconds == due


@pytest.mark.parametrize(
    ("was_s", "is_s", "due"),
    [
        (-5, -5, None),
        (-5, 50, None),
        (-5, 88, 0),
        (-7_000, -3_500, None),
        (-9_200, -3_500, 0),
        (80, -5, None),
    ],
)
def test_the_oldest_jobs_time_is_not_left_to_grow_older_than_the_job_by_far(was_s, is_s, due):
    """In a queue that flows steadily no count moves, and OLDEST would show for how long it has flowed."""
    old, new = counted(waiting=100), counted(waiting=100)
    old["oldestJobTime"] = status.time_text(NOW + dt.timedelta(seconds=was_s))
    new["oldestJobTime"] = status.time_text(NOW + dt.timedelta(seconds=is_s))
    assert status.due(new, old, NOW + dt.timedelta(seconds=100)).after_seconds == due


@pytest.mark.parametrize(
    ("known", "now"),
    [
        (replace(KNOWN, scaling=replace(STATE, desired=3)), True),
        (replace(KNOWN, scaling=replace(STATE, reason="Idle")), True),
        (replace(KNOWN, scaling=replace(STATE, message="11 jobs", decided_ms=10_000)), False),
        (replace(KNOWN, fleet=replace(FLEET, replicas=3)), True),
        (replace(KNOWN, fleet=replace(FLEET, available=1)), False),
        (replace(KNOWN, facts=replace(FACTS, problem=Problem("A", "x"))), True),
        (replace(KNOWN, facts=replace(FACTS, generation=4)), True),
        (KNOWN, False),
    ],
)
def test_what_is_worth_a_write_at_once(known, now):
    before = compose()
    assert status.due(compose(known, before, NOW), before, NOW).now is now
