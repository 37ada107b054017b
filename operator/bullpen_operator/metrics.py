"""What the operator counts and shows, under the names that dashboards and alert rules rely on.

`Metrics` belongs to the operator's event loop; every method is a few dictionary writes, and nothing here waits. Series
of a queue are facts put by key, so that a JobQueue that goes takes all its series along (`Metrics.forget`). Their text is
kept until a fact changes: with thousands of quiet queues a scrape is a join of strings, and holds the scaler up for
a few milliseconds. Queue series are shown by the leader alone, so that a sum over replicas counts nothing twice.

All begin with ``bullpen_``. Of each JobQueue, labelled ``namespace``, ``jobqueue``, ``queue``:

==================================  =========  ==================  =====================================================
name                                type       labels              meaning
==================================  =========  ==================  =====================================================
queue_jobs                          gauge      state               jobs by state (`STATES`) when they were last counted
queue_oldest_job_timestamp_seconds  gauge                          since when the job that is next waits, Unix time;
                                                                   absent while none waits
queue_paused                        gauge                          1 while no job starts because the queue is paused
queue_jobs_completed_total          counter                        jobs that completed, by the counts that BullMQ's
                                                                   metrics keep; absent where no worker keeps them, and
                                                                   until the first job has ended
queue_jobs_failed_total             counter                        jobs that failed for good, by the same counts
queue_desired_replicas              gauge                          replicas that were decided on
queue_replicas                      gauge                          replicas that the target is set to; 0 while the
                                                                   Deployment of our own is not there
queue_max_replicas                  gauge                          replicas that there may be; absent without a maximum
queue_scaling_limited               gauge      reason              1 for each limit that changed the last decision, and for
                                                                   ``PodsCannotStart`` while pods cannot, or have not for
                                                                   five minutes (`bullpen.scaling.Reason`)
queue_scale_total                   counter    direction, reason   changes of the number of replicas, ``up`` or ``down``
queue_wake_seconds                  histogram                      from the first job in a quiet queue to the change of
                                                                   its workers' number
queue_alert_threshold               gauge      alert               what ``spec.alerts`` sets: ``oldestJobAge`` in seconds,
                                                                   ``failureRatio`` from 0 to 1
queue_dead_letter_jobs              gauge                          jobs in the queue's dead-letter queue; shown by nobody
                                                                   yet: ``spec.deadLetter`` is ``NotYet``
==================================  =========  ==================  =====================================================

Of the operator itself:

==================================  =========  ==================  =====================================================
reconcile_total                     counter    result              reconciliations: ``ok`` (all was as it should be),
                                                                   ``changed`` (something was written), ``refused`` (the
                                                                   spec is wrong), ``retry`` (something was away, it is
                                                                   tried again), ``failed`` (an error of ours)
reconcile_duration_seconds          histogram                      how long one took
workqueue_depth                     gauge                          objects that wait to be reconciled
redis_up                            gauge      redis               1 while this Redis answers
redis_poll_duration_seconds         histogram  redis               one look at all queues of a Redis
leader                              gauge                          1 in the replica that leads
build_info                          gauge      version             always 1
==================================  =========  ==================  =====================================================
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bullpen import _version
from bullpen.queue.observation import Reading
from bullpen.scaling import Reason
from bullpen_operator.scaling.units import ScalingState
from bullpen_operator.sinks import Meter

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Metrics.render` gives: Prometheus' text format."""

STATES: Final = ("waiting", "prioritized", "delayed", "active", "completed", "failed", "paused")
"""Values of the label ``state``; ``completed`` and ``failed`` are jobs that are still kept, ``paused`` ones wait in the
list that BullMQ before version 6 keeps while a queue is paused."""


RESULTS: Final = ("ok", "changed", "refused", "retry", "failed")
"""Values of the label ``result``."""

WAKE_BOUNDS_SECONDS: Final = (0.01, 0.03, 0.06, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of ``queue_wake_seconds``: around what the operator promises, and far beyond."""

RECONCILE_BOUNDS_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
POLL_BOUNDS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Named(Protocol):
    """Whatever tells a JobQueue from all others."""

    @property
    def namespace(self) -> str:
        """Its namespace."""

    @property
    def name(self) -> str:
        """Its name."""


class Metrics(Meter):
    """All metrics of one operator process, written as Prometheus reads them.

    `process` False leaves the figures of the process (memory, CPU, file descriptors) out.
    """

    def __init__(self, *, process: bool = True) -> None:
        self._leads = False
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        if process:
            prometheus_client.ProcessCollector(registry=self._registry)
        registry = self._registry
        self._reconciled = Counter(
            "bullpen_reconcile", "Reconciliations, by what came of them.", ("result",), registry=registry
        )
        for result in RESULTS:
            self._reconciled.labels(result)
        self._reconcile_seconds = Histogram(
            "bullpen_reconcile_duration_seconds",
            "How long a reconciliation took.",
            buckets=RECONCILE_BOUNDS_SECONDS,
            registry=registry,
        )
        self._depth = Gauge("bullpen_workqueue_depth", "Objects that wait to be reconciled.", registry=registry)
        self._redis_up = Gauge("bullpen_redis_up", "1 while this Redis answers.", ("redis",), registry=registry)
        self._redis_polls = Histogram(
            "bullpen_redis_poll_duration_seconds",
            "How long one look at all queues of a Redis took.",
            ("redis",),
            buckets=POLL_BOUNDS_SECONDS,
            registry=registry,
        )
        self._polled: set[str] = set()
        self._leader = Gauge("bullpen_leader", "1 in the replica that leads.", registry=registry)
        build = Gauge("bullpen_build_info", "Always 1; the version is a label.", ("version",), registry=registry)
        build.labels(_version.__version__).set(1)

    # Of a JobQueue. `queue` is its name in Redis.

    def counted(self, key: Named, queue: str, reading: Reading) -> None:
        """Show the jobs of a reading."""
        self._of(key, queue).put("reading", _Counts.of(reading))

    def scaling(self, key: Named, queue: str, state: ScalingState, *, max_replicas: int | None) -> None:
        """Show what the scaler knows of a JobQueue and has decided: its jobs and its workers.

        What it saw last stays while Redis is away. Where nobody's workers are scaled there are none to show; where the
        Deployment of our own is missing there are 0, so that work that waits for it is heard of.
        """
        if state.reading is not None:
            self.counted(key, queue, state.reading)
        limited = {limit.reason for limit in state.limited}
        if state.cannot_start:
            limited.add(Reason.PODS_CANNOT_START)
        replicas = state.crew.replicas if state.desired is not None or state.absent else None
        self.sized(key, queue, desired=state.desired, replicas=replicas, max_replicas=max_replicas, limited=limited)

    def sized(
        self,
        key: Named,
        queue: str,
        *,
        desired: int | None,
        replicas: int | None,
        max_replicas: int | None,
        limited: Iterable[Reason],
    ) -> None:
        """Show a decision on the number of replicas, and how many there are. None is what there is not."""
        self._of(key, queue).put("size", _Size(desired, replicas, max_replicas, tuple(sorted(set(limited)))))

    def thresholds(
        self, key: Named, queue: str, *, oldest_job_age_seconds: float | None, failure_ratio: float | None
    ) -> None:
        """Show what ``spec.alerts`` sets; None for what it leaves out."""
        self._of(key, queue).put("thresholds", _Thresholds(oldest_job_age_seconds, failure_ratio))

    def dead_letters(self, key: Named, queue: str, jobs: int | None) -> None:
        """Show how many jobs the dead-letter queue holds; None: there is none, or it cannot be read."""
        self._of(key, queue).put("dead_letters", jobs)

    def scaled(self, key: Named, queue: str, direction: str, reason: Reason) -> None:
        """Count a change of the number of replicas that was made: ``up`` or ``down``, and why."""
        self._of(key, queue).scaled(direction, reason)

    def woke(self, key: Named, queue: str, seconds: float) -> None:
        """Count a quiet queue's waking: `seconds` from its first job to the change of its workers' number."""
        self._of(key, queue).woke(max(0.0, seconds))

    def forget(self, key: Named) -> None:
        """Drop a JobQueue that is gone: none of its series is shown again. Unknown ones are none of ours."""
        self._queues.pop((key.namespace, key.name), None)

    # Of the operator.

    def reconciled(self, result: str, seconds: float) -> None:
        """Count a reconciliation, by one of `RESULTS`, and how long it took."""
        self._reconciled.labels(result).inc()
        self._reconcile_seconds.observe(seconds)

    def queue_depth(self, waiting: int) -> None:
        """Show how many objects wait to be reconciled."""
        self._depth.set(waiting)

    def leading(self, *, leads: bool) -> None:
        """Show whether this operator leads; only then are the queues shown."""
        self._leads = leads
        self._leader.set(1 if leads else 0)

    def redis_up(self, redis: str, up: bool) -> None:  # noqa: FBT001 - the metric's own word
        """Show whether a Redis answers. `redis` is a label that stays the same as long as the connection does."""
        self._redis_up.labels(redis).set(1 if up else 0)

    def redis_polled(self, redis: str, seconds: float) -> None:
        """Count one look at all queues of a Redis."""
        self._polled.add(redis)
        self._redis_polls.labels(redis).observe(seconds)

    def redis_gone(self, redis: str) -> None:
        """Forget a Redis that no connection names any more."""
        self._redis_up.remove_by_labels({"redis": redis})
        if redis in self._polled:
            self._polled.discard(redis)
            self._redis_polls.remove(redis)

    def render(self) -> bytes:
        """Write all metrics of now in Prometheus' text format (`CONTENT_TYPE`)."""
        operator = prometheus_client.generate_latest(self._registry)
        return operator + "".join(self._queue_lines()).encode() if self._leads else operator

    def _of(self, key: Named, queue: str) -> "_Queue":
        place = (key.namespace, key.name)
        known = self._queues.get(place)
        if known is None or known.queue != queue:
            known = self._queues[place] = _Queue(key.namespace, key.name, queue)
        return known

    def _queue_lines(self) -> Iterator[str]:
        written = [queue.written() for queue in self._queues.values()]
        for index, family in enumerate(FAMILIES):
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.type}\n"
            for lines in written:
                yield lines[index]


class Family(NamedTuple):
    """One metric of the JobQueues."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    help: str


FAMILIES: Final = (
    Family("bullpen_queue_jobs", "gauge", "Jobs by state when they were last counted."),
    Family(
        "bullpen_queue_oldest_job_timestamp_seconds",
        "gauge",
        "Since when the job that is next waits, in Unix time; absent while none waits.",
    ),
    Family("bullpen_queue_paused", "gauge", "1 while no job starts because the queue is paused."),
    Family(
        "bullpen_queue_jobs_completed_total", "counter", "Jobs that completed, where workers keep BullMQ's metrics."
    ),
    Family(
        "bullpen_queue_jobs_failed_total", "counter", "Jobs that failed for good, where workers keep BullMQ's metrics."
    ),
    Family("bullpen_queue_desired_replicas", "gauge", "Replicas that were decided on."),
    Family("bullpen_queue_replicas", "gauge", "Replicas that the target is set to."),
    Family("bullpen_queue_max_replicas", "gauge", "Replicas that there may be."),
    Family("bullpen_queue_scaling_limited", "gauge", "1 for each limit that changed the last decision."),
    Family("bullpen_queue_scale_total", "counter", "Changes of the number of replicas."),
    Family("bullpen_queue_wake_seconds", "histogram", "From the first job in a quiet queue to the change of its size."),
    Family("bullpen_queue_alert_threshold", "gauge", "What spec.alerts sets: seconds, or a ratio from 0 to 1."),
    Family("bullpen_queue_dead_letter_jobs", "gauge", "Jobs in the queue's dead-letter queue."),
)
"""In the order in which `_Queue` writes them."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """What is shown of a reading. Readings themselves differ each time, by their time alone."""

    jobs: tuple[int, ...]
    oldest_ms: int | None
    paused: bool
    completed_total: int | None
    failed_total: int | None

    @classmethod
    def of(cls, reading: Reading) -> "_Counts":
        jobs = (
            reading.waiting,
            reading.prioritized,
            reading.delayed,
            reading.active,
            reading.completed,
            reading.failed,
            reading.paused_waiting,
        )
        completed, failed = reading.completed_total, reading.failed_total
        if completed is not None or failed is not None:
            # BullMQ begins each count with the first job that ends so: where one is kept, the other is 0, not unknown. A
            # share of all that ended would else be silent where every job fails.
            completed, failed = completed or 0, failed or 0
        return cls(jobs, reading.oldest_ms, reading.paused, completed, failed)


@dataclass(frozen=True, slots=True)
class _Size:
    desired: int | None
    replicas: int | None
    max_replicas: int | None
    limited: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class _Thresholds:
    oldest_job_age_seconds: float | None
    failure_ratio: float | None


@dataclass(slots=True)
class _Wakes:
    counts: list[int] = field(default_factory=lambda: [0] * (len(WAKE_BOUNDS_SECONDS) + 1))
    seconds: float = 0.0


_Fact = Literal["reading", "size", "thresholds", "dead_letters"]


class _Queue:
    """The facts of one JobQueue and, until one changes, their text."""

    __slots__ = ("_facts", "_labels", "_scales", "_text", "_wakes", "queue")

    def __init__(self, namespace: str, jobqueue: str, queue: str) -> None:
        self.queue = queue
        self._labels = f'namespace="{_escaped(namespace)}",jobqueue="{_escaped(jobqueue)}",queue="{_escaped(queue)}"'
        self._facts: dict[_Fact, _Counts | _Size | _Thresholds | int | None] = {}
        self._scales: dict[tuple[str, Reason], int] = {}
        self._wakes: _Wakes | None = None
        self._text: tuple[str, ...] | None = None

    def put(self, fact: _Fact, value: _Counts | _Size | _Thresholds | int | None) -> None:
        if fact not in self._facts or self._facts[fact] != value:
            self._facts[fact] = value
            self._text = None

    def scaled(self, direction: str, reason: Reason) -> None:
        self._scales[direction, reason] = self._scales.get((direction, reason), 0) + 1
        self._text = None

    def woke(self, seconds: float) -> None:
        wakes = self._wakes = self._wakes or _Wakes()
        wakes.counts[bisect_left(WAKE_BOUNDS_SECONDS, seconds)] += 1
        wakes.seconds += seconds
        self._text = None

    def written(self) -> tuple[str, ...]:
        """Give the lines of each of `FAMILIES`, in their order."""
        if self._text is None:
            self._text = tuple(
                "".join(self._line(family.name + suffix, value, labels) for suffix, value, labels in samples)
                for family, samples in zip(FAMILIES, self._samples(), strict=True)
            )
        return self._text

    def _line(self, name: str, value: float, labels: str) -> str:
        comma = "," if labels else ""
        return f"{name}{{{self._labels}{comma}{labels}}} {value}\n"

    def _samples(self) -> Iterator[list[tuple[str, float, str]]]:
        counts, size = self._facts.get("reading"), self._facts.get("size")
        if isinstance(counts, _Counts):
            yield [("", jobs, f'state="{state}"') for state, jobs in zip(STATES, counts.jobs, strict=True)]
            yield _one(None if counts.oldest_ms is None else counts.oldest_ms / 1000)
            yield _one(int(counts.paused))
            yield _one(counts.completed_total)
            yield _one(counts.failed_total)
        else:
            yield from ([], [], [], [], [])
        if isinstance(size, _Size):
            yield _one(size.desired)
            yield _one(size.replicas)
            yield _one(size.max_replicas)
            yield [("", 1, f'reason="{reason}"') for reason in size.limited]
        else:
            yield from ([], [], [], [])
        yield [
            ("", count, f'direction="{direction}",reason="{reason}"')
            for (direction, reason), count in sorted(self._scales.items())
        ]
        yield [] if self._wakes is None else list(_histogram(self._wakes))
        thresholds = self._facts.get("thresholds")
        if isinstance(thresholds, _Thresholds):
            yield [
                ("", value, f'alert="{alert}"')
                for alert, value in (
                    ("oldestJobAge", thresholds.oldest_job_age_seconds),
                    ("failureRatio", thresholds.failure_ratio),
                )
                if value is not None
            ]
        else:
            yield []
        dead = self._facts.get("dead_letters")
        yield _one(dead if isinstance(dead, int) else None)


def _one(value: float | None) -> list[tuple[str, float, str]]:
    return [] if value is None else [("", value, "")]


def _histogram(wakes: _Wakes) -> Iterator[tuple[str, float, str]]:
    total = 0
    for bound, count in zip((*map(str, WAKE_BOUNDS_SECONDS), "+Inf"), wakes.counts, strict=True):
        total += count
        yield ("_bucket", total, f'le="{bound}"')
    yield ("_sum", wakes.seconds, "")
    yield ("_count", total, "")


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
