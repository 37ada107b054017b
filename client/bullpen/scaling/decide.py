"""The scaling decision: observation, policy, history and the time, to a number of replicas and its reasons.

Pure: the operator and `bullpen dev` call it with what they saw and carry out what it says. The order in which limits
apply is part of the contract: paused, total concurrency, rate limit, windows, minimum, maximum, behavior, the last pod's
stay; at the end what protects running jobs.
"""

from dataclasses import dataclass, field

from bullpen import durations
from bullpen.scaling import behavior, windows
from bullpen.scaling.demand import busy_pods, demand, most_by_concurrency, most_by_rate, run_ms, told_ms
from bullpen.scaling.history import History
from bullpen.scaling.observation import Observation
from bullpen.scaling.policy import ScalingPolicy
from bullpen.scaling.reasons import Reason

STALE_MS = 10_000
"""Counts that are older take no pod away."""
LOOK_AGAIN_MS = 30_000
"""At the latest so long after a decision the next is made."""
LOOK_SOON_MS = 1_000
"""When a limit that will give way held the number."""

_GIVE_WAY = (
    Reason.STABILIZATION,
    Reason.SCALE_UP_LIMIT,
    Reason.SCALE_DOWN_LIMIT,
    Reason.STALE_READING,
    Reason.SHRINK_WHEN_IDLE,
    Reason.BUSY_PODS,
    Reason.PODS_CANNOT_START,
)


@dataclass(frozen=True)
class Limited:
    """One limit that changed the number: to what, and why, in words."""

    reason: Reason
    replicas: int
    message: str


@dataclass(frozen=True)
class Decision:
    """How many replicas there shall be."""

    replicas: int
    reason: Reason
    """What decided the number in the end: the last limit that changed it, else the demand."""
    message: str
    """The same with the numbers, for the person on call."""
    limited: tuple[Limited, ...]
    """The limits that changed the number, in the order in which they applied."""
    next_check_ms: int
    """When to decide again even if nothing is heard of the queue."""
    history: History
    """To be given to the next decision."""


def decide(observation: Observation, policy: ScalingPolicy, history: History, now_ms: int) -> Decision:
    """Say how many replicas there shall be, why, and when to look again.

    `now_ms` is milliseconds since 1970; it may jump. Deciding twice on the same reading gives the same number. Raises
    `bullpen.cron.CronInvalid` for a window that cannot be read.
    """
    past = history.resumed(now_ms, is_known=observation.known).with_reading(observation, now_ms)
    if policy.mode == "Hold":
        number = _Number(observation.replicas)
        after = _recommended(past, policy, number.replicas, now_ms)
        return number.decision(Reason.HOLD, "mode Hold keeps what runs", after, now_ms + LOOK_AGAIN_MS)
    if policy.mode == "Manual":
        return _manual(observation, policy, past, now_ms)
    if not observation.known:
        number = _Number(observation.replicas)
        because = observation.unknown_because or "the queue could not be read"
        return number.decision(Reason.UNKNOWN, f"{because}: what runs is held", past, now_ms + LOOK_SOON_MS)
    return _automatic(observation, policy, past, now_ms)


@dataclass
class _Number:
    """A number of replicas on its way through the limits."""

    replicas: int
    limited: list[Limited] = field(default_factory=list)

    def at_most(self, most: int, reason: Reason, message: str) -> None:
        if self.replicas > most:
            self._set(most, reason, message)

    def at_least(self, least: int, reason: Reason, message: str) -> None:
        if self.replicas < least:
            self._set(least, reason, message)

    def has(self, *reasons: Reason) -> bool:
        return any(limit.reason in reasons for limit in self.limited)

    def _set(self, replicas: int, reason: Reason, message: str) -> None:
        self.replicas = replicas
        self.limited.append(Limited(reason, replicas, f"{message}: {replicas}"))

    def decision(self, reason: Reason, message: str, history: History, next_check_ms: int) -> Decision:
        return Decision(
            self.replicas,
            self.limited[-1].reason if self.limited else reason,
            "; ".join([message, *(limit.message for limit in self.limited)]),
            tuple(self.limited),
            next_check_ms,
            history,
        )


def _manual(observation: Observation, policy: ScalingPolicy, past: History, now_ms: int) -> Decision:
    number = _Number(policy.manual_replicas)
    if observation.known:
        _protect_running(number, observation, policy, now_ms)
    else:
        number.at_least(observation.replicas, Reason.UNKNOWN, "which pods are busy is not known")
    after = _recommended(past, policy, number.replicas, now_ms)
    next_check_ms = now_ms + (LOOK_SOON_MS if number.limited else LOOK_AGAIN_MS)
    return number.decision(Reason.MANUAL, f"replicas is set to {policy.manual_replicas}", after, next_check_ms)


def _automatic(observation: Observation, policy: ScalingPolicy, past: History, now_ms: int) -> Decision:
    need = demand(observation, policy, past, now_ms)
    number = _Number(need.replicas)
    _cap_by_queue(number, observation, policy, need.history, now_ms)
    open_windows = windows.open_at(policy.windows, now_ms)
    names = ", ".join(open_windows.names)
    number.at_least(open_windows.min_replicas, Reason.WINDOW, f"window {names} keeps")
    number.at_least(policy.min_replicas, Reason.MIN_REPLICAS, "minReplicas")
    number.at_most(policy.max_replicas, Reason.MAX_REPLICAS, "maxReplicas")
    least = min(max(policy.min_replicas, open_windows.min_replicas), policy.max_replicas)
    after = _slow_down(number, observation, policy, need.history, least=least, now_ms=now_ms)
    # After `behavior`, so that the last pod's stay is no recommendation, which would hold for a window more.
    _keep_the_last(number, observation, policy, need.history, now_ms)
    _protect_running(number, observation, policy, now_ms)
    if observation.cannot_start:
        number.at_most(
            observation.replicas, Reason.PODS_CANNOT_START, f"pods cannot start ({observation.cannot_start}), no more"
        )
    next_check_ms = _next_check_ms(
        number, observation, policy, after, windows_ms=open_windows.look_again_ms, now_ms=now_ms
    )
    return number.decision(need.reason, need.message, after, next_check_ms)


def _cap_by_queue(number: _Number, observation: Observation, policy: ScalingPolicy, past: History, now_ms: int) -> None:
    """Leave no more than can have work to do."""
    if observation.paused:
        number.at_most(busy_pods(observation, policy.slots), Reason.PAUSED, "the queue is paused, busy pods stay")
    if observation.total_concurrency is not None:
        number.at_most(
            most_by_concurrency(observation.total_concurrency, policy.slots),
            Reason.TOTAL_CONCURRENCY,
            f"{observation.total_concurrency} jobs may run at a time",
        )
    rate = observation.rate_limit
    if rate is not None:
        number.at_most(
            most_by_rate(rate.jobs_per_ms, run_ms(past, now_ms), policy.slots),
            Reason.RATE_LIMIT,
            f"{rate.jobs} jobs may start in {told_ms(rate.per_ms)}",
        )


def _keep_the_last(
    number: _Number, observation: Observation, policy: ScalingPolicy, past: History, now_ms: int
) -> None:
    """Let the last pod go only after k fresh readings of nothing to do, and `zeroAfter`.

    A paused queue can start nothing, so there is nothing to keep a pod warm for: then the readings are enough.
    """
    if number.replicas or not observation.replicas:
        return
    missing = policy.zero_readings - past.idle_readings
    left_ms = 0 if observation.paused else (past.wanted_ms or now_ms) + policy.zero_after_ms - now_ms
    if left_ms > 0:
        number.at_least(1, Reason.ZERO_AFTER, f"the last pod stays for another {durations.format_ms(left_ms)}")
    elif missing > 0:
        number.at_least(1, Reason.ZERO_AFTER, f"the last pod stays for another {missing} readings")


def _slow_down(
    number: _Number, observation: Observation, policy: ScalingPolicy, past: History, *, least: int, now_ms: int
) -> History:
    """Apply `behavior`, and remember what was recommended."""
    current, up, down = observation.replicas, policy.behavior.up, policy.behavior.down
    after = _recommended(past, policy, number.replicas, now_ms)
    steady = behavior.stabilized(number.replicas, current, after.highs, after.lows)
    steady = max(min(steady, policy.max_replicas), least)
    window_ms = down.window_ms if steady > number.replicas else up.window_ms
    message = f"recommendations of the last {durations.format_ms(window_ms)} hold"
    number.at_least(steady, Reason.STABILIZATION, message)
    number.at_most(steady, Reason.STABILIZATION, message)
    most = behavior.growth_limit(up, current, after.changes, now_ms)
    if most is not None and number.replicas > current:
        number.at_most(most, Reason.SCALE_UP_LIMIT, "behavior.scaleUp allows for now")
    fewest = behavior.shrink_limit(down, current, after.changes, now_ms)
    if fewest is not None and number.replicas < current:
        number.at_least(fewest, Reason.SCALE_DOWN_LIMIT, "behavior.scaleDown allows for now")
    return after


def _recommended(past: History, policy: ScalingPolicy, replicas: int, now_ms: int) -> History:
    """Remember a number as far back as `behavior` looks; one that was held or set by hand too, so that a return to Auto begins with it."""
    return past.with_recommendation(
        replicas,
        now_ms,
        up_window_ms=policy.behavior.up.window_ms,
        down_window_ms=policy.behavior.down.window_ms,
        period_ms=behavior.longest_period_ms(policy.behavior),
    )


def _protect_running(number: _Number, observation: Observation, policy: ScalingPolicy, now_ms: int) -> None:
    """Take no pod away by counts that are too old, nor, where pods cannot retire, any that has jobs to run.

    Who is busy is known of workers that can retire: they take no new job and go when theirs are done. Their number may go
    below the busy ones then, or a trickle that keeps one job on each of many pods would keep all of them for ever.
    """
    current = observation.replicas
    age_ms = now_ms - observation.at_ms
    if age_ms > STALE_MS:
        number.at_least(current, Reason.STALE_READING, "the counts are too old to shrink by")
    if policy.shrink_when_idle and observation.active:
        number.at_least(current, Reason.SHRINK_WHEN_IDLE, f"{observation.active} jobs run, shrink waits for none")
    if observation.busy is None:
        busy = min(current, busy_pods(observation, policy.slots))
        number.at_least(busy, Reason.BUSY_PODS, f"{observation.active} jobs need {busy} pods")


def _next_check_ms(
    number: _Number,
    observation: Observation,
    policy: ScalingPolicy,
    after: History,
    *,
    windows_ms: int | None,
    now_ms: int,
) -> int:
    moments = [now_ms + LOOK_AGAIN_MS]
    if windows_ms is not None:
        moments.append(windows_ms)
    if observation.next_due_ms is not None:
        moments.append(observation.next_due_ms - observation.expected_startup_ms)
    if policy.wait_ms is not None and observation.oldest_ms is not None:
        moments.append(observation.oldest_ms + policy.wait_ms)
        moments.append((after.age_step_ms or 0) + observation.expected_startup_ms)
    if number.has(Reason.ZERO_AFTER):
        last_stays_until_ms = (after.wanted_ms or now_ms) + policy.zero_after_ms
        is_time_over = observation.paused or last_stays_until_ms <= now_ms
        moments.append(now_ms + LOOK_SOON_MS if is_time_over else last_stays_until_ms)
    if number.has(*_GIVE_WAY):
        moments.append(now_ms + LOOK_SOON_MS)
    return min(moment for moment in moments if moment > now_ms)
