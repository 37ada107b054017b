"""A handler that was called ahead of its attempt ends as one whose attempt was run whole."""

import asyncio
import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import field_validator

from bullpen import Cancel, Context, NonRetryableError, Payload, Snooze
from bullpen.handling import execution
from bullpen.handling.contexts import ActiveJob, CancelReason
from bullpen.handling.outcomes import Completed, Outcome, Retried
from bullpen.handling.registrations import Registration
from tests.support.attempts import Executors, job_of, registered, run


class Number(Payload):
    value: int


class FirstOf(Payload):
    value: int

    @field_validator("value")
    @classmethod
    def _find(cls, value: int) -> int:
        return next(each for each in (8, 9) if each == value)


async def at_once(data: Number) -> int:
    return data.value


async def after_a_while(data: Number) -> int:
    for _ in range(3):
        await asyncio.sleep(0)
    return data.value


async def raises(data: Number) -> None:
    raise ValueError(data.value)


async def raises_after_a_while(data: Number) -> None:
    await asyncio.sleep(0)
    raise NonRetryableError(str(data.value))


async def snoozes(data: Number) -> None:
    raise Snooze("5s")


async def cancels(data: Number) -> None:
    raise Cancel("enough")


async def cancels_itself(data: Number) -> None:
    raise asyncio.CancelledError


async def exits(data: Number) -> None:
    raise SystemExit(3)


async def is_never_called(data: FirstOf) -> int:
    return data.value


async def gives_what_it_must_not(data: Number) -> int:
    return "seven"  # type: ignore[return-value]


async def gives_too_much(data: Number) -> str:
    return "x" * 300


async def ahead(registration: Registration, job: ActiveJob) -> Outcome:
    """Run an attempt as a worker does."""

    async def attempt() -> Outcome:
        begun = execution.call_ahead(registration, job.name, job.data, job.version, job.max_result_bytes)
        return begun if isinstance(begun, Completed) else await run(registration, job, begun=begun)

    return await asyncio.create_task(attempt())


def neutral(outcome: Outcome) -> Outcome | tuple[type[Outcome], str, str]:
    failure = getattr(outcome, "failure", None)
    return outcome if failure is None else (type(outcome), failure.error_type, failure.reason)


@pytest.mark.parametrize(
    "handler",
    [
        at_once, after_a_while, raises, raises_after_a_while, snoozes, cancels, cancels_itself, exits, gives_what_it_must_not,
        gives_too_much, is_never_called,
    ],
)  # fmt: skip
@pytest.mark.parametrize("data", ['{"value":7}', '{"value":"seven"}', "no JSON"])
async def test_it_ends_the_same(handler: Callable[..., Any], data: str) -> None:
    registration = registered(handler)
    assert execution.may_be_called_ahead(registration)
    found = await ahead(registration, job_of(data, max_result_bytes=100))
    assert neutral(found) == neutral(await run(registration, job_of(data, max_result_bytes=100)))


async def test_a_quick_one_is_over_at_once_and_a_slow_one_is_not() -> None:
    def call(handler: Callable[..., Any]) -> Completed | Awaitable[object]:
        return execution.call_ahead(registered(handler), "job", '{"value":7}', 1, None)

    assert call(at_once) == Completed("7")
    rest = call(after_a_while)
    assert not isinstance(rest, Completed)
    assert await rest == 7


async def test_the_rest_is_cancelled_through_the_scope() -> None:
    swept = []

    async def patient(data: Number) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            swept.append(data.value)

    registration, job = registered(patient), job_of('{"value":7}')
    begun = execution.call_ahead(registration, "job", job.data, 1, None)
    assert not isinstance(begun, Completed)
    running = asyncio.create_task(execution.run_attempt(registration, job, executors=Executors(), begun=begun))
    await asyncio.sleep(0)
    job.scope.cancel(CancelReason.TIMEOUT)
    outcome = await running
    assert isinstance(outcome, Retried)
    assert outcome.timed_out
    assert swept == [7]


async def test_the_stack_is_the_application_s_all_the_same() -> None:
    outcome = await ahead(registered(raises), job_of('{"value":7}'))
    assert isinstance(outcome, Retried)
    assert outcome.failure.stack.count("File ") == 1


async def test_what_is_no_coroutine_is_awaited_where_the_attempt_is() -> None:
    class Handler:
        __name__ = __qualname__ = "handler"

        async def __call__(self, data: Number) -> int:
            return data.value

    @types.coroutine
    def generator() -> Any:
        yield from asyncio.sleep(0).__await__()
        return 8

    registration = registered(Handler())
    assert execution.call_ahead(registration, "job", '{"value":7}', 1, None) == Completed("7")
    given: Any = Registration(
        **{
            name: (lambda _data: generator()) if name == "function" else getattr(registration, name)
            for name in Registration.__dataclass_fields__
        }
    )
    assert await ahead(given, job_of('{"value":7}')) == Completed("8")


def test_those_that_need_more_are_not_called_ahead() -> None:
    async def with_context(ctx: Context[None], data: Number) -> None:
        """Do nothing."""

    def in_a_thread(data: Number) -> None:
        """Do nothing."""

    async def around(ctx: Any, call_next: Any) -> object:
        return await call_next()

    assert not execution.may_be_called_ahead(registered(with_context))
    assert not execution.may_be_called_ahead(registered(in_a_thread))
    assert not execution.may_be_called_ahead(registered(at_once, middleware=[around]))
