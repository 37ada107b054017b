"""The outcome table: what follows from each way an attempt may end."""

import asyncio
import pickle
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from bullpen import CancelReason, errors
from bullpen.handling import outcomes
from bullpen.handling.contexts import AttemptCancelled
from bullpen.handling.failures import Failure
from bullpen.handling.outcomes import (
    Cancelled,
    Circumstances,
    Failed,
    LockLost,
    Outcome,
    RateLimited,
    Released,
    Retried,
    Snoozed,
    settle,
)
from bullpen.options import Backoff
from bullpen.retry import Policy, Rules, Source

NOW = datetime(2027, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)


def at(**given: Any) -> Circumstances:
    values: dict[str, Any] = {
        "attempt": 1,
        "policy": Policy(3, Backoff.fixed("5s"), Source.QUEUE),
        "now": NOW,
        "random": 0.0,
    }
    return Circumstances(**{**values, **given})


def shape(outcome: Outcome) -> tuple[object, ...]:
    """The outcome without the traceback."""
    match outcome:
        case Retried(failure, delay_ms, timed_out):
            return Retried, failure.error_type, failure.reason, delay_ms, timed_out
        case Failed(failure, timed_out):
            return Failed, failure.error_type, failure.reason, timed_out
        case _:
            return (outcome,)


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("of a TaskGroup", errors)


TIMED_OUT = at(reason=CancelReason.TIMEOUT, timeout_ms=30_000)
LAST = at(attempt=3)


@pytest.mark.parametrize(
    ("error", "circumstances", "expected"),
    [
        # an error: the attempt is spent, the policy's backoff or the delay
        (ValueError("a"), at(), (Retried, "ValueError", "a", 5_000, False)),
        (ValueError("a"), LAST, (Failed, "ValueError", "a", False)),
        (errors.RetryableError("a"), at(), (Retried, "bullpen.RetryableError", "a", 5_000, False)),
        (errors.RetryableError("a", delay="30s"), at(), (Retried, "bullpen.RetryableError", "a", 30_000, False)),
        (errors.RetryableError("a", delay="0s"), at(), (Retried, "bullpen.RetryableError", "a", 0, False)),
        (errors.RetryableError("a", delay="30s"), LAST, (Failed, "bullpen.RetryableError", "a", False)),
        (SystemExit(1), at(), (Retried, "SystemExit", "the handler called sys.exit(1)", 5_000, False)),
        # its own delay
        (ValueError("a"), at(rules=Rules(backoff_for={ValueError: Backoff.fixed("1s")})), (Retried, "ValueError", "a", 1_000, False)),
        (ValueError("a"), at(rules=Rules(backoff_for=lambda *_: None), answer="7s"), (Retried, "ValueError", "a", 7_000, False)),
        # it says that it is hopeless
        (errors.NonRetryableError("a"), at(), (Failed, "bullpen.NonRetryableError", "a", False)),
        (errors.PayloadInvalid("a"), at(), (Failed, "bullpen.PayloadInvalid", "a", False)),
        (errors.ResultInvalid("a"), at(), (Failed, "bullpen.ResultInvalid", "a", False)),
        (errors.UnknownJob("a"), at(), (Failed, "bullpen.UnknownJob", "a", False)),
        (PermissionError("a"), at(rules=Rules(give_up_on=(OSError,))), (Failed, "PermissionError", "a", False)),
        # timeouts
        (asyncio.CancelledError(), TIMED_OUT, (Retried, "bullpen.AttemptTimeout", "timed out after 30s", 5_000, True)),
        (AttemptCancelled(CancelReason.TIMEOUT), TIMED_OUT, (Retried, "bullpen.AttemptTimeout", "timed out after 30s", 5_000, True)),
        (group(asyncio.CancelledError()), TIMED_OUT, (Retried, "bullpen.AttemptTimeout", "timed out after 30s", 5_000, True)),
        (OSError("while cleaning up"), TIMED_OUT, (Retried, "OSError", "while cleaning up", 5_000, True)),
        (asyncio.CancelledError(), at(reason=CancelReason.TIMEOUT, attempt=3), (Failed, "bullpen.AttemptTimeout", "timed out", True)),
        (asyncio.CancelledError(), at(reason=CancelReason.TIMEOUT, rules=Rules(give_up_on=(TimeoutError,))), (Failed, "bullpen.AttemptTimeout", "timed out", True)),
        (errors.Snooze("1s"), TIMED_OUT, (Snoozed(1_000),)),
        (errors.NonRetryableError("a"), TIMED_OUT, (Failed, "bullpen.NonRetryableError", "a", True)),
        # nobody asked for it
        (asyncio.CancelledError(), at(), (Retried, "asyncio.exceptions.CancelledError", "CancelledError", 5_000, False)),
        # signals
        (errors.Snooze("15m"), at(), (Snoozed(900_000),)),
        (errors.Snooze(timedelta(seconds=1.5)), at(), (Snoozed(1_500),)),
        (errors.Snooze(NOW + timedelta(hours=1)), at(), (Snoozed(3_600_000),)),
        (errors.Snooze(NOW - timedelta(hours=1)), at(), (Snoozed(0),)),
        (errors.Snooze("0s"), LAST, (Snoozed(0),)),
        (errors.Snooze("1s"), at(snoozes=999), (Snoozed(1_000),)),
        (errors.Snooze("1s"), at(snoozes=1_000), (Failed, "bullpen.SnoozedTooOften", "it put itself off 1,000 times, which is as often as a job may", False)),
        (errors.Cancel("account closed"), at(), (Cancelled("account closed"),)),
        (errors.RateLimited("10s"), LAST, (RateLimited(10_000),)),
        # signals in groups
        (group(errors.Snooze("1s")), at(), (Snoozed(1_000),)),
        (group(group(errors.Cancel("a"))), at(), (Cancelled("a"),)),
        (group(errors.RateLimited("1s"), errors.RateLimited("2s")), at(), (RateLimited(1_000),)),
        (group(errors.Snooze("1s"), ValueError("a")), at(), (Retried, "BaseExceptionGroup", "of a TaskGroup (2 sub-exceptions)", 5_000, False)),
        (group(errors.NonRetryableError("a")), at(), (Failed, "bullpen.NonRetryableError", "a", False)),
        (group(errors.RetryableError("a", delay="9s")), at(), (Retried, "bullpen.RetryableError", "a", 9_000, False)),
        (group(ValueError("a"), KeyError("b")), at(), (Retried, "ExceptionGroup", "of a TaskGroup (2 sub-exceptions)", 5_000, False)),
        # signals and delays that are none
        (errors.Snooze(5), at(), (Retried, "bullpen.OptionInvalid", "Snooze delay: 5 is not allowed", 5_000, False)),
        (errors.Snooze("soon"), at(), (Retried, "bullpen.OptionInvalid", "Snooze delay: 'soon' is not allowed", 5_000, False)),
        (errors.Snooze(NOW.replace(tzinfo=None)), at(), (Retried, "bullpen.OptionInvalid", "a datetime with a time zone", 5_000, False)),
        (errors.Snooze(2 * YEAR), at(), (Retried, "bullpen.OptionInvalid", "a year at most", 5_000, False)),
        (errors.Snooze(timedelta(days=-1)), LAST, (Failed, "bullpen.OptionInvalid", "Snooze delay", False)),
        (errors.RateLimited(None), at(), (Retried, "bullpen.OptionInvalid", "RateLimited delay: None", 5_000, False)),
        (errors.RateLimited("1s", scope="group"), at(), (Retried, "bullpen.OptionInvalid", "RateLimited scope: 'group'", 5_000, False)),
        (errors.RetryableError("a", delay=5), at(), (Retried, "bullpen.OptionInvalid", "RetryableError delay: 5", 5_000, False)),
        (ValueError("a"), at(rules=Rules(backoff_for=lambda *_: None), answer=5), (Retried, "bullpen.OptionInvalid", "backoff_for's answer: 5", 5_000, False)),
        (errors.JobSignal(), at(), (Retried, "TypeError", "a signal that means nothing", 5_000, False)),
        # cancelled from outside
        (asyncio.CancelledError(), at(reason=CancelReason.CANCELLED, text="nobody waits"), (Cancelled("nobody waits"),)),
        (ValueError("while cleaning up"), at(reason=CancelReason.CANCELLED, text="a"), (Cancelled("a"),)),
        (errors.Snooze("1s"), at(reason=CancelReason.CANCELLED, text="a"), (Cancelled("a"),)),
        # the worker stops
        (asyncio.CancelledError(), at(reason=CancelReason.SHUTDOWN), (Released(),)),
        (AttemptCancelled(CancelReason.SHUTDOWN), at(reason=CancelReason.SHUTDOWN), (Released(),)),
        (ValueError("while cleaning up"), at(reason=CancelReason.SHUTDOWN, attempt=3), (Released(),)),
        (errors.Snooze("1s"), at(reason=CancelReason.SHUTDOWN), (Snoozed(1_000),)),
        (errors.Cancel("a"), at(reason=CancelReason.SHUTDOWN), (Cancelled("a"),)),
        # the lock is lost
        (asyncio.CancelledError(), at(reason=CancelReason.LOCK_LOST), (LockLost(),)),
        (ValueError("a"), at(reason=CancelReason.LOCK_LOST), (LockLost(),)),
        (errors.Snooze("1s"), at(reason=CancelReason.LOCK_LOST), (LockLost(),)),
        # judged in another process
        (outcomes.EndedElsewhere(Failed(Failure("ValueError", "a", ""))), at(), (Failed, "ValueError", "a", False)),
        (outcomes.EndedElsewhere(Retried(Failure("ValueError", "a", ""), 7)), LAST, (Retried, "ValueError", "a", 7, False)),
        (outcomes.EndedElsewhere(Failed(Failure("ValueError", "a", ""))), at(reason=CancelReason.SHUTDOWN), (Released(),)),
    ],
)  # fmt: skip
def test_what_follows(error: BaseException, circumstances: Circumstances, expected: tuple[Any, ...]) -> None:
    found = shape(settle(error, circumstances))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, str) and isinstance(other, str):
            assert other in one
        else:
            assert one == other


def test_groups_in_groups_are_unwrapped_however_deep_they_are() -> None:
    error: BaseException = errors.Snooze("1s")
    for _ in range(5_000):
        error = BaseExceptionGroup("of a TaskGroup", [error])
    assert settle(error, at()) == Snoozed(1_000)
    error = ValueError("a")
    for _ in range(5_000):
        error = BaseExceptionGroup("of a TaskGroup", [error])
    assert shape(settle(error, at())) == (Retried, "ValueError", "a", 5_000, False)


class Unspeakable:
    def __str__(self) -> str:
        raise LookupError("no words")


class Nowhere(tzinfo):
    """A time zone that says nothing, as the base class allows."""

    def utcoffset(self, _when: datetime | None) -> None: ...


@pytest.mark.parametrize(
    ("signal", "error_type"),
    [
        (errors.Cancel(Unspeakable()), "LookupError"),  # type: ignore[arg-type]
        (errors.Snooze(datetime(2027, 1, 1, tzinfo=Nowhere())), "TypeError"),
    ],
)
def test_a_signal_that_cannot_be_obeyed_fails_its_attempt(signal: BaseException, error_type: str) -> None:
    outcome = settle(signal, at())
    assert isinstance(outcome, Retried)
    assert outcome.failure.error_type == error_type


def test_outcomes_travel_between_processes() -> None:
    outcome = settle(ValueError("a"), at())
    assert pickle.loads(pickle.dumps(outcome)) == outcome
