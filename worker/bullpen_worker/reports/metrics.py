"""What a worker counts about its jobs, where the jobs run.

A `Recorder` lives in each child process and is written by its event loop alone: plain lists, no lock, well under a
microsecond a job. Its `snapshot` is cumulative, so a snapshot that is lost or comes twice does no harm. The supervisor
adds the snapshots of all children up and serves them (`bullpen_worker.reports.exposition`).

The metrics, all beginning with ``bullpen_``, all labelled ``queue``; ``name`` is the job's name where a handler is
registered for it, else ``other``, so that producers cannot make the number of series grow:

=========================================  =========  ====================  ============================================
name                                       type       labels                meaning
=========================================  =========  ====================  ============================================
job_duration_seconds                       histogram  name, outcome         how long attempts ran, from start to end
job_wait_seconds                           histogram  name                  from when a job could have started to its
                                                                            start; a retry counts from when it was due
job_attempts_total                         counter    name, outcome         attempts that ended, those that never ran
                                                                            (``expired``) included
worker_slots                               gauge                            jobs that may run at once
worker_busy                                gauge                            jobs that run now
worker_last_fetch_timestamp_seconds        gauge                            when Redis last answered a fetch, Unix time
lock_renewals_total                        counter    outcome               ``renewed``, ``lost`` (somebody else may run
                                                                            the job), ``error`` (Redis did not answer)
jobs_recovered_total                       counter                          jobs of dead workers put back to wait
=========================================  =========  ====================  ============================================

Outcomes of an attempt (`OUTCOMES`): ``completed``; ``retried`` (failed, runs again); ``failed`` (for good); ``timeout``
(over its time, whether it runs again or not); ``cancelled``; ``released`` (given back with the attempt unspent: a
shutdown, a snooze, a rate limit, no handler yet); ``lock_lost`` (its result was void); ``expired`` (too late to start).
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, Literal, TypedDict, get_args

JobOutcome = Literal["completed", "retried", "failed", "timeout", "cancelled", "released", "lock_lost", "expired"]
OUTCOMES: Final[tuple[JobOutcome, ...]] = get_args(JobOutcome)

RenewalOutcome = Literal["renewed", "lost", "error"]
RENEWALS: Final[tuple[RenewalOutcome, ...]] = get_args(RenewalOutcome)

OTHER: Final = "other"
"""The ``name`` of jobs that no handler is registered for."""

BOUNDS_SECONDS: Final[tuple[float, ...]] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 150, 300, 600, 1800, 3600,
)  # fmt: skip
"""Upper bounds of the histograms' buckets, ends included: from a no-op to an hour. One more bucket holds the rest."""

Cells = list[float]
"""One series: a count for each bucket, then the sum in seconds, then the number of attempts (`SUM`, `ATTEMPTS`)."""

SUM: Final = len(BOUNDS_SECONDS) + 1
ATTEMPTS: Final = SUM + 1


class Snapshot(TypedDict):
    """All that a recorder counted since its process started, as plain JSON; series that are all zero are left out."""

    durations: dict[str, dict[JobOutcome, Cells]]
    """By job name, then by outcome."""

    waits: dict[str, Cells]
    """By job name."""


class Recorder:
    """Counts the attempts that one process runs. Not thread-safe: its owner is the event loop that runs the jobs."""

    __slots__ = ("_durations", "_revision", "_waits")

    def __init__(self, names: Iterable[str]) -> None:
        """Count by these job names; what has another name is counted as ``other``."""
        known = [*names, OTHER]
        self._durations = {name: {outcome: _empty() for outcome in OUTCOMES} for name in known}
        self._waits = {name: _empty() for name in known}
        self._revision = 0

    @property
    def revision(self) -> int:
        """Grows with each count: the same number means that a snapshot would say nothing new."""
        return self._revision

    def ran(self, name: str, outcome: JobOutcome, wait_seconds: float, run_seconds: float) -> None:
        """Count an attempt that ran. A clock that stepped back makes no negative time: it counts as none."""
        self._revision += 1
        if name not in self._waits:
            name = OTHER
        if wait_seconds < 0:
            wait_seconds = 0.0
        if run_seconds < 0:
            run_seconds = 0.0
        cells = self._durations[name][outcome]
        cells[bisect_left(BOUNDS_SECONDS, run_seconds)] += 1
        cells[SUM] += run_seconds
        cells[ATTEMPTS] += 1
        cells = self._waits[name]
        cells[bisect_left(BOUNDS_SECONDS, wait_seconds)] += 1
        cells[SUM] += wait_seconds
        cells[ATTEMPTS] += 1

    def never_ran(self, name: str, outcome: JobOutcome) -> None:
        """Count a job that ended, or was put off, without its handler being called: no wait, no duration."""
        self._revision += 1
        self._durations[name if name in self._waits else OTHER][outcome][ATTEMPTS] += 1

    def snapshot(self) -> Snapshot:
        """Give all counts so far, apart from the recorder."""
        return {
            "durations": {
                name: used
                for name, by_outcome in self._durations.items()
                if (used := {outcome: cells.copy() for outcome, cells in by_outcome.items() if cells[ATTEMPTS]})
            },
            "waits": {name: cells.copy() for name, cells in self._waits.items() if cells[ATTEMPTS]},
        }


def _empty() -> Cells:
    return [0] * (ATTEMPTS + 1)
