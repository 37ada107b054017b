"""The words in which a scaling decision gives its reasons: in status, events, metrics and the console."""

from enum import StrEnum


class Reason(StrEnum):
    """Why there are so many replicas; the first group is the demand, the others are what was made of it."""

    JOBS_WAITING = "JobsWaiting"
    JOBS_RUNNING = "JobsRunning"
    OLDEST_JOB = "OldestJob"
    """A job waits longer than `wait` allows: a step more."""
    IDLE = "Idle"

    HOLD = "Hold"
    MANUAL = "Manual"
    UNKNOWN = "Unknown"
    """The reading failed: what runs is held."""

    PAUSED = "Paused"
    TOTAL_CONCURRENCY = "TotalConcurrency"
    RATE_LIMIT = "RateLimit"
    WINDOW = "Window"
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    ZERO_AFTER = "ZeroAfter"
    """The last pod stays until nothing was to do for long enough, by enough readings."""
    STABILIZATION = "Stabilization"
    """A window of `behavior` holds an earlier recommendation."""
    SCALE_UP_LIMIT = "ScaleUpLimit"
    SCALE_DOWN_LIMIT = "ScaleDownLimit"
    STALE_READING = "StaleReading"
    """The counts are too old to shrink by."""
    SHRINK_WHEN_IDLE = "ShrinkWhenIdle"
    BUSY_PODS = "BusyPods"
    """Who is busy is not known, or pods cannot retire: as many stay as the running jobs need."""
    PODS_CANNOT_START = "PodsCannotStart"
    ROLLOUT = "Rollout"
    """Nobody retires while a rollout goes on; the operator's own, not `decide`'s."""
