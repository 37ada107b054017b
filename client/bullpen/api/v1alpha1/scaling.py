"""How the number of workers follows the work."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

from pydantic import Field

from bullpen.api.v1alpha1.base import (
    Cron,
    Duration,
    DurationOrZero,
    ItemName,
    Items,
    Model,
    NamedItems,
    Replicas,
    TimeZone,
)
from bullpen.api.v1alpha1.rules import Breach, rule

Mode = Literal["Auto", "Hold", "Manual"]


class ScalingPolicy(Model):
    """One bound on how fast the number of replicas changes, as in autoscaling/v2."""

    type: Literal["Pods", "Percent"] = Field(description="Whether `value` counts pods or is a share of them.")
    value: int = Field(ge=1, le=1_000_000, description="The change that is allowed in one period.")
    period_seconds: int = Field(ge=1, le=1800, description="Length of the period, in seconds.")


class ScalingRules(Model):
    """How the number changes in one direction, as in autoscaling/v2."""

    stabilization_window_seconds: int | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="Seconds over which past recommendations are kept so that the number does not flap; absent: 0 when "
        "growing, 60 when shrinking.",
    )
    select_policy: Literal["Max", "Min", "Disabled"] | None = Field(
        default=None,
        description="Which policy counts where there are several: the one that allows the largest change (Max, the "
        "default), the smallest (Min); Disabled forbids this direction.",
    )
    policies: Items[ScalingPolicy] = Field(
        default=(), max_length=16, description="Bounds on the speed; none: no bound."
    )


class Behavior(Model):
    """How fast the number of replicas grows and shrinks, in autoscaling/v2's shape."""

    scale_up: ScalingRules | None = Field(default=None, description="Growing; absent: at once, by any number.")
    scale_down: ScalingRules | None = Field(
        default=None, description="Shrinking; absent: by any number, over a window of 60 seconds."
    )

    @property
    def up_window(self) -> timedelta:
        """The stabilization window when growing, in effect."""
        seconds = self.scale_up.stabilization_window_seconds if self.scale_up else None
        return timedelta(seconds=0 if seconds is None else seconds)

    @property
    def down_window(self) -> timedelta:
        """The stabilization window when shrinking, in effect."""
        seconds = self.scale_down.stabilization_window_seconds if self.scale_down else None
        return timedelta(seconds=60 if seconds is None else seconds)


class Window(Model):
    """A time in which more workers are kept ready."""

    name: ItemName = Field(description="Name of the window, unique in the list.")
    schedule: Cron = Field(
        description="When the window opens: a cron expression of five fields, or six, seconds first."
    )
    duration: Duration = Field(description="How long it stays open.")
    time_zone: TimeZone | None = Field(
        default=None, description="IANA time zone that `schedule` is read in; absent: UTC."
    )
    min_replicas: Replicas = Field(description="Fewest replicas while the window is open.")

    @property
    def zone(self) -> str:
        """The time zone in effect."""
        return self.time_zone or "UTC"


class Scaling(Model):
    """How the number of workers follows the work. Without `scaling`, the mode is Manual."""

    mode: Mode = Field(
        default="Auto",
        description="Auto follows the work between `minReplicas` and `maxReplicas`; Hold freezes what runs; Manual takes "
        "`spec.replicas`.",
    )
    min_replicas: Replicas = Field(default=0, description="Fewest replicas; 0 lets the queue sleep.")
    max_replicas: Replicas | None = Field(default=None, description="Most replicas; required in mode Auto.")
    jobs_per_replica: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Jobs, waiting and running, for which one replica is wanted; absent: `concurrency.perWorker`. "
        "Either this or `wait`.",
    )
    wait: Duration | None = Field(
        default=None, description="Wait that a job may have before it starts. Either this or `jobsPerReplica`."
    )
    zero_after: DurationOrZero = Field(
        default=timedelta(minutes=5),
        description="How long nothing must wait, run or be due soon before the last replica goes.",
    )
    behavior: Behavior = Field(default_factory=Behavior, description="How fast the number grows and shrinks.")
    windows: NamedItems[Window] = Field(
        default=(), max_length=64, description="Times in which more replicas are kept ready."
    )

    @rule(
        "self.mode != 'Auto' || has(self.maxReplicas)",
        "is required in mode Auto",
        at="maxReplicas",
        reason="Required",
    )
    def _has_a_maximum(self) -> bool:
        return self.mode != "Auto" or self.max_replicas is not None

    @rule(
        "self.mode != 'Auto' || !has(self.maxReplicas) || self.maxReplicas > 0",
        "must be at least 1 in mode Auto",
        at="maxReplicas",
    )
    def _allows_a_replica(self) -> Iterator[Breach]:
        if self.mode == "Auto" and self.max_replicas == 0:
            yield Breach(("maxReplicas",), 0)

    @rule(
        "!has(self.jobsPerReplica) || !has(self.wait)",
        "stands beside `jobsPerReplica`: take one of the two",
        at="wait",
        reason="Forbidden",
    )
    def _measures_demand_one_way(self) -> bool:
        return self.jobs_per_replica is None or self.wait is None

    @rule(
        "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        "must not be above `maxReplicas`",
        at="minReplicas",
    )
    def _keeps_its_bounds_in_order(self) -> Iterator[Breach]:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            yield Breach(("minReplicas",), self.min_replicas, hint=f" ({self.max_replicas})")

    @rule(
        "!has(self.maxReplicas) || !has(self.windows) || self.windows.all(w, w.minReplicas <= self.maxReplicas)",
        "a window's `minReplicas` must not be above `maxReplicas`",
        at="windows",
    )
    def _keeps_its_windows_in_order(self) -> Iterator[Breach]:
        for index, window in enumerate(self.windows):
            if self.max_replicas is not None and window.min_replicas > self.max_replicas:
                yield Breach(("windows", index, "minReplicas"), window.min_replicas, hint=f" ({self.max_replicas})")
