"""Every error that Bullpen raises, and the signals that handlers raise.

Errors derive from `BullpenError`. Signals derive from `JobSignal`, a `BaseException`, so that a handler's
``except Exception`` does not swallow them.
"""

from datetime import datetime
from typing import Literal

from bullpen.durations import Duration


class BullpenError(Exception):
    """Base of all errors of Bullpen."""


class ConfigurationError(BullpenError):
    """A setting (environment, URL, file, YAML) cannot be used; the message names it and what is allowed."""


# -- raised by handlers ------------------------------------------------------


class RetryableError(BullpenError):
    """Raised by a handler: this attempt failed, try again.

    The attempt is spent. `delay` replaces the policy's backoff for this once.
    """

    def __init__(self, message: str = "", *, delay: Duration | None = None) -> None:
        super().__init__(message)
        self.delay = delay


class NonRetryableError(BullpenError):
    """Raised by a handler: this job fails now, whatever attempts are left."""


class JobSignal(BaseException):
    """Base of the signals by which a handler says what is to become of its job."""


class Snooze(JobSignal):
    """Run the job again after `delay` (or at that time), without spending an attempt.

    The job's 1,001st snooze fails it.
    """

    def __init__(self, delay: Duration | datetime) -> None:
        super().__init__(delay)
        self.delay = delay


class Cancel(JobSignal):
    """End the job as cancelled: not completed, not retried, no dead letter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RateLimited(JobSignal):
    """Put the job back to wait without spending an attempt; nothing of its queue starts until `delay` has passed."""

    def __init__(self, delay: Duration, *, scope: Literal["queue", "group"] = "queue") -> None:
        super().__init__(delay)
        self.delay = delay
        self.scope = scope


# -- raised by clients -------------------------------------------------------


class EnqueueError(BullpenError):
    """Base of the errors that an enqueue raises. Nothing was written, unless it is an `EnqueueUncertain`."""


class RedisUnavailable(EnqueueError):
    """Redis did not answer within the client's timeout; the message says where and why."""


class EnqueueUncertain(RedisUnavailable):
    """The command went out and no answer came back: the job may or may not be in Redis."""


class PayloadInvalid(EnqueueError):
    """The payload does not fit its type, the queue's schema, or JSON; the message names the field."""


class PayloadTooLarge(EnqueueError):
    """The payload is larger than the queue's `limits.payloadBytes`."""


class OptionInvalid(EnqueueError):
    """An option's value is not allowed; the message names the option, the value and what is allowed."""


class QueueClosed(EnqueueError):
    """The queue takes no new jobs (`spec.closed`)."""


class QueueFull(EnqueueError):
    """The queue has as many waiting jobs as `limits.waiting` allows."""


class JobFailed(BullpenError):
    """The job whose result was awaited failed for good."""

    def __init__(self, reason: str, *, error_type: str = "", attempts: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error_type = error_type
        self.attempts = attempts


class JobCancelled(BullpenError):
    """The job whose result was awaited was cancelled; `reason` says why."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class JobGone(BullpenError):
    """There is no such job: never enqueued, removed, or trimmed by the queue's retention."""


class JobNotEnded(BullpenError):
    """Only a job that has ended can be retried."""


class JobScheduled(BullpenError):
    """The job is the next run of a schedule, which would end with it: remove or suspend the schedule in its place."""


class ResultTimeout(BullpenError, TimeoutError):
    """The job had not ended when the timeout passed. It goes on."""


class ResultInvalid(BullpenError):
    """A handler's result does not fit its type, JSON, or `limits.resultBytes`. The job's side effects are done."""


class UnknownJob(BullpenError):
    """No handler knows the job's name (or its payload's version)."""


class ScheduleOwned(BullpenError):
    """The schedule is declared in YAML; code cannot overwrite it."""


class BlockingCallWarning(RuntimeWarning):
    """A `SyncClient` was used on the thread of a running event loop, which it blocks."""
