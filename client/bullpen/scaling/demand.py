"""How many workers the work needs, before any limit."""

import math
from dataclasses import dataclass, replace

from bullpen import durations
from bullpen.scaling.history import History
from bullpen.scaling.observation import Observation
from bullpen.scaling.policy import ScalingPolicy
from bullpen.scaling.reasons import Reason

FIRST_RUN_MS = 1_000.0
"""What a job's run time is taken for until one has been seen."""

_STEP_SHARE = 4
_LONGEST_TOLD_MS = 99_999 * 3_600_000
_LOAD_TOLERANCE = 0.1  # of a pod: a load just above a whole number is no reason for one more


@dataclass(frozen=True)
class Demand:
    """The number of replicas that the work needs, why, and what is remembered of how it came about."""

    replicas: int
    reason: Reason
    message: str
    history: History


def demand(observation: Observation, policy: ScalingPolicy, history: History, now_ms: int) -> Demand:
    """Give the need by jobs per replica, or, where the policy has one, by the wait that a job may have."""
    if policy.wait_ms is None:
        need = max(_ceil(_jobs(observation), policy.jobs_per_replica), _least_for_running(observation, policy.slots))
        message = f"{_told(observation)} need {need} at {policy.jobs_per_replica} jobs per replica"
        return Demand(need, _reason(observation), message, history)
    return _by_wait(observation, policy, policy.wait_ms, history, now_ms)


def most_by_concurrency(total: int, slots: int) -> int:
    """Give how many replicas have a job to run when `total` run over all workers."""
    return _ceil(total, slots)


def most_by_rate(jobs_per_ms: float, run_ms: float, slots: int) -> int:
    """Give how many replicas a rate limit can keep busy, and one more."""
    return math.ceil(jobs_per_ms * run_ms / slots) + 1


def busy_pods(observation: Observation, slots: int) -> int:
    """Give how many pods are busy; where that is unknown, how many the running jobs must have at least."""
    return _least_for_running(observation, slots) if observation.busy is None else observation.busy


def run_ms(history: History, now_ms: int) -> float:
    """Give the learned run time of a job, or the first guess; no less than the time in which none has ended."""
    learned = FIRST_RUN_MS if history.run_ms is None else history.run_ms
    return learned if history.none_ended_since_ms is None else max(learned, now_ms - history.none_ended_since_ms)


def told_ms(ms: int) -> str:
    """Write a length of time for people; any that follows from what others wrote, the age of a job of 1970 included."""
    return "more than 11 years" if ms > _LONGEST_TOLD_MS else durations.format_ms(ms)


def _by_wait(observation: Observation, policy: ScalingPolicy, wait_ms: int, history: History, now_ms: int) -> Demand:
    """Give enough replicas to start all that waits within `wait_ms`, beside what keeps arriving.

    Never more than there are jobs for, by counting. What arrives must be served even when nothing is seen waiting: a
    fast queue shows no depth at full load.
    """
    runs = run_ms(history, now_ms)
    load = (history.arrivals_per_ms or 0.0) * runs / policy.slots
    # A new pod works from its start-up on; where the start-up eats the wait, half of it is left to aim at.
    time_left = max(wait_ms - observation.expected_startup_ms, wait_ms / 2, 1.0)
    backlog = observation.runnable * runs / (time_left * policy.slots)
    by_count = _ceil(_jobs(observation), policy.slots)
    # No pod starts for a load alone: with none running and nothing to do there is nothing to serve yet.
    usual = (history.mean_active or 0.0) / policy.slots
    steady = math.ceil(usual - _LOAD_TOLERANCE) if observation.replicas or by_count else 0
    # Where pods can retire, jobs that run end where they are and need no place kept for them.
    running = _least_for_running(observation, policy.slots) if observation.busy is None else 0
    need = max(
        min(math.ceil(backlog + max(load, usual)), by_count),
        steady,
        running,
        int(observation.runnable > 0 or observation.active > 0),
    )
    learned = f"run time {_ms(runs)}{'' if history.run_ms is not None else ' (a guess)'}"
    message = f"{_told(observation)} need {need} to start within {_ms(wait_ms)} ({learned}, load of {max(load, usual):.1f} pods)"
    aged = _aged(observation, history, wait_ms=wait_ms, need=need, by_count=by_count, now_ms=now_ms)
    if min(aged.age_floor, by_count) <= need:
        return Demand(need, _reason(observation), message, aged)
    age_ms = now_ms - (now_ms if observation.oldest_ms is None else observation.oldest_ms)
    floor = min(aged.age_floor, by_count)
    return Demand(floor, Reason.OLDEST_JOB, f"{message}, but the oldest job has waited {_ms(age_ms)}: {floor}", aged)


def _aged(
    observation: Observation, history: History, *, wait_ms: int, need: int, by_count: int, now_ms: int
) -> History:
    """Let a job that waits too long add a step, then wait for a start-up before the next.

    The age goes on growing while new pods boot, so it decides when to add, never how much.
    """
    is_late = observation.oldest_ms is not None and now_ms - observation.oldest_ms > wait_ms
    if not is_late or observation.paused or not observation.runnable:
        return replace(history, age_floor=0) if history.age_floor else history
    was_just_now = history.age_step_ms is not None and now_ms - history.age_step_ms < observation.expected_startup_ms
    if was_just_now or observation.starting:
        return history
    base = max(need, observation.replicas)
    step = max(base // _STEP_SHARE, 1)
    return replace(history, age_floor=min(base + step, by_count), age_step_ms=now_ms)


def _jobs(observation: Observation) -> int:
    return observation.runnable + _running(observation)


def _running(observation: Observation) -> int:
    return max(observation.active - observation.active_leaving, 0)


def _least_for_running(observation: Observation, slots: int) -> int:
    """Give the pods without which running jobs have no place; one while any runs, to take back what stalls."""
    return max(_ceil(_running(observation), slots), int(observation.active > 0))


def _reason(observation: Observation) -> Reason:
    if observation.runnable:
        return Reason.JOBS_WAITING
    return Reason.JOBS_RUNNING if observation.active else Reason.IDLE


def _told(observation: Observation) -> str:
    counts = {
        "waiting": observation.waiting,
        "prioritized": observation.prioritized,
        "due": observation.due,
        "running": observation.active,
    }
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    leaving = f", {observation.active_leaving} of them on pods that go" if observation.active_leaving else ""
    jobs = observation.runnable + observation.active
    return f"{jobs} job{'s' if jobs != 1 else ''} ({told}{leaving})" if jobs else "0 jobs"


def _ms(value: float) -> str:
    whole = round(value)
    return told_ms(whole if whole < 1_000 else round(whole, -2))


def _ceil(jobs: int, share: int) -> int:
    return -(-jobs // share)
