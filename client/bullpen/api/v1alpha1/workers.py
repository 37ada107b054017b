"""Who works on a queue: workers of ours, somebody else's Deployment, a pool."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from bullpen.api.v1alpha1.base import (
    Allowed,
    CountOrPercent,
    Duration,
    Items,
    Model,
    NamedItems,
    ObjectName,
    ObjectNameOrEmpty,
    Passthrough,
)
from bullpen.api.v1alpha1.rules import rule

GRACE_AFTER_TIMEOUT = timedelta(seconds=30)
"""What a worker has, beyond the longest timeout, to finish on SIGTERM."""

HandlerPath = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(:[A-Za-z_][A-Za-z0-9_]*)?$", max_length=253
    ),
    Allowed('a Python module such as "shop.jobs", or one object of it such as "shop.jobs:emails"'),
]


class EnvVar(Model):
    """An environment variable, as a container has it."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(description="Name of the variable.")
    value: Annotated[str, StringConstraints(max_length=32_768)] | None = Field(
        default=None, description="Its value, as text: quote numbers and true or false."
    )
    value_from: Passthrough | None = Field(
        default=None,
        description="Where its value comes from: secretKeyRef, configMapKeyRef, fieldRef, resourceFieldRef.",
    )

    @rule(
        "!has(self.value) || self.value == '' || !has(self.valueFrom)",
        "stands beside `value`: take one of the two",
        at="valueFrom",
        reason="Forbidden",
    )
    def _has_one_source(self) -> bool:
        return not self.value or self.value_from is None


class Strategy(Model):
    """How a rollout replaces pods."""

    max_surge: CountOrPercent = Field(
        default="25%", description="Pods above the wanted number during a rollout: a number or a percentage."
    )
    max_unavailable: CountOrPercent = Field(
        default=0, description="Pods that may be missing during a rollout: a number or a percentage."
    )

    @rule(
        "!(self.maxSurge in [dyn(0), dyn('0%')] && self.maxUnavailable in [dyn(0), dyn('0%')])",
        "is zero, and so is `maxUnavailable`: a rollout could never move",
        at="maxSurge",
    )
    def _lets_a_rollout_move(self) -> bool:
        return not (self.max_surge in {0, "0%"} and self.max_unavailable in {0, "0%"})


class Worker(Model):
    """Workers that Bullpen runs: a Deployment in the cluster, processes on a laptop."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[!-~]+$")] = Field(
        description="Container image with the handlers and Bullpen in it. A local run uses this Python instead."
    )
    handlers: Items[HandlerPath] = Field(
        min_length=1,
        max_length=64,
        description="Modules that register handlers, such as shop.jobs, or one registry, such as shop.jobs:emails.",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes of one pod that run handlers; they share `concurrency.perWorker`.",
    )
    env: NamedItems[EnvVar] = Field(default=(), max_length=256, description="Environment variables, as in a container.")
    env_from: Items[Passthrough] = Field(
        default=(), max_length=64, description="Secrets and ConfigMaps whose keys become variables, as in a container."
    )
    resources: Passthrough = Field(
        default_factory=dict, description="Requests and limits of the container, as in a container."
    )
    service_account_name: ObjectNameOrEmpty = Field(
        default="", description="ServiceAccount of the pods; empty: one of their own, without a token."
    )
    strategy: Strategy = Field(default_factory=Strategy, description="How a rollout replaces pods.")
    disruption: Literal["Protect", "Allow"] = Field(
        default="Protect",
        description="Protect marks busy pods so that Karpenter and cluster-autoscaler leave them; Allow does not.",
    )
    termination_grace_period: Duration | None = Field(
        default=None,
        description="Time from SIGTERM to SIGKILL in which running jobs finish; absent: the longest of `timeout` and "
        "`jobs[].timeout`, and 30s.",
    )
    pod_template: Passthrough = Field(
        default_factory=dict, description="A PodTemplateSpec that is merged over the one that Bullpen makes."
    )


class ScaleTargetRef(Model):
    """Somebody else's workers that Bullpen scales, in the same namespace."""

    api_version: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        default="apps/v1", description="API version of the target."
    )
    kind: Annotated[str, StringConstraints(min_length=1, max_length=63)] = Field(
        default="Deployment", description="Kind of the target: Deployment or StatefulSet."
    )
    name: ObjectName = Field(
        description="Name of the target; it carries the label bullpen.dev/scaled-by with this JobQueue's name."
    )
    slots_per_replica: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Jobs that one replica runs at a time; absent: `concurrency.perWorker`.",
    )
    shrink: Literal["Graceful", "WhenIdle"] = Field(
        default="Graceful",
        description="Graceful relies on the target's own grace period; WhenIdle shrinks only when no job is active.",
    )


class WorkerPoolRef(Model):
    """A pool that works for many queues."""

    name: ObjectName = Field(description="Name of the WorkerPool, in the same namespace.")
    weight: int = Field(default=1, ge=1, le=1000, description="Share of the pool, relative to its other queues.")
