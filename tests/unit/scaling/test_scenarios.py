"""A queue and its workers on a virtual clock, scaled by `decide` once a second."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from bullpen.scaling import Behavior, Direction, History, Limit, Observation, Reason, ScalingPolicy, decide

START = 1_798_797_600_000
SECOND = 1_000


@dataclass
class Fleet:
    """Jobs of one length, pods that take `startup_ms` to come; who is to go takes no more jobs and leaves when idle."""

    policy: ScalingPolicy
    run_ms: int
    startup_ms: int = 3 * SECOND
    reads_redis: Callable[[int], bool] = lambda second: True
    now_ms: int = START
    waiting: list[int] = field(default_factory=list)
    pods: list[tuple[int, list[int]]] = field(default_factory=list)  # ready at, ends of running jobs
    retired: list[tuple[int, list[int]]] = field(default_factory=list)
    added: int = 0
    finished: int = 0
    history: History = field(default_factory=History)
    replicas: list[int] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)

    def run(self, seconds: int, arrivals: Callable[[int], int]) -> "Fleet":
        for second in range(seconds):
            jobs = arrivals(second)
            self.added += jobs
            self.waiting += [self.now_ms] * jobs
            for _ in range(10):
                self.work()
                self.now_ms += SECOND // 10
            self.scale(second)
        return self

    def work(self) -> None:
        for _, running in self.pods + self.retired:
            self.finished += sum(end <= self.now_ms for end in running)
            running[:] = [end for end in running if end > self.now_ms]
        self.retired = [pod for pod in self.retired if pod[1]]
        for ready_ms, running in self.pods:
            while ready_ms <= self.now_ms and self.waiting and len(running) < self.policy.slots:
                self.waits.append(self.now_ms - self.waiting.pop(0))
                running.append(self.now_ms + self.run_ms)

    def scale(self, second: int) -> None:
        pods = self.pods + self.retired
        observation = Observation(
            at_ms=self.now_ms,
            waiting=len(self.waiting),
            active=sum(len(running) for _, running in pods),
            oldest_ms=self.waiting[0] if self.waiting else None,
            added_total=self.added,
            finished_total=self.finished,
            replicas=len(pods),
            starting=sum(ready > self.now_ms for ready, _ in pods),
            busy=sum(bool(running) for _, running in pods),
            startup_ms=self.startup_ms,
        )
        if not self.reads_redis(second):
            observation = Observation.unknown(at_ms=self.now_ms, because="gone", replicas=len(pods))
        decision = decide(observation, self.policy, self.history, self.now_ms)
        self.history = History.from_json(decision.history.to_json())
        pods.sort(key=lambda pod: -len(pod[1]))
        self.pods, self.retired = pods[: decision.replicas], [pod for pod in pods[decision.replicas :] if pod[1]]
        self.pods += [(self.now_ms + self.startup_ms, []) for _ in range(decision.replicas - len(self.pods))]
        self.replicas.append(decision.replicas)
        self.reasons.append(decision.reason)


def test_a_burst_is_one_write_up_and_sleeps_again() -> None:
    fleet = Fleet(ScalingPolicy(max_replicas=50, zero_after_ms=120_000), run_ms=20 * SECOND)
    fleet.run(300, lambda second: 300 if second == 0 else 0)
    assert fleet.replicas[0] == 30
    assert max(fleet.replicas) == 30
    assert fleet.finished == 300
    assert fleet.replicas[-1] == 0
    last_job = next(i for i in range(300) if fleet.reasons[i] in {Reason.ZERO_AFTER, Reason.STABILIZATION})
    gone = fleet.replicas.index(0)
    assert gone - last_job >= 100


def test_a_steady_load_keeps_steady() -> None:
    fleet = Fleet(ScalingPolicy(max_replicas=50), run_ms=2 * SECOND)
    fleet.run(600, lambda second: 20)
    assert len(set(fleet.replicas[200:])) == 1
    assert max(fleet.waits[-1_000:]) < SECOND


def test_a_count_at_the_boundary_does_not_flap() -> None:
    fleet = Fleet(ScalingPolicy(max_replicas=50), run_ms=SECOND)
    fleet.run(600, lambda second: 9 if second % 2 else 12)
    assert set(fleet.replicas[100:]) == {2}


def test_slow_jobs_are_never_cut() -> None:
    fleet = Fleet(ScalingPolicy(max_replicas=50, behavior=Behavior(down=Direction())), run_ms=120 * SECOND)
    fleet.run(400, lambda second: 95 if second == 0 else 0)
    assert fleet.finished == 95


@pytest.mark.parametrize("run_ms", [200, 2_000, 20_000])
def test_the_wait_is_kept_once_learned(run_ms: int) -> None:
    policy = ScalingPolicy(max_replicas=500, wait_ms=30 * SECOND)
    fleet = Fleet(policy, run_ms=run_ms).run(600, lambda second: 10 + (second // 100 % 2) * 20)
    late = [wait for wait in fleet.waits[len(fleet.waits) // 3 :] if wait > 30 * SECOND]
    assert late == []
    assert max(fleet.replicas) <= 2 * (30 * run_ms / 1_000 / 10 + 1) + 1


def test_age_does_not_run_away_while_pods_boot() -> None:
    policy = ScalingPolicy(max_replicas=500, wait_ms=5 * SECOND)
    fleet = Fleet(policy, run_ms=4 * SECOND, startup_ms=20 * SECOND)
    fleet.run(60, lambda second: 300 if second == 0 else 0)
    assert max(fleet.replicas) <= 30
    assert fleet.finished == 300


def test_an_outage_holds_what_runs() -> None:
    fleet = Fleet(ScalingPolicy(max_replicas=50), run_ms=SECOND, reads_redis=lambda second: not 30 <= second < 400)
    fleet.run(460, lambda second: 50 if second < 30 else 0)
    assert set(fleet.replicas[30:400]) == {fleet.replicas[29]}
    assert set(fleet.reasons[30:400]) == {Reason.UNKNOWN}
    assert fleet.replicas[400] == fleet.replicas[29]
    assert fleet.replicas[-1] <= 1


@pytest.mark.parametrize(
    "limit",
    [Limit(kind="Pods", value=4, period_ms=15_000), Limit(kind="Percent", value=50, period_ms=30_000)],
)
def test_no_period_sees_more_than_behavior_allows(limit: Limit) -> None:
    policy = ScalingPolicy(
        max_replicas=100, behavior=Behavior(up=Direction(limits=(limit,)), down=Direction(limits=(limit,)))
    )
    fleet = Fleet(policy, run_ms=SECOND).run(400, lambda second: 700 if second < 200 else 0)
    period = limit.period_ms // SECOND
    series = [0] * period + fleet.replicas
    for index in range(period, len(series)):
        for before in series[index - period + 1 : index + 1]:
            growth = limit.value if limit.kind == "Pods" else max(-(-before * limit.value // 100), 1)
            shrink = limit.value if limit.kind == "Pods" else -(-before * limit.value // 100)
            assert before - shrink <= series[index] <= before + growth
