"""Runs one attempt of a job: payload to arguments, middleware, the handler, result to JSON, and what follows.

Model of concurrency: `run_attempt` is awaited in a task of the attempt's own, made by the worker (so that context variables are
clean). For its async handlers and process handlers the job's `CancelScope` cancels that task; the cancellation is consumed here
and becomes an outcome. A cancellation that did not come from the scope passes through: it is the worker's own. Nothing here
starts a task. No clock runs here: who sets a deadline cancels the scope when it has passed.
"""

import asyncio
import inspect
import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol, TypeVar, cast

from bullpen import errors, retry
from bullpen.durations import Duration
from bullpen.handling import outcomes
from bullpen.handling.contexts import ActiveJob, AttemptCancelled, BaseContext, CancelReason
from bullpen.handling.middleware import RunMiddleware, RunNext
from bullpen.handling.outcomes import Circumstances, Completed, EndedElsewhere, Outcome
from bullpen.handling.registrations import Registration
from bullpen.jobs import result_invalid

T = TypeVar("T")

BACKOFF_SECONDS: Final = 10.0
"""How long a handler's own async backoff function may take."""


class Executors(Protocol):
    """Where handlers run that do not run on the event loop."""

    async def run_thread(self, call: Callable[[], T], job: ActiveJob) -> T:
        """Call in a thread, with a copy of the current context variables, and give what it gives or raises.

        A thread is not interrupted: this returns when it has ended.
        """
        ...

    async def run_process(self, registration: Registration, job: ActiveJob) -> Outcome:
        """Have a process run `run_in_process` and give its outcome.

        Cancelled, it kills the process, sees to its end, and raises `asyncio.CancelledError`. A process that dies by itself is
        an ordinary error of its own class.
        """
        ...


def utc_now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)


async def run_attempt(
    registration: Registration,
    job: ActiveJob,
    *,
    executors: Executors,
    middleware: Sequence[RunMiddleware] = (),
    task: asyncio.Task[Any] | None = None,
    begun: Awaitable[object] | None = None,
    now: Callable[[], datetime] = utc_now,
    rng: Callable[[], float] = random.random,
) -> Outcome:
    """Run one attempt and say what follows from it.

    `task` is the one that awaits this, where the caller knows it (to find out costs Python 3.11 a system call). `begun` is
    what `call_ahead` left to do.

    `middleware` is the worker's, around that of the registration. `now` and `rng` decide absolute delays and jitter. What the
    handler raises never comes out of here, with three exceptions: KeyboardInterrupt on the event loop, GeneratorExit, and a
    cancellation that the job's scope did not order. SystemExit is a failure of the attempt like any other: a job does not end
    its worker.
    """
    scope = job.scope
    around = (*middleware, *registration.middleware) if middleware else registration.middleware
    task = task or asyncio.current_task()
    try:
        if scope.reason is not None:
            raise asyncio.CancelledError  # noqa: TRY301 - as if it had come a moment later
        scope.enter(None if registration.kind == "thread" else task)
        if begun is not None:
            value = await begun
        elif around or registration.kind != "async":
            context = registration.context(job)
            value = await _through(around, context, _innermost(registration, context, job, executors))
        else:
            value = await _call_async(registration, registration.context(job), job)
        outcome = _completed(registration, job, value)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        scope.leave()
        if isinstance(error, asyncio.CancelledError) and _is_from_outside(task, job):
            raise
        outcome = await _settle(registration, job, error, now=now, rng=rng)
    finally:
        scope.leave()
        if scope.delivered and task is not None:
            task.uncancel()
    return outcome


def may_be_called_ahead(registration: Registration) -> bool:
    """Whether `call_ahead` is for this handler: an ``async def`` that takes no context and has no middleware."""
    return registration.kind == "async" and not registration.takes_context and not registration.middleware


def call_ahead(
    registration: Registration, name: str, data: str | bytes, version: int, most_bytes: int | None
) -> Completed | Awaitable[object]:
    """Call the handler of a job of this name up to where it first waits, in the task that is to run the attempt.

    Gives the outcome where it has ended well by then: an attempt of a quick handler, without the expense of all that attempts
    may need. Else it gives what is left to do, also where that is to raise an error: give it to `run_attempt`.
    """
    try:
        args, kwargs = registration.decode(data, version)
        call = registration.function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - raised again where it counts
        return _raising(error)
    if call.__class__ is not types.CoroutineType:
        return cast("Awaitable[object]", call)
    try:
        waits_for = call.send(None)
    except StopIteration as done:  # of the coroutine's own end: one that a validator raises is an error
        value = done.value
    except BaseException as error:  # noqa: BLE001 - as above
        return _raising(error)
    else:
        return resumed(call, waits_for)
    try:
        return _result(registration, name, value, most_bytes)
    except BaseException as error:  # noqa: BLE001 - as above
        return _raising(error)


@types.coroutine
def resumed(begun: Coroutine[object, None, T], waits_for: object) -> Generator[object, None, T]:
    """Await what is left of a coroutine that has begun, and waits for this."""
    try:
        while True:
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation is the coroutine's own business
                waits_for = begun.throw(error)
            else:
                waits_for = begun.send(None)
    except StopIteration as done:
        value: T = done.value
        return value


def run_in_process(
    registration: Registration,
    job: ActiveJob,
    *,
    now: Callable[[], datetime] = utc_now,
    rng: Callable[[], float] = random.random,
) -> Outcome:
    """Run one attempt of a process handler, in the process: what `Executors.run_process` gives there.

    Middleware is not here: it runs around this, in the worker. Without an event loop; an async backoff function gets one of its
    own. KeyboardInterrupt is a failure of the attempt as well.
    """
    context = registration.context(job)
    try:
        return _completed(registration, job, _call(registration, context, job))
    except BaseException as error:
        settling = _settle(registration, job, error, now=now, rng=rng)
        if callable(registration.rules.backoff_for):  # it may be async
            return asyncio.run(settling)
        try:
            settling.send(None)
        except StopIteration as done:
            return cast("Outcome", done.value)
        msg = "settling waits for nothing but a backoff function"
        raise AssertionError(msg) from error


def _innermost(registration: Registration, context: BaseContext[Any], job: ActiveJob, executors: Executors) -> RunNext:
    if registration.kind == "async":
        return partial(_call_async, registration, context, job)
    if registration.kind == "thread":
        return partial(_call_thread, registration, context, job, executors)
    return partial(_call_process, registration, job, executors)


async def _through(around: Sequence[RunMiddleware], context: BaseContext[Any], innermost: RunNext) -> object:
    call = innermost
    for each in reversed(around):
        call = partial(each, context, call)
    return await call()


async def _call_async(registration: Registration, context: BaseContext[Any], job: ActiveJob) -> object:
    args, kwargs = registration.decode(job.data, job.version)
    if registration.takes_context:
        return await registration.function(context, *args, **kwargs)
    return await registration.function(*args, **kwargs)


async def _call_thread(
    registration: Registration, context: BaseContext[Any], job: ActiveJob, executors: Executors
) -> object:
    value = await executors.run_thread(partial(_call_in_thread, registration, context, job), job)
    if job.scope.reason in {CancelReason.TIMEOUT, CancelReason.CANCELLED}:
        # A thread cannot be interrupted; what it returns when its time is over is as late as if it were still at it.
        raise AttemptCancelled(job.scope.reason)
    return value


def _call_in_thread(registration: Registration, context: BaseContext[Any], job: ActiveJob) -> object:
    try:
        return _call(registration, context, job)
    except (KeyboardInterrupt, GeneratorExit) as error:  # raised on the event loop they would end the worker
        msg = f"the handler raised {type(error).__name__}"
        raise RuntimeError(msg) from error


def _call(registration: Registration, context: BaseContext[Any], job: ActiveJob) -> object:
    args, kwargs = registration.decode(job.data, job.version)
    if registration.takes_context:
        value = registration.function(context, *args, **kwargs)
    else:
        value = registration.function(*args, **kwargs)
    if inspect.iscoroutine(value):  # a decorator made a plain function of an async one
        value.close()
        msg = f"{registration.qualname} is no async def, yet it gives a coroutine: keep it async def in its decorators"
        raise TypeError(msg)
    return value


async def _call_process(registration: Registration, job: ActiveJob, executors: Executors) -> object:
    outcome = await executors.run_process(registration, job)
    match outcome:
        case outcomes.Completed(value):
            return registration.read_result(value)
        case outcomes.Retried() | outcomes.Failed():
            raise EndedElsewhere(outcome)
        case outcomes.Snoozed(delay_ms):
            raise errors.Snooze(timedelta(milliseconds=delay_ms))
        case outcomes.RateLimited(delay_ms):
            raise errors.RateLimited(timedelta(milliseconds=delay_ms))
        case outcomes.Cancelled(reason):
            raise errors.Cancel(reason)
        case _:
            msg = f"a process gave {outcome!r}"
            raise RuntimeError(msg)


def _completed(registration: Registration, job: ActiveJob, value: object) -> Outcome:
    if job.scope.reason is CancelReason.LOCK_LOST:
        return outcomes.LockLost()
    return _result(registration, job.name, value, job.max_result_bytes)


def _result(registration: Registration, name: str, value: object, most_bytes: int | None) -> Completed:
    text = registration.encode(value)
    if most_bytes is not None and len(text) * 4 > most_bytes:  # a character is 4 bytes at most
        size = len(text) if text.isascii() else len(text.encode())
        if size > most_bytes:
            what = f"it has {size} bytes of JSON, and limits.resultBytes allows {most_bytes}"
            raise result_invalid(name, f"{what} (what the handler did is done, so it is not tried again)")
    return Completed(text)


async def _raising(error: BaseException) -> object:
    raise error


def _is_from_outside(task: "asyncio.Task[Any] | None", job: ActiveJob) -> bool:
    ordered_here = 1 if job.scope.delivered else 0
    return task is not None and task.cancelling() > ordered_here


async def _settle(
    registration: Registration,
    job: ActiveJob,
    error: BaseException,
    *,
    now: Callable[[], datetime],
    rng: Callable[[], float],
) -> Outcome:
    answer = None
    if callable(registration.rules.backoff_for) and job.scope.reason in {None, CancelReason.TIMEOUT}:
        answer = await _ask(registration, job, outcomes.unwrap(error))
    return outcomes.settle(
        error,
        Circumstances(
            attempt=job.attempt,
            policy=job.retry,
            now=now(),
            random=rng(),
            rules=registration.rules,
            answer=answer,
            snoozes=job.snoozes,
            reason=job.scope.reason,
            text=job.scope.text,
            timeout_ms=job.timeout_ms,
        ),
    )


async def _ask(registration: Registration, job: ActiveJob, error: BaseException) -> Duration | None:
    function = retry.function_for(job.retry, registration.rules, job.attempt, error)
    if function is None or isinstance(error, EndedElsewhere) or not isinstance(error, Exception):
        return None
    try:
        answer = function(job.attempt, error)
        if inspect.isawaitable(answer):
            async with asyncio.timeout(BACKOFF_SECONDS):
                answer = await answer
    except Exception as broken:  # noqa: BLE001 - it must not hide the failure that it was asked about
        job.services.log(f"backoff_for raised {type(broken).__qualname__}: {broken}; the policy's backoff holds")
        return None
    return answer
