"""Who scales, with which settings, and what comes of it on each pattern."""

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from bullpen.scaling import Behavior, Direction, ScalingPolicy
from bullpen.scaling.simulation import Bullpen, Outcome, Scaler, simulate
from tests.bench.simulation.keda import Keda, Settings
from tests.bench.simulation.patterns import MINUTE, PATTERNS, SECOND

SEEDS = (1,)
DEFAULTS = "defaults"
NO_WAIT = 0.05
"""Seconds: a mean wait below is none, on either side."""
MAX_REPLICAS = 50


@dataclass(frozen=True, slots=True)
class Contender:
    """A way of scaling with its settings."""

    who: str
    settings: str
    make: Callable[[int, int], Scaler]
    """From a pod's slots and a seed."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one contender on one pattern: means over the seeds."""

    pattern: str
    who: str
    settings: str
    mean_wait: float
    """In seconds."""
    p99_wait: float
    """In seconds."""
    pod_hours: float
    cut: float
    """Pods that were told to go while they ran jobs."""

    def is_no_worse_than(self, other: "Result") -> bool:
        """Whether it is at least as quick and at least as cheap."""
        return max(self.mean_wait, NO_WAIT) <= max(other.mean_wait, NO_WAIT) and self.pod_hours <= other.pod_hours


def _bullpen(share: float | None, wait_s: int | None, window_s: int) -> Callable[[int, int], Scaler]:
    def make(slots: int, seed: int) -> Scaler:
        policy = ScalingPolicy(
            max_replicas=MAX_REPLICAS,
            slots=slots,
            jobs_per_replica=max(1, round(slots * (share or 1))),
            wait_ms=None if wait_s is None else wait_s * SECOND,
            behavior=Behavior(down=Direction(window_ms=window_s * SECOND)),
        )
        return Bullpen(policy)

    return make


def _keda(share: float, window_s: int) -> Callable[[int, int], Scaler]:
    def make(slots: int, seed: int) -> Scaler:
        settings = Settings(
            polling_ms=SECOND,
            target=share * slots,
            counts_active=True,
            down_window_ms=window_s * SECOND,
            up_is_limited=False,
            max_replicas=MAX_REPLICAS,
        )
        return Keda(settings, phase_ms=_phase_ms(seed))

    return make


def _phase_ms(seed: int) -> int:
    return (seed * 7_919) % (5 * MINUTE)


BULLPEN = (
    Contender("Bullpen", DEFAULTS, _bullpen(1, None, 60)),
    *(
        Contender("Bullpen", f"jobsPerReplica {share:g} × slots, window {window} s", _bullpen(share, None, window))
        for share in (0.7, 1, 1.5, 2, 3, 4)
        for window in (0, 15, 60)
        if (share, window) != (1, 60)
    ),
    *(
        Contender("Bullpen", f"jobsPerReplica {share:g} × slots, window 0 s", _bullpen(share, None, 0))
        for share in (1.2, 1.7, 2.5)
    ),
    *(
        Contender("Bullpen", f"wait {wait} s, window {window} s", _bullpen(None, wait, window))
        for wait in (10, 30, 120)
        for window in (15, 60)
    ),
)
KEDA = (
    Contender("KEDA", DEFAULTS, lambda slots, seed: Keda(Settings(max_replicas=MAX_REPLICAS), _phase_ms(seed))),
    *(
        Contender("KEDA", f"target {share:g} × slots, window {window} s", _keda(share, window))
        for share in (0.5, 0.7, 1, 1.5, 2)
        for window in (15, 60, 300)
    ),
)


CONTENDERS = BULLPEN + KEDA


def run(contenders: Sequence[int] = tuple(range(len(CONTENDERS))), seeds: tuple[int, ...] = SEEDS) -> list[Result]:
    """Let these, by their place among `CONTENDERS`, play each pattern, on all processors."""
    tasks = [(pattern, index, seeds) for pattern in range(len(PATTERNS)) for index in contenders]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(play, *zip(*tasks, strict=True)))


def play(pattern_index: int, contender_index: int, seeds: tuple[int, ...]) -> Result:
    """Let one contender play one pattern."""
    pattern, contender = PATTERNS[pattern_index], CONTENDERS[contender_index]
    outcomes = [
        simulate(pattern.jobs(seed), contender.make(pattern.setting.slots, seed), pattern.setting, seed=seed)
        for seed in seeds
    ]

    def mean(of: Callable[[Outcome], float]) -> float:
        return statistics.fmean(of(outcome) for outcome in outcomes)

    return Result(
        pattern.name,
        contender.who,
        contender.settings,
        mean(lambda outcome: outcome.mean_wait_seconds),
        mean(lambda outcome: outcome.wait_seconds(0.99)),
        mean(lambda outcome: outcome.pod_hours),
        mean(lambda outcome: outcome.cut),
    )
