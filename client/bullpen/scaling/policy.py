"""What a JobQueue asks of its scaling, as plain values."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bullpen import durations
from bullpen.scaling.windows import Window

if TYPE_CHECKING:
    from bullpen.api.v1alpha1.jobqueue import JobQueueSpec
    from bullpen.api.v1alpha1.scaling import ScalingRules

Mode = Literal["Auto", "Hold", "Manual"]
Select = Literal["Max", "Min", "Disabled"]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One bound on the speed: `value` pods, or percent of the pods at the period's start, in `period_ms`."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_ms: int


@dataclass(frozen=True, kw_only=True)
class Direction:
    """How the number changes in one direction, as in autoscaling/v2; without limits, at once by any number."""

    window_ms: int = 0
    limits: tuple[Limit, ...] = ()
    select: Select = "Max"


@dataclass(frozen=True, kw_only=True)
class Behavior:
    """How fast the number grows and shrinks. By default up at once, down over a window of 60 seconds."""

    up: Direction = Direction()
    down: Direction = Direction(window_ms=60_000)


@dataclass(frozen=True, kw_only=True)
class ScalingPolicy:
    """How the number of workers follows the work."""

    mode: Mode = "Auto"
    min_replicas: int = 0
    max_replicas: int = 1
    slots: int = 10
    """Jobs that one pod runs at a time."""
    jobs_per_replica: int = 10
    """Jobs, waiting and running, for which one pod is wanted; not read where `wait_ms` is given."""
    wait_ms: int | None = None
    """The wait that a job may have."""
    zero_after_ms: int = 300_000
    """How long nothing must wait, run or be due soon before the last pod goes."""
    zero_readings: int = 3
    """How many fresh readings in a row must say so."""
    behavior: Behavior = field(default_factory=Behavior)
    windows: tuple[Window, ...] = ()
    manual_replicas: int = 1
    """The number in mode Manual."""
    shrink_when_idle: bool = False
    """Whether nothing may run anywhere when the number goes down (somebody else's workers, `shrink: WhenIdle`)."""


def policy_of(spec: "JobQueueSpec") -> ScalingPolicy:
    """Give the policy that a JobQueue's spec states."""
    target = spec.scale_target_ref
    slots = (target.slots_per_replica if target else None) or spec.concurrency.per_worker
    shrink_when_idle = target is not None and target.shrink == "WhenIdle"
    scaling = spec.scaling
    if scaling is None:
        return ScalingPolicy(
            mode="Manual", slots=slots, manual_replicas=spec.replicas, shrink_when_idle=shrink_when_idle
        )
    return ScalingPolicy(
        mode=scaling.mode,
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.min_replicas if scaling.max_replicas is None else scaling.max_replicas,
        slots=slots,
        jobs_per_replica=scaling.jobs_per_replica or slots,
        wait_ms=None if scaling.wait is None else durations.parse_ms(scaling.wait),
        zero_after_ms=durations.parse_ms(scaling.zero_after),
        behavior=Behavior(
            up=_direction(scaling.behavior.scale_up, durations.parse_ms(scaling.behavior.up_window)),
            down=_direction(scaling.behavior.scale_down, durations.parse_ms(scaling.behavior.down_window)),
        ),
        windows=tuple(
            Window(
                name=window.name,
                schedule=window.schedule,
                duration_ms=durations.parse_ms(window.duration),
                time_zone=window.zone,
                min_replicas=window.min_replicas,
            )
            for window in scaling.windows
        ),
        manual_replicas=spec.replicas,
        shrink_when_idle=shrink_when_idle,
    )


def _direction(rules: "ScalingRules | None", window_ms: int) -> Direction:
    if rules is None:
        return Direction(window_ms=window_ms)
    return Direction(
        window_ms=window_ms,
        limits=tuple(
            Limit(kind=limit.type, value=limit.value, period_ms=limit.period_seconds * 1_000)
            for limit in rules.policies
        ),
        select=rules.select_policy or "Max",
    )
