"""The JobQueue: a queue, its policy, its workers and how their number follows the work."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

from pydantic import Field

from bullpen.api.v1alpha1.base import (
    Duration,
    Model,
    NamedItems,
    ObjectName,
    ObjectNameOrEmpty,
    Passthrough,
    Percent,
    QueueName,
    Replicas,
    ratio,
)
from bullpen.api.v1alpha1.execution import (
    Concurrency,
    JobPolicy,
    Priorities,
    RateLimit,
    Recovery,
    Retry,
    UnknownHandler,
)
from bullpen.api.v1alpha1.meta import API_VERSION, JobQueueMetadata
from bullpen.api.v1alpha1.rules import Breach, rule, transition
from bullpen.api.v1alpha1.scaling import Mode, Scaling
from bullpen.api.v1alpha1.schedules import Schedule
from bullpen.api.v1alpha1.status import JobQueueStatus
from bullpen.api.v1alpha1.storage import DeadLetter, Limits, Retention
from bullpen.api.v1alpha1.workers import GRACE_AFTER_TIMEOUT, ScaleTargetRef, Worker, WorkerPoolRef

DEFAULT_PREFIX = "bull"
"""Prefix of a queue's keys where the connection names none; BullMQ's own default."""


class RedisReference(Model):
    """The connection whose Redis holds the queue."""

    kind: Literal["RedisConnection", "ClusterRedisConnection"] = Field(
        default="RedisConnection",
        description="RedisConnection, of the same namespace, or ClusterRedisConnection.",
    )
    name: ObjectName = Field(description="Name of the connection.")


class Alerts(Model):
    """When somebody is to be told; the chart's alert rules read these."""

    oldest_job_age: Duration | None = Field(
        default=None, description="A job that has waited longer than this raises an alert; absent: none does."
    )
    failure_ratio: Percent | None = Field(
        default=None, description="Share of jobs that fail for good above which there is an alert; absent: none."
    )

    @property
    def failure_share(self) -> float | None:
        """`failureRatio` as a number from 0 to 1."""
        return None if self.failure_ratio is None else ratio(self.failure_ratio)


class Deletion(Model):
    """What becomes of the queue in Redis when the JobQueue is deleted."""

    policy: Literal["Retain", "Drain", "Delete"] = Field(
        default="Retain",
        description="Retain leaves the queue in Redis; Drain lets workers finish what waits first; Delete removes it.",
    )
    timeout: Duration = Field(
        default=timedelta(minutes=10), description="After so long Drain and Delete give up and let the object go."
    )


class JobQueueSpec(Model):
    """What a JobQueue is to be."""

    class_name: ObjectNameOrEmpty = Field(
        default="", description="Which operator takes the JobQueue; empty: the cluster's only one."
    )
    queue_name: QueueName | None = Field(
        default=None,
        description="Name of the queue in Redis, by BullMQ's rules (no colon); absent: `metadata.name`. It cannot be "
        "changed later.",
    )
    redis_ref: RedisReference | None = Field(
        default=None,
        description="The connection whose Redis holds the queue; absent: the namespace's default one, else the "
        "cluster's.",
    )
    paused: bool | None = Field(
        default=None,
        description="True: no job starts; false: jobs start; absent: left to console and command line.",
    )
    closed: bool = Field(default=False, description="True: clients refuse to enqueue new jobs.")
    concurrency: Concurrency = Field(default_factory=Concurrency, description="How many jobs run at the same time.")
    rate_limit: RateLimit | None = Field(
        default=None, description="How many jobs start in each period, over all workers; absent: no limit."
    )
    timeout: Duration = Field(
        default=timedelta(minutes=10), description="Longest time of one attempt; one that takes longer fails."
    )
    expires: Duration | None = Field(
        default=None,
        description="A job that has not started so long after it could have (when it was enqueued, or its "
        "delay was over) fails as expired.",
    )
    retry: Retry = Field(default_factory=Retry, description="How often a job is tried, and the waits between.")
    priorities: Priorities | None = Field(
        default=None, description="Names for priorities; absent: jobs have numbers or none."
    )
    jobs: NamedItems[JobPolicy] = Field(
        default=(), max_length=256, description="What jobs of a name have of their own, over the queue's."
    )
    limits: Limits = Field(default_factory=Limits, description="What is refused as too large or too much.")
    payload_schema: Passthrough | None = Field(
        default=None,
        description="JSON Schema (2020-12) that each payload must fit; `$ref` stays within it. Absent: any JSON.",
    )
    retention: Retention = Field(default_factory=Retention, description="How long finished jobs are kept in Redis.")
    recovery: Recovery = Field(
        default_factory=Recovery, description="When a job whose worker died is taken back, and how often."
    )
    dead_letter: DeadLetter | None = Field(
        default=None, description="Where jobs go that failed for good; absent: they stay in the queue as failed."
    )
    unknown_handler: UnknownHandler = Field(
        default_factory=UnknownHandler, description="What becomes of a job whose name no handler knows."
    )
    schedules: NamedItems[Schedule] = Field(
        default=(), max_length=256, description="Jobs that come by themselves, by calendar or interval."
    )
    worker: Worker | None = Field(
        default=None,
        description="Workers that Bullpen runs. At most one of `worker`, `scaleTargetRef`, `workerPoolRef`; none: the "
        "queue's workers are somebody else's business.",
    )
    scale_target_ref: ScaleTargetRef | None = Field(
        default=None, description="Somebody else's workers that Bullpen scales."
    )
    worker_pool_ref: WorkerPoolRef | None = Field(default=None, description="A pool that works for many queues.")
    replicas: Replicas = Field(
        default=1, description="Replicas in mode Manual, set by `kubectl scale` too; otherwise not read."
    )
    scaling: Scaling | None = Field(
        default=None, description="How the number of workers follows the work; absent: mode Manual."
    )
    alerts: Alerts | None = Field(default=None, description="When somebody is to be told; absent: no alert.")
    deletion: Deletion = Field(
        default_factory=Deletion, description="What becomes of the queue in Redis when the JobQueue is deleted."
    )

    @rule(
        "[has(self.worker), has(self.scaleTargetRef), has(self.workerPoolRef)].filter(given, given).size() <= 1",
        "take at most one of worker, scaleTargetRef, workerPoolRef",
        reason="Forbidden",
    )
    def _has_one_kind_of_workers(self) -> Iterator[Breach]:
        workers = {
            "worker": self.worker,
            "scaleTargetRef": self.scale_target_ref,
            "workerPoolRef": self.worker_pool_ref,
        }
        given = [name for name, value in workers.items() if value is not None]
        if len(given) > 1:
            yield Breach((given[1],), detail=f"stands beside `{given[0]}`: ")

    @rule(
        # own(delay), own(maxDelay), own(type) with the queue's in place of what is absent
        "!has(self.jobs) || self.jobs.all(j, !has(j.retry) || !has(j.retry.backoff)"
        " || !((has(j.retry.backoff.type) ? j.retry.backoff.type : self.retry.backoff.type) in ['Exponential', 'Linear'])"
        " || !(has(j.retry.backoff.maxDelay) || has(self.retry.backoff.maxDelay))"
        " || duration(has(j.retry.backoff.maxDelay) ? j.retry.backoff.maxDelay : self.retry.backoff.maxDelay)"
        " >= duration(has(j.retry.backoff.delay) ? j.retry.backoff.delay : self.retry.backoff.delay))",
        "`maxDelay` must not be shorter than `delay` (what is absent in `jobs[].retry.backoff` is `spec.retry.backoff`'s)",
        at="jobs",
    )
    def _has_jobs_whose_backoff_fits(self) -> Iterator[Breach]:
        for index, job in enumerate(self.jobs):
            own = job.retry.backoff if job.retry else None
            if own is None:
                continue
            delay = own.delay if own.delay is not None else self.retry.backoff.delay
            max_delay = own.max_delay if own.max_delay is not None else self.retry.backoff.max_delay
            kind = own.type or self.retry.backoff.type
            if kind in {"Exponential", "Linear"} and max_delay is not None and max_delay < delay:
                at = "maxDelay" if own.max_delay is not None else "delay"
                yield Breach(("jobs", index, "retry", "backoff", at))

    def job_policy(self, job_name: str) -> JobPolicy | None:
        """Give what jobs of this name have of their own, if anything."""
        return next((job for job in self.jobs if job.name == job_name), None)

    def timeout_of(self, job_name: str) -> timedelta:
        """Give the longest time of one attempt of jobs of this name, as YAML says."""
        policy = self.job_policy(job_name)
        return self.timeout if policy is None or policy.timeout is None else policy.timeout

    def retry_of(self, job_name: str) -> Retry:
        """Give the retry of jobs of this name, as YAML says."""
        policy = self.job_policy(job_name)
        return self.retry if policy is None or policy.retry is None else policy.retry.over(self.retry)

    @property
    def longest_timeout(self) -> timedelta:
        """The longest of `timeout` and `jobs[].timeout`."""
        return max([self.timeout, *(job.timeout for job in self.jobs if job.timeout is not None)])

    @property
    def termination_grace_period(self) -> timedelta:
        """The time from SIGTERM to SIGKILL in effect."""
        own = self.worker.termination_grace_period if self.worker else None
        return self.longest_timeout + GRACE_AFTER_TIMEOUT if own is None else own

    @property
    def scaling_mode(self) -> Mode:
        """The mode in effect: without `scaling`, Manual."""
        return self.scaling.mode if self.scaling else "Manual"

    @property
    def slots_per_replica(self) -> int:
        """Jobs that one replica runs at a time."""
        own = self.scale_target_ref.slots_per_replica if self.scale_target_ref else None
        return self.concurrency.per_worker if own is None else own

    @property
    def jobs_per_replica(self) -> int:
        """Jobs for which one replica is wanted, in effect; in `wait` mode a hint only."""
        own = self.scaling.jobs_per_replica if self.scaling else None
        return self.slots_per_replica if own is None else own


class JobQueue(Model):
    """A queue in Redis, its policy, its workers, and how their number follows the work."""

    api_version: Literal["bullpen.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of the API.")
    kind: Literal["JobQueue"] = Field(default="JobQueue", description="JobQueue.")
    metadata: JobQueueMetadata = Field(description="Name, namespace, labels, annotations.")
    spec: JobQueueSpec = Field(default_factory=JobQueueSpec, description="What the queue is to be.")
    status: JobQueueStatus | None = Field(default=None, description="What the operator reports; nobody else writes it.")

    @rule(
        "!has(self.spec) || !has(self.spec.deadLetter) || self.spec.deadLetter.jobQueueRef.name != self.metadata.name",
        "a queue cannot be its own dead-letter queue",
        at="spec.deadLetter.jobQueueRef.name",
    )
    def _is_not_its_own_dead_letter_queue(self) -> Iterator[Breach]:
        dead = self.spec.dead_letter
        if dead is not None and dead.job_queue_ref.name == self.metadata.name:
            yield Breach(("spec", "deadLetter", "jobQueueRef", "name"), self.metadata.name)

    @transition(
        "(has(self.spec) && has(self.spec.queueName) ? self.spec.queueName : self.metadata.name)"
        " == (has(oldSelf.spec) && has(oldSelf.spec.queueName) ? oldSelf.spec.queueName : oldSelf.metadata.name)",
        "is immutable: make another JobQueue for another queue",
        at="spec.queueName",
        reason="Forbidden",
    )
    def _keeps_its_queue(self, old: "JobQueue") -> bool:
        return self.queue_name == old.queue_name

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    @property
    def queue_name(self) -> str:
        """The queue's name in Redis, in effect."""
        return self.spec.queue_name or self.metadata.name
