"""What is remembered, learned, and kept through jumps of the clock and restarts."""

from dataclasses import replace

import pytest
from pydantic import JsonValue

from bullpen.scaling import Behavior, Direction, History, Observation, ScalingPolicy, decide
from bullpen.scaling.history import Mark
from bullpen.scaling.policy import Mode

NOW = 1_798_797_600_000


def reading(at_ms: int, **values: object) -> Observation:
    return Observation(at_ms=at_ms, **values)  # type: ignore[arg-type]


def test_run_time_is_learned_from_samples() -> None:
    history = History().with_reading(reading(1_000, mean_run_ms=100), 1_000)
    assert history.run_ms == 100
    assert history.with_reading(reading(2_000, mean_run_ms=200), 2_000).run_ms == pytest.approx(120)
    assert history.with_reading(reading(1_000, mean_run_ms=200), 1_500).run_ms == 100  # the same reading


def test_run_time_is_learned_from_what_runs_and_ends() -> None:
    history = History().with_reading(reading(1_000, active=8, finished_total=50), 1_000)
    assert history.run_ms is None
    assert history.with_reading(reading(2_000, active=8, finished_total=90), 2_000).run_ms == 200
    assert history.with_reading(reading(2_000, active=8, finished_total=9), 2_000).run_ms is None  # started anew


def test_slow_jobs_are_not_taken_for_the_time_between_two_readings() -> None:
    history = History()
    for second in range(600):  # ten run, one ends every 48 s: 8 minutes each
        at_ms = NOW + second * 1_000
        history = history.with_reading(reading(at_ms, active=10, finished_total=second // 48), at_ms)
        if second == 47:
            assert history.run_ms is None
            assert history.none_ended_since_ms == NOW
    assert history.run_ms is not None
    assert 240_000 <= history.run_ms <= 480_000  # those that were seen to the end have run for that long at least


def test_the_first_to_end_of_a_burst_have_not_run_longer_than_the_burst() -> None:
    history = History().with_reading(reading(NOW, active=0, finished_total=0), NOW)
    for second in range(1, 11):
        history = history.with_reading(
            reading(NOW + second * 1_000, active=500, finished_total=0), NOW + second * 1_000
        )
    history = history.with_reading(reading(NOW + 11_000, active=499, finished_total=1), NOW + 11_000)
    assert history.run_ms is not None
    assert history.run_ms <= 11_000


def test_arrivals_are_learned_and_forgotten() -> None:
    history = History().with_reading(reading(0, added_total=0), 0)
    history = history.with_reading(reading(1_000, added_total=50), 1_000)
    assert history.arrivals_per_ms == pytest.approx(0.05)
    for at in range(2_000, 122_000, 1_000):
        history = history.with_reading(reading(at, added_total=50), at)
    assert history.arrivals_per_ms == pytest.approx(0.05 / 2.718281828**4, rel=0.01)
    assert history.with_reading(reading(130_000), 130_000).arrivals_per_ms is None


def test_a_clock_put_back_or_a_gap_moves_all_along() -> None:
    history = History(decided_ms=NOW, highs=(Mark(NOW - 10_000, 9),), wanted_ms=NOW - 100_000, idle_readings=7)
    for jump in (-3_600_000, 3_600_000):
        moved = history.resumed(NOW + jump)
        assert moved.highs == (Mark(NOW + jump - 10_000, 9),)
        assert moved.wanted_ms == NOW + jump - 100_000
        assert moved.idle_readings == 0
    assert history.resumed(NOW + 60_000) == history


def test_a_restart_after_an_hour_takes_no_pod_at_once() -> None:
    policy = ScalingPolicy(max_replicas=20)
    before = decide(reading(NOW, waiting=90, replicas=9), policy, History(), NOW)
    later = NOW + 3_600_000
    after = decide(reading(later, replicas=9), policy, History.from_json(before.history.to_json()), later)
    assert after.replicas == 9
    soon = decide(reading(later + 61_000, replicas=9), policy, after.history, later + 59_999)
    assert soon.replicas == 9


def test_recommendations_stay_few() -> None:
    history = History()
    for second in range(10_000):
        history = history.with_recommendation(
            second * 7919 % 20, second * 1_000, up_window_ms=3_600_000, down_window_ms=3_600_000
        )
    assert len(history.highs) <= 20
    assert len(history.lows) <= 20


@pytest.mark.parametrize("mode", ["Auto", "Hold", "Manual"])
def test_changes_stay_few(mode: Mode) -> None:
    history, policy = History(), ScalingPolicy(mode=mode, max_replicas=20, behavior=Behavior(down=Direction()))
    for second in range(100):
        at = NOW + second * 1_000
        history = decide(reading(at, waiting=second % 2 * 100, replicas=second % 2 * 10), policy, history, at).history
    assert history.changes == ()


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        "x",
        {},
        {"v": 2},
        History().to_json() | {"highs": 5},
        History().to_json() | {"highs": [[1, "x"]]},
        History().to_json() | {"wanted_ms": "soon"},
        History().to_json() | {"idle_readings": None},
        History().to_json() | {"run_ms": float("nan")},
        History().to_json() | {"run_ms": float("inf")},
        History().to_json() | {"run_ms": 10**400},
        History().to_json() | {"decided_ms": -(10**400)},
        History().to_json() | {"highs": [[10**400, 1]]},
        History().to_json() | {"changes": [[1, 10**400]]},
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_read_is_an_empty_history(damaged: JsonValue) -> None:
    assert History.from_json(damaged) == History()


def test_unknown_readings_teach_nothing() -> None:
    history = replace(History(), read_ms=NOW, run_ms=5.0, wanted_ms=NOW, idle_readings=4, added_total=9)
    gone = Observation.unknown(at_ms=NOW + 1_000, because="gone", replicas=2)
    assert history.with_reading(gone, NOW + 1_000) == replace(
        history, idle_readings=0, added_total=None, decided_ms=NOW + 1_000, replicas=2
    )
