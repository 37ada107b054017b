"""What holds of every decision."""

import json
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from bullpen.scaling import Behavior, Direction, History, Limit, Observation, RateLimit, Reason, ScalingPolicy, decide
from bullpen.scaling.history import Mark

NOW = 1_798_797_600_000
counts = st.integers(0, 3_000)
times = st.integers(NOW - 600_000, NOW + 600_000)

observations = st.builds(
    Observation,
    at_ms=st.integers(NOW - 5_000, NOW),
    waiting=counts,
    prioritized=counts,
    delayed_due=counts,
    next_due_ms=st.none() | times,
    active=counts,
    paused=st.booleans(),
    oldest_ms=st.none() | times,
    added_total=st.none() | st.integers(0, 10**9),
    finished_total=st.none() | st.integers(0, 10**9),
    mean_run_ms=st.none() | st.floats(0, 10**6),
    total_concurrency=st.none() | st.integers(1, 500),
    rate_limit=st.none() | st.builds(RateLimit, jobs=st.integers(1, 1_000), per_ms=st.integers(1_000, 60_000)),
    replicas=st.integers(0, 60),
    starting=st.integers(0, 3),
    busy=st.none() | st.integers(0, 60),
    startup_ms=st.none() | st.integers(0, 60_000),
)
directions = st.builds(
    Direction,
    window_ms=st.sampled_from([0, 10_000, 60_000]),
    limits=st.lists(
        st.builds(
            Limit,
            kind=st.sampled_from(["Pods", "Percent"]),
            value=st.integers(1, 100),
            period_ms=st.sampled_from([1_000, 15_000, 60_000]),
        ),
        max_size=2,
    ).map(tuple),
    select=st.sampled_from(["Max", "Min"]),
)
policies = st.builds(
    ScalingPolicy,
    min_replicas=st.integers(0, 5),
    max_replicas=st.integers(5, 50),
    slots=st.integers(1, 50),
    jobs_per_replica=st.integers(1, 50),
    wait_ms=st.none() | st.integers(1, 600_000),
    zero_after_ms=st.sampled_from([0, 1_000, 300_000]),
    behavior=st.builds(Behavior, up=directions, down=directions),
    shrink_when_idle=st.booleans(),
)
free = policies.map(lambda policy: replace(policy, behavior=Behavior(down=Direction()), shrink_when_idle=False))
past = st.integers(NOW - 600_000, NOW)
marks = st.lists(st.builds(Mark, past, st.integers(-50, 50)), max_size=4).map(tuple)
histories = st.builds(
    History,
    decided_ms=st.none() | past,
    read_ms=st.none() | past,
    replicas=st.none() | st.integers(0, 60),
    highs=marks,
    lows=marks,
    changes=marks,
    wanted_ms=st.none() | past,
    idle_readings=st.integers(0, 9),
    run_ms=st.none() | st.floats(0, 10**6),
    arrivals_per_ms=st.none() | st.floats(0, 10),
    added_total=st.none() | st.integers(0, 10**9),
    finished_total=st.none() | st.integers(0, 10**9),
    age_step_ms=st.none() | past,
    age_floor=st.integers(0, 60),
)


@given(observations, free, histories)
def test_between_minimum_and_maximum_but_for_busy_pods(
    observation: Observation, policy: ScalingPolicy, history: History
) -> None:
    decision = decide(observation, policy, history, NOW)
    assert decision.replicas >= policy.min_replicas
    assert decision.replicas <= policy.max_replicas or decision.reason == Reason.BUSY_PODS


@given(observations, free, histories, st.integers(0, 500))
def test_more_work_never_gives_fewer(
    observation: Observation, policy: ScalingPolicy, history: History, more: int
) -> None:
    fewer = decide(observation, policy, history, NOW)
    after = decide(replace(observation, waiting=observation.waiting + more), policy, history, NOW)
    assert fewer.replicas <= after.replicas


@given(observations, policies, histories)
def test_the_same_again_changes_nothing(observation: Observation, policy: ScalingPolicy, history: History) -> None:
    first = decide(observation, policy, history, NOW)
    again = decide(observation, policy, first.history, NOW)
    assert (again.replicas, again.reason) == (first.replicas, first.reason)


@given(observations, policies, histories)
def test_running_jobs_keep_their_places_where_pods_cannot_retire(
    observation: Observation, policy: ScalingPolicy, history: History
) -> None:
    decision = decide(replace(observation, busy=None), policy, history, NOW)
    assert decision.replicas >= min(observation.replicas, -(-observation.active // policy.slots))


@given(observations, policies, histories)
def test_unknown_holds(observation: Observation, policy: ScalingPolicy, history: History) -> None:
    assert decide(replace(observation, known=False), policy, history, NOW).replicas == observation.replicas


@given(observations, policies, histories)
def test_nothing_to_do_is_needed_for_zero(observation: Observation, policy: ScalingPolicy, history: History) -> None:
    decision = decide(observation, policy, history, NOW)
    if decision.replicas == 0 and observation.replicas:
        assert observation.active == 0
        assert observation.paused or observation.runnable == 0
        assert decision.history.idle_readings >= policy.zero_readings


@given(st.integers(1, 3_000), free)
def test_a_burst_from_zero_goes_straight_to_need(waiting: int, policy: ScalingPolicy) -> None:
    assume(policy.wait_ms is None)
    observation = Observation(at_ms=NOW, waiting=waiting)
    need = -(-waiting // policy.jobs_per_replica)
    assert decide(observation, policy, History(), NOW).replicas == max(
        min(need, policy.max_replicas), policy.min_replicas
    )


@given(observations, free, histories)
def test_never_above_what_counting_needs(observation: Observation, policy: ScalingPolicy, history: History) -> None:
    """But for the minimum, busy pods, the last pod's stay, and a load that the wait mode has learned."""
    history = replace(history, arrivals_per_ms=0.0, added_total=None)
    decision = decide(observation, policy, history, NOW)
    share = policy.slots if policy.wait_ms is not None else policy.jobs_per_replica
    jobs = observation.runnable + observation.active
    by_count = max(-(-jobs // share), -(-observation.active // policy.slots))
    others = {Reason.MIN_REPLICAS, Reason.BUSY_PODS, Reason.ZERO_AFTER}
    assert decision.replicas <= by_count or decision.reason in others


@given(observations, policies, histories)
def test_the_next_check_is_ahead_and_the_message_says_the_reason(
    observation: Observation, policy: ScalingPolicy, history: History
) -> None:
    decision = decide(observation, policy, history, NOW)
    assert NOW < decision.next_check_ms <= NOW + 30_000
    assert all(limit.message in decision.message for limit in decision.limited)


@given(histories)
def test_history_comes_back_from_json(history: History) -> None:
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history


@given(observations, policies, histories)
def test_a_restart_between_two_decisions_changes_nothing(
    observation: Observation, policy: ScalingPolicy, history: History
) -> None:
    first = decide(observation, policy, history, NOW)
    stored = History.from_json(json.loads(json.dumps(first.history.to_json())))
    assert decide(observation, policy, stored, NOW + 1_000) == decide(observation, policy, first.history, NOW + 1_000)


@given(observations, policies, histories, st.integers(-(10**10), 10**10))
def test_any_clock_gives_an_answer(
    observation: Observation, policy: ScalingPolicy, history: History, jump_ms: int
) -> None:
    first = decide(observation, policy, history, NOW)
    then = max(NOW + jump_ms, 0)
    later = decide(replace(observation, at_ms=then), policy, first.history, then)
    assert later.next_check_ms > then
