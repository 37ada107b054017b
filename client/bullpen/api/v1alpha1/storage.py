"""What a queue takes in and keeps: limits, retention, dead letters."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from bullpen.api.v1alpha1.base import Duration, JobQueueName, Model


class Limits(Model):
    """What the queue refuses because it is too large or too much."""

    payload_bytes: int = Field(
        default=262_144, ge=1, le=67_108_864, description="Largest payload of a job, in bytes of its JSON."
    )
    result_bytes: int = Field(
        default=65_536, ge=1, le=67_108_864, description="Largest result of a job, in bytes of its JSON."
    )
    waiting: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Most jobs that wait; absent: no limit. What happens beyond it, `onFull` says.",
    )
    on_full: Literal["Reject", "DropOldest"] = Field(
        default="Reject",
        description="When the queue is full: Reject refuses the new job with an error, DropOldest makes room: of "
        "the waiting jobs of the least urgent priority it removes the oldest.",
    )


class CompletedRetention(Model):
    """How long completed jobs are kept in Redis."""

    age: Duration = Field(default=timedelta(hours=24), description="Jobs that completed longer ago are removed.")
    count: int = Field(
        default=1000, ge=0, le=10_000_000, description="Completed jobs that are kept at most; 0 keeps none."
    )


class FailedRetention(Model):
    """How long failed jobs are kept in Redis."""

    age: Duration = Field(default=timedelta(hours=168), description="Jobs that failed longer ago are removed.")
    count: int = Field(
        default=10_000, ge=0, le=10_000_000, description="Failed jobs that are kept at most; 0 keeps none."
    )


class Retention(Model):
    """How long finished jobs are kept in Redis: until the first of age and count is reached."""

    completed: CompletedRetention = Field(
        default_factory=CompletedRetention, description="Completed jobs; 24h and 1000 by default."
    )
    failed: FailedRetention = Field(
        default_factory=FailedRetention, description="Failed jobs; 168h and 10000 by default."
    )


class JobQueueReference(Model):
    """Another JobQueue of the same namespace."""

    name: JobQueueName = Field(description="Name of a JobQueue in the same namespace, on the same Redis.")


class DeadLetter(Model):
    """Where jobs go that failed for good."""

    job_queue_ref: JobQueueReference = Field(description="The JobQueue that takes them.")
