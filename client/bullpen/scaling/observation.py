"""What is seen of a queue and its workers at one moment: the input of a scaling decision."""

from dataclasses import dataclass

FIRST_STARTUP_MS = 5_000
"""What a worker's start-up is taken for until one has been seen."""


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """At most `jobs` start in `per_ms`, over all workers."""

    jobs: int
    per_ms: int

    @property
    def jobs_per_ms(self) -> float:
        """The limit as a rate."""
        return self.jobs / self.per_ms


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One reading. Counts are jobs, times are milliseconds since 1970 by the reader's own clock.

    A reading that failed is `unknown`, never zeros: see there.
    """

    at_ms: int
    """When the counts were read. Two readings with the same time are the same reading."""
    known: bool = True
    """False when Redis did not answer, or not as a queue should: all counts are meaningless then."""
    unknown_because: str = ""
    """Why nothing is known, in words for the person on call."""

    waiting: int = 0
    prioritized: int = 0
    delayed_due: int = 0
    """Delayed jobs due before now + start-up time."""
    next_due_ms: int | None = None
    """When the next delayed job is due; None without one."""
    active: int = 0
    active_leaving: int = 0
    """Those of `active` that run on pods which are going (terminating): they end there and need no other pod."""
    paused: bool = False
    oldest_ms: int | None = None
    """Since when the job that has waited longest could have started; None when unknown or nothing waits."""

    added_total: int | None = None
    """Counter of jobs ever added; may start anew. None when unknown."""
    finished_total: int | None = None
    """Counter of attempts ever ended; may start anew. None when unknown."""
    mean_run_ms: float | None = None
    """Mean run time of jobs that ended lately; None leaves it to be learned from `active` and `finished_total`."""

    total_concurrency: int | None = None
    """Jobs that may run at a time over all workers, as it stands in Redis."""
    rate_limit: RateLimit | None = None
    """The queue's rate limit, as it stands in Redis."""

    replicas: int = 0
    """What the target is set to now, starting ones included."""
    ready: int = 0
    starting: int = 0
    busy: int | None = None
    """Pods that run at least one job; None when unknown (somebody else's workers)."""
    startup_ms: int | None = None
    """How long a worker lately took from its creation to its first fetch; None before the first."""
    cannot_start: str = ""
    """Why pods cannot start (image, quota, crash loop), when they cannot."""

    @classmethod
    def unknown(cls, *, at_ms: int, because: str, replicas: int) -> "Observation":
        """Give the reading of a queue whose Redis did not answer: what runs is all that is known."""
        return cls(at_ms=at_ms, known=False, unknown_because=because, replicas=replicas)

    @property
    def expected_startup_ms(self) -> int:
        """The start-up time to reckon with."""
        return FIRST_STARTUP_MS if self.startup_ms is None else max(self.startup_ms, 0)

    @property
    def runnable(self) -> int:
        """Jobs that could start now or by the time a new pod is up, were the queue not paused."""
        return self.waiting + self.prioritized + self.due

    @property
    def due(self) -> int:
        """Delayed jobs due by the time a new pod is up."""
        is_due = self.next_due_ms is not None and self.next_due_ms <= self.at_ms + self.expected_startup_ms
        return max(self.delayed_due, int(is_due))

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing could."""
        return self.active == 0 and (self.paused or self.runnable == 0)
