"""Five ways in which jobs come, each from a seed."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bullpen.scaling.simulation import Job, Setting

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
TAIL = 15 * MINUTE
"""Paid for after the last job could come, so that going to sleep counts too."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A way in which jobs come."""

    name: str
    says: str
    setting: Setting
    make: Callable[[random.Random], Iterator[Job]]

    def jobs(self, seed: int) -> list[Job]:
        """The jobs of that seed, in the order in which they come."""
        return sorted(self.make(random.Random(f"{self.name} {seed}")), key=lambda job: job.at_ms)


def _run_ms(rng: random.Random, mean_ms: float, spread: float = 0.5) -> int:
    """A run time: log-normal, of that mean."""
    return max(1, round(rng.lognormvariate(math.log(mean_ms) - spread**2 / 2, spread)))


def _poisson(rng: random.Random, per_second: Callable[[int], float], most: float, length_ms: int) -> Iterator[int]:
    at_ms = 0.0
    while (at_ms := at_ms + rng.expovariate(most / SECOND)) < length_ms:
        if rng.random() < per_second(int(at_ms)) / most:
            yield int(at_ms)


def _steady(rng: random.Random) -> Iterator[Job]:
    for at_ms in _poisson(rng, lambda _: 10.0, 10.0, 2 * HOUR):
        yield Job(at_ms, _run_ms(rng, 4 * SECOND))


def _burst(rng: random.Random) -> Iterator[Job]:
    at_ms = 0
    while (at_ms := at_ms + round(rng.uniform(8, 20) * MINUTE)) < 3 * HOUR:
        size = round(rng.uniform(100, 600))
        for number in range(size):
            yield Job(at_ms + number, _run_ms(rng, 10 * SECOND))


def _wave(rng: random.Random) -> Iterator[Job]:
    def rate(at_ms: int) -> float:
        return max(0.0, 1.5 * math.sin((at_ms / HOUR - 6) / 24 * 2 * math.pi))

    for at_ms in _poisson(rng, rate, 1.5, 24 * HOUR):
        yield Job(at_ms, _run_ms(rng, 20 * SECOND))


def _slow(rng: random.Random) -> Iterator[Job]:
    for at_ms in _poisson(rng, lambda _: 1 / 15, 1 / 15, 6 * HOUR):
        yield Job(at_ms, _run_ms(rng, 8 * MINUTE))


def _boundary(rng: random.Random) -> Iterator[Job]:
    """About as many jobs run as two pods take: a little more, a little less."""
    for at_ms in _poisson(rng, lambda _: 4.0, 4.0, 2 * HOUR):
        yield Job(at_ms, _run_ms(rng, 5 * SECOND, 0.2))


PATTERNS = (
    Pattern("steady", "10 jobs a second, of 4 s each", Setting(until_ms=2 * HOUR + TAIL), _steady),
    Pattern(
        "burst", "100 to 600 jobs of 10 s at once, every 8 to 20 minutes", Setting(until_ms=3 * HOUR + TAIL), _burst
    ),
    Pattern(
        "daily wave",
        "from none at night to 1.5 jobs a second at noon, of 20 s each",
        Setting(until_ms=24 * HOUR),
        _wave,
    ),
    Pattern(
        "slow jobs",
        "a job every 15 s, of 8 minutes each, four to a pod",
        Setting(slots=4, until_ms=6 * HOUR + TAIL),
        _slow,
    ),
    Pattern(
        "boundary",
        "as many jobs as two pods run, a little more, a little less",
        Setting(until_ms=2 * HOUR + TAIL),
        _boundary,
    ),
)
