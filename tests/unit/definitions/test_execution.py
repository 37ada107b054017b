"""One attempt from its payload to its outcome, on a real event loop and in real threads."""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from bullpen import Cancel, Context, NonRetryableError, Payload, RateLimited, RunNext, Snooze, SyncContext
from bullpen.handling import execution, outcomes
from bullpen.handling.outcomes import Completed, Failed, Outcome, Retried, Snoozed
from bullpen.handling.registrations import Registration
from bullpen.options import Backoff
from tests.support.attempts import Executors, Services, in_process, job_of, reason_of, registered, run


class Welcome(Payload):
    user_id: int


class Receipt(Payload):
    message_id: str


async def by_coroutine(ctx: Context[str], data: Welcome) -> Receipt:
    return Receipt(message_id=f"{ctx.deps}-{data.user_id}")


def by_function(ctx: SyncContext[str], data: Welcome) -> Receipt:
    return Receipt(message_id=f"{ctx.deps}-{data.user_id}")


async def without_context(data: Welcome) -> Receipt:
    return Receipt(message_id=f"m-{data.user_id}")


@pytest.mark.parametrize(
    "registration",
    [registered(by_coroutine), registered(by_function), in_process(by_function), registered(without_context)],
    ids=["async", "thread", "process", "no context"],
)
async def test_payload_in_result_out(registration: Registration) -> None:
    assert await run(registration, job_of('{"userId":7}', deps="m")) == Completed('{"messageId":"m-7"}')


async def test_what_does_not_fit_fails_for_good_in_words_without_values() -> None:
    outcome = await run(registered(by_coroutine), job_of('{"userId":"hunter2"}'))
    assert isinstance(outcome, Failed)
    assert outcome.failure.error_type == "bullpen.PayloadInvalid"
    assert "userId: input should be a valid integer" in outcome.failure.reason
    assert "hunter2" not in outcome.failure.stack


async def wrong_result() -> Receipt:
    return {"message_id": "hunter2"}  # type: ignore[return-value]


async def test_a_result_that_does_not_fit_fails_for_good() -> None:
    outcome = await run(registered(wrong_result))
    assert isinstance(outcome, Failed)
    assert outcome.failure.error_type == "bullpen.ResultInvalid"
    assert "Receipt was declared, not dict (what the handler did is done, so it is not tried again)" in reason_of(
        outcome
    )


@pytest.mark.parametrize(("text", "size"), [("x" * 98, 100), ("ü" * 49, 100)])
async def test_a_result_may_be_as_large_as_allowed(text: str, size: int) -> None:
    async def large() -> str:
        return text

    assert isinstance(await run(registered(large), job_of(max_result_bytes=size)), Completed)
    outcome = await run(registered(large), job_of(max_result_bytes=size - 1))
    assert isinstance(outcome, Failed)
    assert f"it has {size} bytes of JSON, and limits.resultBytes allows {size - 1}" in reason_of(outcome)


async def test_a_newer_payload_fails_as_unknown() -> None:
    outcome = await run(registered(by_coroutine), job_of(version=2))
    assert isinstance(outcome, Failed)
    assert outcome.failure.error_type == "bullpen.UnknownJob"


# -- what handlers raise -----------------------------------------------------


def raising(error: BaseException) -> tuple[Callable[..., Any], Callable[..., Any]]:
    async def coroutine() -> None:
        raise error

    def function() -> None:
        raise error

    return coroutine, function


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Snooze("1s"), Snoozed(1_000)),
        (Cancel("closed"), outcomes.Cancelled("closed")),
        (RateLimited("2s"), outcomes.RateLimited(2_000)),
    ],
)
async def test_signals_mean_the_same_wherever_the_handler_runs(error: BaseException, expected: Outcome) -> None:
    coroutine, function = raising(error)
    assert await run(registered(coroutine)) == expected
    assert await run(registered(function)) == expected
    assert await run(in_process(function)) == expected


@pytest.mark.parametrize(
    ("error", "error_type", "is_final"),
    [
        (ValueError("a"), "ValueError", False),
        (NonRetryableError("a"), "bullpen.NonRetryableError", True),
        (PermissionError("a"), "PermissionError", True),
        (SystemExit(3), "SystemExit", False),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError", False),
    ],
)
async def test_errors_mean_the_same_wherever_the_handler_runs(
    error: BaseException, error_type: str, is_final: bool
) -> None:
    coroutine, function = raising(error)
    for registration in (
        registered(coroutine, give_up_on=PermissionError),
        registered(function, give_up_on=PermissionError),
        in_process(function, give_up_on=PermissionError),
    ):
        outcome = await run(registration)
        assert isinstance(outcome, Failed if is_final else Retried)
        assert isinstance(outcome, Failed | Retried)
        assert outcome.failure.error_type == error_type


async def test_a_signal_alone_in_a_task_group_is_a_signal() -> None:
    async def part(*, snoozes: bool) -> None:
        if snoozes:
            raise Snooze("1s")
        await asyncio.Event().wait()

    async def whole() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(part(snoozes=False))
            tasks.create_task(part(snoozes=True))

    assert await run(registered(whole)) == Snoozed(1_000)


async def test_the_stack_is_the_application_s() -> None:
    outcome = await run(registered(raising(ValueError("a"))[0]))
    assert isinstance(outcome, Retried)
    assert outcome.failure.stack.startswith("Traceback (most recent call last):\n")
    assert outcome.failure.stack.count("File ") == 1


async def test_a_keyboard_interrupt_ends_the_program_not_the_job() -> None:
    job = job_of()
    coroutine = execution.run_attempt(registered(raising(KeyboardInterrupt())[0]), job, executors=Executors())
    with pytest.raises(KeyboardInterrupt):
        coroutine.send(None)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
async def test_in_a_thread_they_end_their_attempt_alone(error: BaseException) -> None:
    outcome = await run(registered(raising(error)[1]))
    assert isinstance(outcome, Retried)
    assert outcome.failure.reason == f"the handler raised {type(error).__name__}"


async def test_a_plain_function_that_gives_a_coroutine_is_told_so() -> None:
    def function() -> Any:
        return without_context(Welcome(user_id=7))

    outcome = await run(registered(function))
    assert isinstance(outcome, Retried)
    assert "keep it async def in its decorators" in outcome.failure.reason


# -- backoff_for -------------------------------------------------------------


async def own_backoff(attempt: int, error: Exception) -> str | None:
    await asyncio.sleep(0)
    return f"{attempt}s" if isinstance(error, ValueError) else None


def plain_backoff(attempt: int, error: Exception) -> str | None:
    return f"{attempt}s" if isinstance(error, ValueError) else None


@pytest.mark.parametrize("backoff_for", [own_backoff, plain_backoff, {ValueError: Backoff.fixed("1s")}])
async def test_a_handlers_own_backoff_is_asked(backoff_for: Any) -> None:
    for error, delay_ms in [(ValueError(), 1_000), (KeyError(), 5_000)]:
        coroutine, function = raising(error)
        for registration in (
            registered(coroutine, backoff_for=backoff_for),
            registered(function, backoff_for=backoff_for),
            in_process(function, backoff_for=backoff_for),
        ):
            outcome = await run(registration)
            assert isinstance(outcome, Retried)
            assert outcome.delay_ms == delay_ms


async def test_a_broken_backoff_does_not_hide_the_error() -> None:
    def broken(attempt: int, error: Exception) -> str:
        raise KeyError("no such")

    job = job_of()
    outcome = await run(registered(raising(ValueError("a"))[0], backoff_for=broken), job)
    assert isinstance(outcome, Retried)
    assert (outcome.failure.reason, outcome.delay_ms) == ("a", 5_000)
    assert isinstance(job.services, Services)
    assert job.services.lines == ["backoff_for raised KeyError: 'no such'; the policy's backoff holds"]


async def test_an_endless_backoff_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "BACKOFF_SECONDS", 0.01)

    async def endless(attempt: int, error: Exception) -> str:
        await asyncio.Event().wait()
        return "1s"

    job = job_of()
    outcome = await run(registered(raising(ValueError("a"))[0], backoff_for=endless), job)
    assert isinstance(outcome, Retried)
    assert outcome.delay_ms == 5_000


# -- middleware and context variables ----------------------------------------


def marking(name: str, seen: list[str]) -> Any:
    async def around(ctx: Any, call: RunNext) -> object:
        seen.append(f"{name} in {ctx.name}")
        try:
            return await call()
        finally:
            seen.append(f"{name} out")

    return around


@pytest.mark.parametrize("make", [registered, in_process])
async def test_middleware_goes_around_every_attempt_the_workers_outermost(make: Any) -> None:
    seen: list[str] = []
    registration = make(by_function, middleware=[marking("first", seen), marking("second", seen)])
    job = job_of('{"userId":7}', deps="m")
    outcome = await run(registration, job, middleware=[marking("worker", seen)])
    assert outcome == Completed('{"messageId":"m-7"}')
    assert seen == ["worker in job", "first in job", "second in job", "second out", "first out", "worker out"]


async def test_middleware_may_replace_the_result_which_is_checked_as_any() -> None:
    async def replacing(ctx: Any, call: RunNext) -> object:
        assert isinstance(await call(), Receipt)
        return Receipt(message_id="other")

    async def spoiling(ctx: Any, call: RunNext) -> object:
        await call()
        return 5

    job = job_of('{"userId":7}')
    assert await run(registered(by_coroutine, middleware=[replacing]), job) == Completed('{"messageId":"other"}')
    assert await run(in_process(by_function, middleware=[replacing]), job) == Completed('{"messageId":"other"}')
    assert isinstance(await run(registered(by_coroutine, middleware=[spoiling]), job), Failed)


async def test_middleware_sees_every_error_and_its_own_count_too() -> None:
    seen: list[str] = []

    async def watching(ctx: Any, call: RunNext) -> object:
        try:
            return await call()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    for function, data in [(by_coroutine, "{}"), (raising(Snooze("1s"))[0], "{}"), (raising(KeyError())[1], "{}")]:
        await run(registered(function, middleware=[watching]), job_of(data))
    await run(in_process(raising(KeyError())[1], middleware=[watching]))
    assert seen == ["PayloadInvalid", "Snooze", "KeyError", "EndedElsewhere"]

    async def failing(ctx: Any, call: RunNext) -> object:
        await call()
        raise ValueError("of middleware")

    outcome = await run(registered(without_context, middleware=[failing]), job_of('{"userId":7}'))
    assert isinstance(outcome, Retried)
    assert outcome.failure.reason == "of middleware"


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


async def test_context_variables_are_the_jobs_own_and_reach_its_thread() -> None:
    async def setting(ctx: Any, call: RunNext) -> object:
        assert VARIABLE.get() == "clean"
        VARIABLE.set("set")
        return await call()

    async def coroutine() -> str:
        return VARIABLE.get()

    def function() -> str:
        return VARIABLE.get()

    for each in (coroutine, function):
        assert await run(registered(each, middleware=[setting])) == Completed('"set"')
    assert VARIABLE.get() == "clean"


def test_a_process_attempt_runs_without_an_event_loop() -> None:
    registration = in_process(by_function)
    job = job_of('{"userId":7}', deps="m")
    assert execution.run_in_process(registration, job) == Completed('{"messageId":"m-7"}')
    outcome = execution.run_in_process(in_process(raising(KeyboardInterrupt())[1]), job)
    assert isinstance(outcome, Retried)
