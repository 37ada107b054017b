"""How a queue's jobs are run: how many at once, how fast, how long, how often again, in which order."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from bullpen import durations
from bullpen.api.v1alpha1.base import (
    CheckInterval,
    Duration,
    DurationOrZero,
    Factor,
    ItemName,
    JobName,
    LockDuration,
    Model,
    Percent,
    ratio,
)
from bullpen.api.v1alpha1.rules import Breach, rule

HIGHEST_PRIORITY_NUMBER = 2_097_151
"""BullMQ's bound: a priority has 21 bits. The smaller the number, the sooner the job."""

DEFAULT_MAX_DELAY = timedelta(minutes=1)

BackoffType = Literal["Exponential", "Linear", "Fixed", "Immediate"]


class Concurrency(Model):
    """How many jobs run at the same time."""

    per_worker: int = Field(
        default=10, ge=1, le=10_000, description="Jobs that one pod runs at a time, shared by its processes."
    )
    total: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Jobs of the queue that run at a time over all workers; absent: no such limit.",
    )


class RateLimit(Model):
    """At most so many jobs start in each period, over all workers."""

    jobs: int = Field(ge=1, le=1_000_000, description="Jobs that may start in one period.")
    per: Duration = Field(description="Length of the period.")


class Backoff(Model):
    """How long a failed attempt waits for the next."""

    type: BackoffType = Field(
        default="Exponential",
        description="Exponential: delay × factor^(n-1) after the n-th attempt; Linear: delay × n; Fixed: always delay; "
        "Immediate: no wait.",
    )
    delay: DurationOrZero = Field(
        default=timedelta(seconds=2), description="Wait after the first attempt; Immediate ignores it."
    )
    factor: Factor = Field(
        default="2", description="What Exponential multiplies by from attempt to attempt: a decimal number as text."
    )
    max_delay: Duration | None = Field(
        default=None,
        description="Longest wait of Exponential and Linear; absent: 1m, or `delay` where that is longer.",
    )
    jitter: Percent = Field(
        default="50%",
        description="Share of the wait that is chosen at random, so that jobs which failed together do not return "
        "together.",
    )

    @rule(
        "!(self.type in ['Exponential', 'Linear']) || !has(self.maxDelay)"
        " || duration(self.maxDelay) >= duration(self.delay)",
        "must not be shorter than `delay`",
        at="maxDelay",
    )
    def _bounds_the_delay(self) -> Iterator[Breach]:
        if self.max_delay is not None and self.max_delay < self.delay and self.type in {"Exponential", "Linear"}:
            yield Breach(("maxDelay",), durations.format_ms(durations.parse_ms(self.max_delay)))

    @property
    def longest(self) -> timedelta:
        """The longest wait in effect, before jitter."""
        match self.type:
            case "Immediate":
                return timedelta()
            case "Fixed":
                return self.delay
            case _:
                return max(DEFAULT_MAX_DELAY, self.delay) if self.max_delay is None else self.max_delay

    @property
    def jitter_ratio(self) -> float:
        """`jitter` as a number from 0 to 1."""
        return ratio(self.jitter)

    @property
    def factor_number(self) -> float:
        """`factor` as a number."""
        return float(self.factor)


class Retry(Model):
    """How often a job is tried, and the waits between."""

    attempts: int = Field(
        default=3, ge=1, le=100, description="Attempts in all, the first included: 1 means that nothing is retried."
    )
    backoff: Backoff = Field(default_factory=Backoff, description="Waits between attempts.")


class BackoffOverride(Model):
    """What a job name's backoff has of its own; what is absent is the queue's."""

    type: BackoffType | None = Field(default=None, description="As in `retry.backoff`.")
    delay: DurationOrZero | None = Field(default=None, description="As in `retry.backoff`.")
    factor: Factor | None = Field(default=None, description="As in `retry.backoff`.")
    max_delay: Duration | None = Field(default=None, description="As in `retry.backoff`.")
    jitter: Percent | None = Field(default=None, description="As in `retry.backoff`.")


class RetryOverride(Model):
    """What a job name's retry has of its own; what is absent is the queue's."""

    attempts: int | None = Field(default=None, ge=1, le=100, description="As in `retry`.")
    backoff: BackoffOverride | None = Field(default=None, description="As in `retry`, field by field.")

    def over(self, queue: Retry) -> Retry:
        """Give the queue's retry with this one's fields in place of its own.

        Raises `pydantic.ValidationError` where the two together break a rule (a `delay` beyond the queue's `maxDelay`).
        """
        own = self.backoff.model_dump(exclude_none=True) if self.backoff else {}
        backoff = Backoff.model_validate(queue.backoff.model_dump(exclude_none=True) | own)
        return Retry(attempts=queue.attempts if self.attempts is None else self.attempts, backoff=backoff)


class JobPolicy(Model):
    """What jobs of one name have of their own."""

    name: JobName = Field(description="Name of the jobs.")
    timeout: Duration | None = Field(default=None, description="Longest time of one attempt; absent: the queue's.")
    retry: RetryOverride | None = Field(
        default=None, description="Attempts and backoff; what is absent in it is the queue's."
    )


class Priorities(Model):
    """Names for priorities, and what becomes of jobs that bring none."""

    levels: dict[ItemName, Annotated[int, Field(ge=1, le=HIGHEST_PRIORITY_NUMBER)]] = Field(
        min_length=1,
        max_length=64,
        description="Priority by name, from 1 (the most urgent) to 2097151.",
    )
    default: Annotated[str, StringConstraints(max_length=63)] = Field(
        description="Level of jobs for which no priority was asked."
    )
    unprioritized: Literal["Demote", "First"] = Field(
        default="Demote",
        description="Jobs that arrive without any priority, which BullMQ serves before all others: Demote files them "
        "under the default level, First leaves them first.",
    )

    @rule("self.default in self.levels", "must name one of `levels`", at="default")
    def _defaults_to_a_level(self) -> Iterator[Breach]:
        if self.default not in self.levels:
            yield Breach(("default",), self.default, hint=f": {', '.join(self.levels)}")

    @property
    def default_number(self) -> int:
        """The number of the default level."""
        return self.levels[self.default]


class Recovery(Model):
    """When a job whose worker died is taken back, and how often."""

    lock_duration: LockDuration = Field(
        default=timedelta(seconds=10),
        description="A job whose worker did not renew its lock for so long is taken from it. Workers renew well before.",
    )
    check_interval: CheckInterval = Field(
        default=timedelta(seconds=3), description="How often workers look for jobs whose lock has run out."
    )
    max_crashes: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Deaths of a worker process that one job may cause before it is quarantined as failed.",
    )


class UnknownHandler(Model):
    """What becomes of a job whose name no handler knows."""

    after: Duration = Field(
        default=timedelta(hours=1),
        description="How long the job is put off, without spending an attempt, until it fails as UnknownJob.",
    )
