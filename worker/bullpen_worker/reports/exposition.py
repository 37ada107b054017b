"""The counts of all children of a worker, added up and written in Prometheus' formats.

`WorkerMetrics` belongs to the supervisor's event loop. Children come and go, counters never go back: a child's last
snapshot stays in the sum when the child has gone. What each metric means stands in `bullpen_worker.reports.metrics`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import prometheus_client
from prometheus_client import Metric, core, exposition
from prometheus_client.registry import Collector

from bullpen_worker.reports import metrics
from bullpen_worker.reports.metrics import Cells, JobOutcome, RenewalOutcome, Snapshot

Key = TypeVar("Key")


class Page(NamedTuple):
    """What a scrape is answered with."""

    body: bytes
    content_type: str


class WorkerMetrics(Collector):
    """A worker's metrics over all its children. `slots`, `busy` and `last_fetch` are set by whoever knows them.

    It is a collector of `prometheus_client` too, for a registry of the caller's own.
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.slots = 0
        """Jobs that may run at once, over all children."""
        self.busy = 0
        """Jobs that run now."""
        self.last_fetch: float | None = None
        """Unix time in seconds of the last answer to a fetch; None: not yet, and the metric is absent."""
        self._renewals: dict[RenewalOutcome, int] = dict.fromkeys(metrics.RENEWALS, 0)
        self._recovered = 0
        self._gone = _Sums()
        self._children: dict[int, Snapshot] = {}

    def absorb(self, child: int, snapshot: Snapshot) -> None:
        """Take a child's latest snapshot in place of its one before. `child` is its pid."""
        self._children[child] = snapshot

    def child_gone(self, child: int) -> None:
        """Keep what an ended child counted, so that its pid can be used again. Unknown pids are none of ours."""
        snapshot = self._children.pop(child, None)
        if snapshot is not None:
            self._gone.add(snapshot)

    def lock_renewals(self, outcome: RenewalOutcome, count: int = 1) -> None:
        """Count locks that were to be renewed."""
        self._renewals[outcome] += count

    def jobs_recovered(self, count: int = 1) -> None:
        """Count jobs of dead workers that this worker put back to wait."""
        self._recovered += count

    def render(self, accept: str = "") -> Page:
        """Write all metrics: in the OpenMetrics format where the ``Accept`` header asks for it, else as plain text.

        Those of the process (memory, file descriptors) are the supervisor's own.
        """
        registry = prometheus_client.CollectorRegistry(auto_describe=False)
        registry.register(self)
        prometheus_client.ProcessCollector(registry=registry)
        encode, content_type = exposition.choose_encoder(accept)
        return Page(encode(registry), content_type)

    def collect(self) -> Iterator[Metric]:
        """Give each metric with its samples of now."""
        sums = _Sums(self._gone)
        for snapshot in self._children.values():
            sums.add(snapshot)
        labels = ("queue", "name", "outcome")
        durations = core.HistogramMetricFamily(
            "bullpen_job_duration_seconds", "How long attempts ran, by outcome.", labels=labels
        )
        attempts = core.CounterMetricFamily("bullpen_job_attempts", "Attempts that ended, by outcome.", labels=labels)
        for (name, outcome), cells in sorted(sums.durations.items()):
            attempts.add_metric((self.queue, name, outcome), cells[metrics.ATTEMPTS])
            if any(cells[: metrics.SUM]):
                durations.add_metric((self.queue, name, outcome), _buckets(cells), cells[metrics.SUM])
        waits = core.HistogramMetricFamily(
            "bullpen_job_wait_seconds",
            "From when a job could have started to its start.",
            labels=labels[:2],
        )
        for name, cells in sorted(sums.waits.items()):
            waits.add_metric((self.queue, name), _buckets(cells), cells[metrics.SUM])
        yield from (durations, attempts, waits)
        yield from self._collect_worker()

    def _collect_worker(self) -> Iterator[Metric]:
        queue = (self.queue,)
        slots = core.GaugeMetricFamily("bullpen_worker_slots", "Jobs that may run at once.", labels=("queue",))
        slots.add_metric(queue, self.slots)
        busy = core.GaugeMetricFamily("bullpen_worker_busy", "Jobs that run now.", labels=("queue",))
        busy.add_metric(queue, self.busy)
        last_fetch = core.GaugeMetricFamily(
            "bullpen_worker_last_fetch_timestamp_seconds",
            "When Redis last answered a fetch, in Unix time.",
            labels=("queue",),
        )
        if self.last_fetch is not None:
            last_fetch.add_metric(queue, self.last_fetch)
        renewals = core.CounterMetricFamily(
            "bullpen_lock_renewals", "Locks that were to be renewed, by what came of it.", labels=("queue", "outcome")
        )
        for outcome, count in self._renewals.items():
            renewals.add_metric((self.queue, outcome), count)
        recovered = core.CounterMetricFamily(
            "bullpen_jobs_recovered", "Jobs of dead workers put back to wait.", labels=("queue",)
        )
        recovered.add_metric(queue, self._recovered)
        yield from (slots, busy, last_fetch, renewals, recovered)


class _Sums:
    """Series added up over processes."""

    def __init__(self, start: "_Sums | None" = None) -> None:
        self.durations: dict[tuple[str, JobOutcome], Cells] = {}
        self.waits: dict[str, Cells] = {}
        if start is not None:
            self.durations.update({key: cells.copy() for key, cells in start.durations.items()})
            self.waits.update({key: cells.copy() for key, cells in start.waits.items()})

    def add(self, snapshot: Snapshot) -> None:
        for name, by_outcome in snapshot["durations"].items():
            for outcome, cells in by_outcome.items():
                _add(self.durations, (name, outcome), cells)
        for name, cells in snapshot["waits"].items():
            _add(self.waits, name, cells)


def _add(sums: dict[Key, Cells], key: Key, cells: Iterable[float]) -> None:
    before = sums.get(key)
    sums[key] = list(cells) if before is None else [one + other for one, other in zip(before, cells, strict=True)]


def _buckets(cells: Cells) -> list[tuple[str, float]]:
    """Give the counts as Prometheus wants them: each bucket holds the ones before it, too."""
    buckets: list[tuple[str, float]] = []
    total = 0.0
    for bound, count in zip((*metrics.BOUNDS_SECONDS, float("inf")), cells[: metrics.SUM], strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
    return buckets
