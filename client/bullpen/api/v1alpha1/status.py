"""What the operator reports of a JobQueue."""

from pydantic import Field

from bullpen.api.v1alpha1.base import Model
from bullpen.api.v1alpha1.meta import Condition, Conditions, Time, condition


class BindingStatus(Model):
    """The Secret with which workers and producers reach the queue."""

    name: str = Field(max_length=253, description="Name of the Secret, laid out as servicebinding.io wants it.")


class QueueStatus(Model):
    """Where the queue lies in Redis."""

    name: str = Field(max_length=200, description="Name of the queue in Redis.")
    prefix: str = Field(max_length=200, description="Prefix of its keys.")


class JobCounts(Model):
    """Jobs by state at one moment; a snapshot, not the present."""

    waiting: int = Field(default=0, ge=0, description="Jobs that wait, without a priority.")
    prioritized: int = Field(default=0, ge=0, description="Jobs that wait, with a priority.")
    delayed: int = Field(default=0, ge=0, description="Jobs that are due later.")
    active: int = Field(default=0, ge=0, description="Jobs that run.")
    completed: int = Field(default=0, ge=0, description="Completed jobs that are kept.")
    failed: int = Field(default=0, ge=0, description="Failed jobs that are kept.")
    paused: int = Field(default=0, ge=0, description="Jobs that wait in a paused queue.")
    observed_time: Time | None = Field(default=None, description="When the jobs were counted.")


class ScalingStatus(Model):
    """The last decision on the number of replicas."""

    desired_replicas: int | None = Field(default=None, ge=0, description="Replicas that were decided on.")
    reason: str | None = Field(default=None, max_length=1024, description="Why, in one CamelCase word.")
    message: str | None = Field(default=None, max_length=32_768, description="Why, in words, with the figures.")
    decided_time: Time | None = Field(default=None, description="When it was decided.")


class JobQueueStatus(Model):
    """What the operator observed and did last."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the spec that the status is about."
    )
    conditions: Conditions = Field(
        default=(),
        description="Ready, Reconciling, Stalled, RedisReachable, QueueOwned, WorkersAvailable, WorkersOutdated, "
        "ScalingActive, ScalingLimited, PriorityInversion, Paused.",
    )
    replicas: int | None = Field(default=None, ge=0, description="Worker pods there are; for the scale subresource.")
    selector: str | None = Field(
        default=None,
        max_length=4096,
        description="Label selector of the worker pods, as text; for the scale subresource.",
    )
    binding: BindingStatus | None = Field(default=None, description="The Secret with which the queue is reached.")
    queue: QueueStatus | None = Field(default=None, description="Where the queue lies in Redis.")
    jobs: JobCounts | None = Field(default=None, description="Jobs by state when they were last counted.")
    oldest_job_time: Time | None = Field(
        default=None, description="Since when the job waits that has waited longest; absent: none waits."
    )
    scaling: ScalingStatus | None = Field(default=None, description="The last decision on the number of replicas.")

    def condition(self, type: str) -> Condition | None:
        """Give the condition of that type, if there is one."""
        return condition(self.conditions, type)
