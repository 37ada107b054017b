"""What becomes of an attempt, as a pure function of how it ended.

| the handler | attempt spent | outcome |
|---|---|---|
| returned | yes | `Completed` (an async one also when it was cancelled meanwhile, unless the lock was lost) |
| returned from a thread after its timeout, or after it was cancelled | yes | as if it had not returned |
| raised an error, or ran into its timeout | yes | `Retried` as the policy says, or `Failed` |
| raised `NonRetryableError`, `give_up_on`, `PayloadInvalid` | yes | `Failed` |
| raised `Snooze` | no | `Snoozed`; the 1,001st is `Failed` |
| raised `Cancel`, or was cancelled from outside | yes | `Cancelled` |
| raised `RateLimited` | no | `RateLimited` |
| was cancelled because the worker stops | no | `Released` |
| lost its lock | no | `LockLost`: the result is void |
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast

from bullpen import durations, errors, retry
from bullpen.durations import Duration
from bullpen.handling.contexts import AttemptCancelled, CancelReason
from bullpen.handling.failures import Failure, describe
from bullpen.options import MAX_DELAY_MS, duration_ms

MAX_SNOOZES: Final = 1_000
"""How often a job may put itself off; the next snooze fails it."""


@dataclass(frozen=True, slots=True)
class Completed:
    """It returned; `value` is the result as JSON text."""

    value: str


@dataclass(frozen=True, slots=True)
class Retried:
    """It failed and runs again after `delay_ms` (0: at once)."""

    failure: Failure
    delay_ms: int
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """It failed for good."""

    failure: Failure
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It ends without having completed, and is no failure."""

    reason: str


@dataclass(frozen=True, slots=True)
class Snoozed:
    """It runs again after `delay_ms`; the attempt is not spent."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class RateLimited:
    """It goes back to wait, and nothing of the queue starts for `delay_ms`; the attempt is not spent."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Released:
    """It is given back; the attempt is not spent."""


@dataclass(frozen=True, slots=True)
class LockLost:
    """Another worker may have it: nothing is written."""


@dataclass(frozen=True, slots=True)
class Expired:
    """It was not started in time, so it was not run at all."""


Outcome = Completed | Retried | Failed | Cancelled | Snoozed | RateLimited | Released | LockLost | Expired


class AttemptTimeout(errors.BullpenError, TimeoutError):
    """The attempt took longer than its timeout."""

    def __init__(self, timeout_ms: int | None) -> None:
        after = "" if timeout_ms is None else f" after {durations.format_ms(timeout_ms)}"
        super().__init__(f"timed out{after}")


class EndedElsewhere(errors.BullpenError):
    """A handler failed in another process, where its error was judged already: `outcome` says what follows.

    What middleware sees of a failure in a process; the error itself stays there.
    """

    def __init__(self, outcome: Retried | Failed) -> None:
        super().__init__(f"{outcome.failure.error_type}: {outcome.failure.reason}")
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What decides, beside the error itself, what becomes of an attempt."""

    attempt: int
    """Its number, from 1."""
    policy: retry.Policy
    now: datetime
    random: float
    """In [0, 1): the jitter."""
    rules: retry.Rules = retry.NO_RULES
    answer: Duration | None = None
    """What the handler's own backoff function said (`retry.function_for`)."""
    snoozes: int = 0
    """How often the job put itself off before."""
    reason: CancelReason | None = None
    """The cancel scope's; None when nobody cancelled."""
    text: str = ""
    """The cancel scope's words."""
    timeout_ms: int | None = None


def settle(error: BaseException, at: Circumstances) -> Outcome:
    """Say what follows from an attempt that raised this. Never raises."""
    if at.reason is CancelReason.LOCK_LOST:
        return LockLost()
    if at.reason is CancelReason.CANCELLED:
        return Cancelled(at.text)
    cause = unwrap(error)
    if isinstance(cause, errors.JobSignal) and not isinstance(cause, AttemptCancelled):
        return _obey(cause, at)
    if at.reason is CancelReason.SHUTDOWN:
        return Released()
    if isinstance(cause, EndedElsewhere):
        return cause.outcome
    timed_out = at.reason is CancelReason.TIMEOUT
    if timed_out and (isinstance(cause, AttemptCancelled) or is_cancellation(cause)):
        cause = AttemptTimeout(at.timeout_ms)
    return _fail(cause, describe(error, cause), at, timed_out=timed_out)


def _obey(signal: errors.JobSignal, at: Circumstances) -> Outcome:
    try:
        match signal:
            case errors.Cancel():
                return Cancelled(str(signal.reason))
            case errors.Snooze():
                if at.snoozes >= MAX_SNOOZES:
                    return Failed(describe(SnoozedTooOften(at.snoozes)))
                return Snoozed(_delay_ms("Snooze delay", signal.delay, at.now))
            case errors.RateLimited():
                _check_scope(signal.scope)
                return RateLimited(_delay_ms("RateLimited delay", signal.delay, at.now))
    except Exception as wrong:  # noqa: BLE001 - what it was made with is anybody's: text that cannot be shown, a delay that is none
        return _fail(wrong, describe(wrong), at)
    unknown = TypeError(
        f"raised {type(signal).__qualname__}, a signal that means nothing: raise Snooze, Cancel or RateLimited"
    )
    return _fail(unknown, describe(signal, unknown), at)


def _fail(cause: BaseException, failure: Failure, at: Circumstances, *, timed_out: bool = False) -> Retried | Failed:
    try:
        decision = retry.decide(at.policy, at.attempt, cause, random=at.random, rules=at.rules, answer=at.answer)
    except errors.OptionInvalid as wrong:  # the delay that the handler asked for is none
        failure = describe(wrong)
        decision = retry.decide(at.policy, at.attempt, wrong, random=at.random)
    if isinstance(decision, retry.Retry):
        return Retried(failure, decision.delay_ms, timed_out)
    return Failed(failure, timed_out)


def _check_scope(scope: str) -> None:
    if scope != "queue":
        msg = f'RateLimited scope: {scope!r} is not allowed; allowed: "queue"'
        raise errors.OptionInvalid(msg)


class SnoozedTooOften(errors.NonRetryableError):
    """The job put itself off more than `MAX_SNOOZES` times."""

    def __init__(self, snoozes: int) -> None:
        super().__init__(f"it put itself off {snoozes:,} times, which is as often as a job may")


def _delay_ms(what: str, delay: object, now: datetime) -> int:
    if isinstance(delay, datetime):
        if delay.tzinfo is None:
            msg = f"{what}: {delay!r} is not allowed; allowed: a datetime with a time zone"
            raise errors.OptionInvalid(msg)
        ms = max((delay - now) // timedelta(milliseconds=1), 0)
    else:
        ms = duration_ms(what, cast("Duration", delay))
    if ms > MAX_DELAY_MS:
        msg = f"{what}: {delay!r} is not allowed; allowed: a year at most"
        raise errors.OptionInvalid(msg)
    return ms


def unwrap(error: BaseException) -> BaseException:
    """Give what an exception group is about, as a TaskGroup makes them: the one error in it, or the first of its signals.

    A group of several errors, or of signals and errors, stays a group: it is an ordinary failure.
    """
    leaves = _leaves(error)
    if len(leaves) == 1 or all(isinstance(leaf, errors.JobSignal) for leaf in leaves):
        return leaves[0]
    return error


def is_cancellation(error: BaseException) -> bool:
    """Whether this is how asyncio cancels, alone or all through a group."""
    return all(isinstance(leaf, asyncio.CancelledError) for leaf in _leaves(error))


def _leaves(error: BaseException) -> list[BaseException]:
    leaves, pending = [], [error]
    while pending:  # no recursion: a handler's may have been deep already
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup):
            pending.extend(reversed(each.exceptions))
        else:
            leaves.append(each)
    return leaves
