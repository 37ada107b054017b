"""The simulation itself, and what it showed of decisions: pods that come together, jobs that are learned."""

import random
from dataclasses import dataclass, field

import pytest

from bullpen.scaling import Behavior, Direction, ScalingPolicy
from bullpen.scaling.simulation import Bullpen, Job, Look, Outcome, Seen, Setting, simulate

SECOND = 1_000
SETTING = Setting(until_ms=600 * SECOND)


@dataclass
class Fixed:
    """So many replicas, from the begin on; another number later."""

    replicas: int
    later: int | None = None
    at_ms: int = 0
    retires: bool = True
    seen: list[Seen] = field(default_factory=list)

    def look(self, seen: Seen) -> Look:
        self.seen.append(seen)
        is_later = self.later is not None and seen.now_ms >= self.at_ms
        return Look(self.later or 0 if is_later else self.replicas, seen.now_ms + SECOND)


def at_once(count: int, run_ms: int, at_ms: int = 10 * SECOND) -> list[Job]:
    return [Job(at_ms, run_ms) for _ in range(count)]


def stream(per_second: float, run_ms: int, until_ms: int, seed: int = 0) -> list[Job]:
    rng, at_ms, jobs = random.Random(seed), 0.0, []
    while (at_ms := at_ms + rng.expovariate(per_second / SECOND)) < until_ms:
        jobs.append(Job(int(at_ms), run_ms))
    return jobs


# -- the world -----------------------------------------------------------------


def test_a_job_waits_for_a_start_up_and_for_a_slot():
    outcome = simulate(at_once(25, 4 * SECOND, at_ms=0), Fixed(1), SETTING)
    assert outcome.waits_ms == [5_000] * 10 + [9_000] * 10 + [13_000] * 5
    assert outcome.wait_seconds(0.5) == 9.0
    assert outcome.wait_seconds(1.0) == 13.0
    assert outcome.mean_wait_seconds == pytest.approx(8.2)
    assert outcome.pod_hours == pytest.approx(600 / 3_600)
    assert (outcome.started, outcome.writes, outcome.cut) == (1, 1, 0)


def test_jobs_that_never_start_have_waited_all_the_time():
    outcome = simulate(at_once(3, SECOND), Fixed(0), SETTING)
    assert outcome.waits_ms == [590_000] * 3


def test_who_retires_takes_no_job_and_goes_when_its_own_are_done():
    jobs = [*at_once(20, 60 * SECOND), *at_once(5, SECOND, at_ms=30 * SECOND)]
    scaler = Fixed(2, later=1, at_ms=20 * SECOND)
    outcome = simulate(jobs, scaler, SETTING)
    assert outcome.cut == 0
    assert [(at_ms, count) for at_ms, count in outcome.replicas if at_ms] == [(70_000, 1), (600_000, 0)]
    assert outcome.waits_ms[20:] == [40_000] * 5  # the pod that stays takes them, once it has slots
    assert scaler.seen[25].replicas == 2


def test_who_is_told_to_go_is_paid_for_until_its_jobs_are_done():
    outcome = simulate(at_once(20, 60 * SECOND), Fixed(2, later=1, at_ms=20 * SECOND, retires=False), SETTING)
    assert outcome.cut == 1
    assert outcome.pod_ms == 600_000 + 70_000


def test_an_order_to_retire_is_lifted_when_there_is_work_again():
    @dataclass
    class Dip(Fixed):
        def look(self, seen: Seen) -> Look:
            self.seen.append(seen)
            return Look(1 if 20 * SECOND <= seen.now_ms < 30 * SECOND else 2, seen.now_ms + SECOND)

    jobs = [*at_once(18, 60 * SECOND), *at_once(2, SECOND, at_ms=40 * SECOND)]
    outcome = simulate(jobs, Dip(2), SETTING)
    assert outcome.waits_ms[18:] == [0, 0]
    assert outcome.started == 2


def test_the_same_seed_gives_the_same():
    jobs = stream(9, 3 * SECOND, 500 * SECOND)

    def run(seed: int) -> Outcome:
        return simulate(jobs, Bullpen(ScalingPolicy(max_replicas=9)), SETTING, seed=seed)

    assert run(1) == run(1)
    assert run(1).replicas != run(2).replicas


def test_the_first_job_wakes():
    outcome = simulate([Job(123_456, SECOND)], Bullpen(ScalingPolicy(max_replicas=9)), SETTING)
    assert outcome.waits_ms == [5_050]  # the settle and the start-up


def test_it_goes_back_to_sleep():
    outcome = simulate(at_once(95, SECOND), Bullpen(ScalingPolicy(max_replicas=50, zero_after_ms=60_000)), SETTING)
    assert max(count for _, count in outcome.replicas) == 10
    assert outcome.replicas[-1][1] == 0
    last_job = 16_050  # 10 s, a settle, a start-up, a second of work
    assert last_job + 60_000 <= outcome.replicas[-1][0] <= last_job + 65_000  # no window comes on top of `zeroAfter`


# -- what it showed ------------------------------------------------------------


def test_a_trickle_over_many_pods_comes_together_on_a_few():
    """One job on each of thirty pods is no reason to keep thirty: they retire, and go when theirs is done."""
    jobs = sorted([*at_once(300, 10 * SECOND), *stream(3, 10 * SECOND, 590 * SECOND)], key=lambda job: job.at_ms)
    outcome = simulate(jobs, Bullpen(ScalingPolicy(max_replicas=50)), SETTING)
    assert max(count for _, count in outcome.replicas) >= 30
    after = [count for at_ms, count in outcome.replicas if 150 * SECOND < at_ms < 590 * SECOND]
    assert max(after) <= 6
    assert outcome.cut == 0


def test_a_fast_queue_that_shows_no_depth_keeps_its_workers():
    policy = ScalingPolicy(max_replicas=50, wait_ms=10 * SECOND, zero_after_ms=0, behavior=Behavior(down=Direction()))
    jobs = stream(200, 100, 300 * SECOND)
    outcome = simulate(jobs, Bullpen(policy), Setting(until_ms=300 * SECOND))
    settled = [count for at_ms, count in outcome.replicas if 60 * SECOND < at_ms < 300 * SECOND]
    assert 2 <= min(settled, default=2) <= max(settled, default=2) <= 4
    assert max(outcome.waits_ms[2_000:]) < SECOND


@pytest.mark.parametrize("run_ms", [100, 5 * SECOND, 60 * SECOND])
def test_run_times_are_learned(run_ms: int):
    scaler = Bullpen(ScalingPolicy(max_replicas=200))
    simulate(stream(2, run_ms, 580 * SECOND), scaler, Setting(until_ms=580 * SECOND))
    assert scaler.history.run_ms == pytest.approx(run_ms, rel=0.35)


def test_slow_jobs_that_nobody_knew_are_not_taken_for_short_ones():
    """The first guess is a second; while none ends, what has passed is learned, before the wait is over."""
    policy = ScalingPolicy(max_replicas=50, wait_ms=60 * SECOND)
    outcome = simulate(at_once(100, 3_600 * SECOND), Bullpen(policy), SETTING)
    assert max(outcome.waits_ms) < 75 * SECOND


@pytest.mark.parametrize("wait_seconds", [10, 30, 120])
def test_waiting_that_is_allowed_is_made_use_of(wait_seconds: int):
    """A wait costs no more than none, and is kept."""
    setting = Setting(until_ms=1_200 * SECOND)
    jobs = stream(10, 4 * SECOND, 1_200 * SECOND, seed=3)
    by_wait = simulate(jobs, Bullpen(ScalingPolicy(max_replicas=50, wait_ms=wait_seconds * SECOND)), setting)
    by_count = simulate(jobs, Bullpen(ScalingPolicy(max_replicas=50)), setting)
    assert by_wait.pod_ms < by_count.pod_ms
    assert max(by_wait.waits_ms) < wait_seconds * SECOND
