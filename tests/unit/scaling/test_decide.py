"""What one decision says: each row a name, what is seen, what is asked for, the number and its reason."""

from dataclasses import replace

import pytest

from bullpen.scaling import (
    Behavior,
    Direction,
    History,
    Limit,
    Observation,
    RateLimit,
    Reason,
    ScalingPolicy,
    Window,
    decide,
)
from bullpen.scaling.policy import Mode

NOW = 1_798_797_600_000  # Friday 2027-01-01 10:00 UTC
MINUTE = 60_000


def seen(**values: object) -> Observation:
    return Observation(at_ms=NOW, **values)  # type: ignore[arg-type]


def asked(**values: object) -> ScalingPolicy:
    defaults = {"max_replicas": 20, "behavior": Behavior(down=Direction())}
    return ScalingPolicy(**(defaults | values))  # type: ignore[arg-type]


def up(*limits: Limit, select: str = "Max") -> Behavior:
    return Behavior(up=Direction(limits=limits, select=select), down=Direction())  # type: ignore[arg-type]


def down(*limits: Limit, select: str = "Max") -> Behavior:
    return Behavior(down=Direction(limits=limits, select=select))  # type: ignore[arg-type]


OFFICE = Window(name="office", schedule="0 8 * * 1-5", duration_ms=600 * MINUTE, min_replicas=2)
NIGHT = Window(name="night", schedule="0 22 * * *", duration_ms=600 * MINUTE, min_replicas=9)
POD = Limit(kind="Pods", value=4, period_ms=15_000)
TENTH = Limit(kind="Percent", value=10, period_ms=MINUTE)
IDLE_LONG = History(wanted_ms=NOW - 10 * MINUTE, decided_ms=NOW - 1_000, idle_readings=9)
IDLE_BRIEFLY = replace(IDLE_LONG, wanted_ms=NOW - MINUTE)
FEW_READINGS = replace(IDLE_LONG, idle_readings=1)
NOTHING = History()

TABLE = [
    # -- demand by count
    ("nothing", seen(), asked(), NOTHING, 0, Reason.IDLE),
    ("one job wakes", seen(waiting=1), asked(), NOTHING, 1, Reason.JOBS_WAITING),
    ("a burst from zero: straight to need", seen(waiting=95), asked(), NOTHING, 10, Reason.JOBS_WAITING),
    ("prioritized count", seen(prioritized=11), asked(), NOTHING, 2, Reason.JOBS_WAITING),
    ("due count", seen(delayed_due=11), asked(), NOTHING, 2, Reason.JOBS_WAITING),
    ("the next is due within a start-up", seen(next_due_ms=NOW + 4_000), asked(), NOTHING, 1, Reason.JOBS_WAITING),
    ("the next is due later", seen(next_due_ms=NOW + 6_000), asked(), NOTHING, 0, Reason.IDLE),
    ("a slow start-up looks further", seen(next_due_ms=NOW + 6_000, startup_ms=9_000), asked(), NOTHING, 1, Reason.JOBS_WAITING),
    ("running count", seen(waiting=5, active=6, replicas=1), asked(), NOTHING, 2, Reason.JOBS_WAITING),
    ("running need their slots", seen(active=21, replicas=3), asked(jobs_per_replica=100), NOTHING, 3, Reason.JOBS_RUNNING),
    ("stalled with nobody alive", seen(active=1), asked(), NOTHING, 1, Reason.JOBS_RUNNING),
    ("jobs on pods that go", seen(active=20, active_leaving=20, replicas=1), asked(), NOTHING, 1, Reason.JOBS_RUNNING),
    ("starting pods are capacity", seen(waiting=50, replicas=5, starting=5), asked(), NOTHING, 5, Reason.JOBS_WAITING),
    # -- caps, in their order
    ("paused", seen(waiting=500, active=25, busy=4, replicas=9, paused=True), asked(), NOTHING, 4, Reason.PAUSED),
    ("paused, who is busy unknown", seen(waiting=500, active=25, replicas=9, paused=True), asked(), NOTHING, 3, Reason.PAUSED),
    ("paused, minimum", seen(waiting=500, replicas=9, paused=True), asked(min_replicas=2), NOTHING, 2, Reason.MIN_REPLICAS),
    ("paused at zero", seen(waiting=500, paused=True), asked(), NOTHING, 0, Reason.PAUSED),
    ("total concurrency", seen(waiting=500, total_concurrency=35), asked(), NOTHING, 4, Reason.TOTAL_CONCURRENCY),
    ("rate limit, a guess of 1 s", seen(waiting=500, rate_limit=RateLimit(jobs=20, per_ms=1_000)), asked(), NOTHING, 3, Reason.RATE_LIMIT),
    ("rate limit, slow jobs", seen(waiting=500, rate_limit=RateLimit(jobs=20, per_ms=1_000)), asked(), History(run_ms=4_000), 9, Reason.RATE_LIMIT),
    ("window", seen(), asked(windows=(OFFICE,)), NOTHING, 2, Reason.WINDOW),
    ("a window that is closed", seen(), asked(windows=(NIGHT,)), NOTHING, 0, Reason.IDLE),
    ("window above minimum", seen(), asked(windows=(OFFICE,), min_replicas=1), NOTHING, 2, Reason.WINDOW),
    ("minimum above window", seen(), asked(windows=(OFFICE,), min_replicas=3), NOTHING, 3, Reason.MIN_REPLICAS),
    ("maximum", seen(waiting=5_000), asked(), NOTHING, 20, Reason.MAX_REPLICAS),
    # -- the last pod
    ("the last stays at first", seen(replicas=3), asked(), NOTHING, 1, Reason.ZERO_AFTER),
    ("the last stays for zeroAfter", seen(replicas=3), asked(), IDLE_BRIEFLY, 1, Reason.ZERO_AFTER),
    ("the last stays for k readings", seen(replicas=3), asked(), FEW_READINGS, 1, Reason.ZERO_AFTER),
    ("the last goes", seen(replicas=3), asked(), IDLE_LONG, 0, Reason.IDLE),
    ("zeroAfter 0 needs readings too", seen(replicas=3), asked(zero_after_ms=0), NOTHING, 1, Reason.ZERO_AFTER),
    ("zeroAfter 0", seen(replicas=3), asked(zero_after_ms=0), IDLE_BRIEFLY, 0, Reason.IDLE),
    ("due soon keeps it", seen(replicas=3, next_due_ms=NOW + 1), asked(), IDLE_LONG, 1, Reason.JOBS_WAITING),
    ("paused keeps no pod warm", seen(waiting=9, replicas=3, paused=True), asked(), IDLE_BRIEFLY, 0, Reason.PAUSED),
    ("paused, too few readings", seen(waiting=9, replicas=3, paused=True), asked(), FEW_READINGS, 1, Reason.ZERO_AFTER),
    # -- behavior
    ("up by pods", seen(waiting=200, replicas=2), asked(behavior=up(POD)), NOTHING, 6, Reason.SCALE_UP_LIMIT),
    ("up by the larger", seen(waiting=200, replicas=2), asked(behavior=up(POD, TENTH)), NOTHING, 6, Reason.SCALE_UP_LIMIT),
    ("up by the smaller", seen(waiting=200, replicas=2), asked(behavior=up(POD, TENTH, select="Min")), NOTHING, 3, Reason.SCALE_UP_LIMIT),
    ("up disabled", seen(waiting=200, replicas=2), asked(behavior=up(select="Disabled")), NOTHING, 2, Reason.SCALE_UP_LIMIT),
    ("percent of nothing is one", seen(waiting=200), asked(behavior=up(TENTH)), NOTHING, 1, Reason.SCALE_UP_LIMIT),
    ("down by percent rounds up", seen(waiting=10, replicas=72), asked(max_replicas=100, behavior=down(TENTH)), NOTHING, 64, Reason.SCALE_DOWN_LIMIT),
    ("down disabled", seen(waiting=10, replicas=7), asked(behavior=down(select="Disabled")), NOTHING, 7, Reason.SCALE_DOWN_LIMIT),
    ("the maximum is no shrink's window", seen(waiting=500, replicas=30), asked(behavior=Behavior()), NOTHING, 20, Reason.MAX_REPLICAS),
    # -- protection
    ("a few jobs on many pods: these retire", seen(waiting=1, active=9, busy=9, replicas=9), asked(), NOTHING, 1, Reason.JOBS_WAITING),
    ("busy pods above the maximum retire", seen(active=300, busy=30, replicas=30), asked(), NOTHING, 20, Reason.MAX_REPLICAS),
    ("who is busy unknown: places for all that run", seen(active=300, replicas=40), asked(), NOTHING, 30, Reason.BUSY_PODS),
    ("busy pods add none", seen(waiting=1, active=1, busy=5, replicas=1), asked(), NOTHING, 1, Reason.JOBS_WAITING),
    ("WhenIdle waits", seen(active=1, replicas=9), asked(shrink_when_idle=True), NOTHING, 9, Reason.SHRINK_WHEN_IDLE),
    ("WhenIdle shrinks", seen(waiting=1, replicas=9), asked(shrink_when_idle=True), NOTHING, 1, Reason.JOBS_WAITING),
    ("cannot start: no more", seen(waiting=99, replicas=3, cannot_start="ImagePullBackOff"), asked(), NOTHING, 3, Reason.PODS_CANNOT_START),
    ("cannot start: fewer", seen(waiting=9, replicas=3, cannot_start="quota"), asked(), NOTHING, 1, Reason.JOBS_WAITING),
    # -- modes
    ("hold", seen(waiting=500, replicas=7), asked(mode="Hold"), NOTHING, 7, Reason.HOLD),
    ("manual", seen(waiting=500, replicas=7), asked(mode="Manual", manual_replicas=25), NOTHING, 25, Reason.MANUAL),
    ("manual, busy pods retire", seen(active=9, busy=4, replicas=7), asked(mode="Manual", manual_replicas=0), NOTHING, 0, Reason.MANUAL),
    ("manual, who is busy unknown", seen(active=19, replicas=7), asked(mode="Manual", manual_replicas=0), NOTHING, 2, Reason.BUSY_PODS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("observation", "policy", "history", "replicas", "reason"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_decision(
    observation: Observation, policy: ScalingPolicy, history: History, replicas: int, reason: Reason
) -> None:
    decision = decide(observation, policy, history, NOW)
    assert (decision.replicas, decision.reason) == (replicas, reason), decision.message


WAIT = asked(wait_ms=30_000, max_replicas=100)
LEARNED = History(run_ms=1_000, decided_ms=NOW - 1_000)
LATE = NOW - 31_000

WAIT_TABLE = [
    # 25 s are left of the wait after a start-up of 5 s, and a pod of 10 slots starts 250 jobs of 1 s in them
    ("one", seen(waiting=1), LEARNED, 1, Reason.JOBS_WAITING),
    ("as many as one pod starts", seen(waiting=250), LEARNED, 1, Reason.JOBS_WAITING),
    ("one more", seen(waiting=251), LEARNED, 2, Reason.JOBS_WAITING),
    ("a thousand short ones", seen(waiting=1_000), replace(LEARNED, run_ms=10), 1, Reason.JOBS_WAITING),
    ("nothing learned: a guess", seen(waiting=1_000), NOTHING, 4, Reason.JOBS_WAITING),
    ("slow jobs: never above what counting gives", seen(waiting=30), replace(LEARNED, run_ms=3_600_000), 3, Reason.JOBS_WAITING),
    ("a fast queue at depth 0 keeps its load", seen(active=9, replicas=9), replace(LEARNED, mean_active=85.0), 9, Reason.JOBS_RUNNING),
    ("a load alone wakes nobody", seen(), replace(LEARNED, mean_active=85.0), 0, Reason.IDLE),
    ("running have their slots where pods cannot retire", seen(active=30, replicas=3), LEARNED, 3, Reason.JOBS_RUNNING),
    ("running end where they are", seen(active=30, replicas=9, busy=9), replace(LEARNED, mean_active=11.0), 2, Reason.JOBS_RUNNING),
    ("one at least while one runs", seen(active=1, replicas=9, busy=1), LEARNED, 1, Reason.JOBS_RUNNING),
    ("none has ended for longer than learned", seen(waiting=100, active=10, replicas=1, finished_total=7), replace(LEARNED, none_ended_since_ms=NOW - 10_000, read_ms=NOW - 1_000, finished_total=7, active=10), 5, Reason.JOBS_WAITING),
    ("too old: a step", seen(waiting=90, oldest_ms=LATE, replicas=1), LEARNED, 2, Reason.OLDEST_JOB),
    ("far too old: the same step", seen(waiting=90, oldest_ms=NOW - 9_999_999, replicas=1), LEARNED, 2, Reason.OLDEST_JOB),
    ("a step of a quarter", seen(waiting=900, oldest_ms=LATE, replicas=8), LEARNED, 10, Reason.OLDEST_JOB),
    ("of 1970: its time was written in seconds", seen(waiting=90, oldest_ms=1_798_797_600, replicas=1), LEARNED, 2, Reason.OLDEST_JOB),
    ("of no time at all", seen(waiting=90, oldest_ms=0, replicas=1), LEARNED, 2, Reason.OLDEST_JOB),
    ("too old, but pods are starting", seen(waiting=90, oldest_ms=LATE, replicas=1, starting=1), LEARNED, 1, Reason.JOBS_WAITING),
    ("too old, a step was just made", seen(waiting=90, oldest_ms=LATE, replicas=2), replace(LEARNED, age_step_ms=NOW - 4_999, age_floor=2), 2, Reason.OLDEST_JOB),
    ("too old, a start-up ago", seen(waiting=90, oldest_ms=LATE, replicas=2), replace(LEARNED, age_step_ms=NOW - 5_000, age_floor=2), 3, Reason.OLDEST_JOB),
    ("too old: never above counting", seen(waiting=9, oldest_ms=LATE, replicas=1), LEARNED, 1, Reason.JOBS_WAITING),
    ("a clock ahead", seen(waiting=90, oldest_ms=NOW + 99_999, replicas=1), LEARNED, 1, Reason.JOBS_WAITING),
    ("too old while paused", seen(waiting=90, oldest_ms=LATE, paused=True), LEARNED, 0, Reason.PAUSED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("observation", "history", "replicas", "reason"),
    [row[1:] for row in WAIT_TABLE],
    ids=[row[0] for row in WAIT_TABLE],
)
def test_decision_by_wait(observation: Observation, history: History, replicas: int, reason: Reason) -> None:
    decision = decide(observation, WAIT, history, NOW)
    assert (decision.replicas, decision.reason) == (replicas, reason), decision.message


def test_unknown_is_not_zero() -> None:
    gone = Observation.unknown(at_ms=NOW, because="Redis refused the connection", replicas=7)
    for policy in (asked(), asked(min_replicas=9), asked(mode="Hold"), asked(mode="Manual", manual_replicas=3)):
        assert decide(gone, policy, IDLE_LONG, NOW).replicas == 7
    assert decide(gone, asked(), IDLE_LONG, NOW).message == "Redis refused the connection: what runs is held"
    assert decide(gone, asked(mode="Manual", manual_replicas=9), IDLE_LONG, NOW).replicas == 9
    assert decide(gone, asked(), IDLE_LONG, NOW).history.idle_readings == 0


@pytest.mark.parametrize("mode", ["Hold", "Manual"])
def test_what_was_held_or_set_by_hand_goes_no_sooner_than_the_window_says(mode: Mode) -> None:
    before = asked(mode=mode, manual_replicas=9, behavior=Behavior())
    history = NOTHING
    for second in range(0, 600, 30):
        at_ms = NOW + second * 1_000
        history = decide(replace(seen(replicas=9, waiting=10), at_ms=at_ms), before, history, at_ms).history
    for passed_ms, replicas, reason in ((1_000, 9, Reason.STABILIZATION), (MINUTE, 1, Reason.JOBS_WAITING)):
        then = at_ms + passed_ms
        decision = decide(replace(seen(replicas=9, waiting=10), at_ms=then), asked(behavior=Behavior()), history, then)
        assert (decision.replicas, decision.reason) == (replicas, reason)


def test_times_of_any_length_are_told() -> None:
    ages = seen(waiting=90, oldest_ms=1_798_797_600, replicas=1)
    assert "but the oldest job has waited more than 11 years: 2" in decide(ages, WAIT, LEARNED, NOW).message
    aeon = RateLimit(jobs=5, per_ms=2**62)
    assert decide(seen(waiting=90, rate_limit=aeon), asked(), NOTHING, NOW).replicas == 2


def test_old_counts_shrink_nothing_but_may_grow() -> None:
    old = Observation(at_ms=NOW - 10_001, waiting=50, replicas=9)
    assert decide(old, asked(), NOTHING, NOW).reason == Reason.STALE_READING
    assert decide(old, asked(), NOTHING, NOW).replicas == 9
    assert decide(replace(old, replicas=1), asked(), NOTHING, NOW).replicas == 5


def test_the_message_tells_the_numbers_and_each_limit_in_order() -> None:
    busy = seen(waiting=500, prioritized=3, delayed_due=2, active=7, busy=1, replicas=1, total_concurrency=60)
    decision = decide(
        busy, asked(max_replicas=4, behavior=up(Limit(kind="Pods", value=1, period_ms=1_000))), NOTHING, NOW
    )
    assert decision.message == (
        "512 jobs (500 waiting, 3 prioritized, 2 due, 7 running) need 52 at 10 jobs per replica;"
        " 60 jobs may run at a time: 6; maxReplicas: 4; behavior.scaleUp allows for now: 2"
    )
    assert [limit.reason for limit in decision.limited] == [
        Reason.TOTAL_CONCURRENCY,
        Reason.MAX_REPLICAS,
        Reason.SCALE_UP_LIMIT,
    ]


@pytest.mark.parametrize(
    ("name", "observation", "policy", "history", "in_ms"),
    [
        ("nothing to expect", seen(), asked(), NOTHING, 30_000),
        ("a delayed job, a start-up before", seen(next_due_ms=NOW + 20_000), asked(), NOTHING, 15_000),
        ("the last pod's end", seen(replicas=1), asked(zero_after_ms=12_000), NOTHING, 12_000),
        ("the last pod's readings", seen(replicas=1), asked(), FEW_READINGS, 1_000),
        ("a limit that gives way", seen(waiting=99, replicas=1), asked(behavior=up(POD)), NOTHING, 1_000),
        ("unknown", Observation.unknown(at_ms=NOW, because="", replicas=1), asked(), NOTHING, 1_000),
        ("the oldest becomes too old", seen(waiting=9, oldest_ms=NOW - 20_000, replicas=1), WAIT, LEARNED, 10_000),
        (
            "a window closes",
            seen(),
            asked(windows=(replace(OFFICE, duration_ms=121 * MINUTE - 40_000),)),
            NOTHING,
            20_000,
        ),
    ],
)
def test_when_to_look_again(
    name: str, observation: Observation, policy: ScalingPolicy, history: History, in_ms: int
) -> None:
    assert decide(observation, policy, history, NOW).next_check_ms == NOW + in_ms
