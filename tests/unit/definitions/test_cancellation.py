"""What becomes of an attempt that is cancelled, by whom and however its handler takes it."""

import asyncio
import threading

import pytest

from bullpen import CancelReason, Snooze, SyncContext
from bullpen.handling import execution, outcomes
from bullpen.handling.failures import Failure
from bullpen.handling.outcomes import Completed, LockLost, Outcome, Released, Retried, Snoozed
from tests.support.attempts import NOW, Executors, job_of, registered, run


class Patient:
    """A handler that waits, and does what it is told when it is cancelled."""

    def __init__(self, then: str) -> None:
        self.then = then
        self.started = asyncio.Event()
        self.again = asyncio.Event()

    async def __call__(self) -> str:
        self.started.set()
        try:
            await self.again.wait()
        except asyncio.CancelledError:
            match self.then:
                case "raise":
                    raise
                case "return":
                    return "done"
                case "fail":
                    raise OSError("while cleaning up") from None
                case "snooze":
                    raise Snooze("1s") from None
        return "never"


async def cancelled(then: str, reason: CancelReason) -> Outcome:
    patient = Patient(then)
    job = job_of(timeout_ms=30_000)
    async with asyncio.timeout(60):
        task = asyncio.create_task(
            execution.run_attempt(registered(patient), job, executors=Executors(), now=lambda: NOW, rng=lambda: 0.0)
        )
        await patient.started.wait()
        assert job.scope.cancel(reason, "because")
        outcome = await task
    assert task.cancelling() == 0
    return outcome


TIMED_OUT = Failure("bullpen.AttemptTimeout", "timed out after 30s", "")
BY_CLEANING = Failure("OSError", "while cleaning up", "")
DONE = Completed('"done"')


@pytest.mark.parametrize(
    ("then", "reason", "expected"),
    [
        ("raise", CancelReason.TIMEOUT, Retried(TIMED_OUT, 5_000, timed_out=True)),
        ("raise", CancelReason.CANCELLED, outcomes.Cancelled("because")),
        ("raise", CancelReason.SHUTDOWN, Released()),
        ("raise", CancelReason.LOCK_LOST, LockLost()),
        ("return", CancelReason.TIMEOUT, DONE),
        ("return", CancelReason.CANCELLED, DONE),
        ("return", CancelReason.SHUTDOWN, DONE),
        ("return", CancelReason.LOCK_LOST, LockLost()),
        ("fail", CancelReason.TIMEOUT, Retried(BY_CLEANING, 5_000, timed_out=True)),
        ("fail", CancelReason.CANCELLED, outcomes.Cancelled("because")),
        ("fail", CancelReason.SHUTDOWN, Released()),
        ("fail", CancelReason.LOCK_LOST, LockLost()),
        ("snooze", CancelReason.TIMEOUT, Snoozed(1_000)),
        ("snooze", CancelReason.SHUTDOWN, Snoozed(1_000)),
        ("snooze", CancelReason.CANCELLED, outcomes.Cancelled("because")),
        ("snooze", CancelReason.LOCK_LOST, LockLost()),
    ],
)
async def test_what_a_cancelled_handler_does_decides_with_the_reason(
    then: str, reason: CancelReason, expected: Outcome
) -> None:
    outcome = await cancelled(then, reason)
    if isinstance(outcome, Retried):
        failure = outcome.failure
        outcome = Retried(Failure(failure.error_type, failure.reason, ""), outcome.delay_ms, outcome.timed_out)
    assert outcome == expected


async def test_an_attempt_that_was_cancelled_before_it_began_does_not_run() -> None:
    job = job_of()
    job.scope.cancel(CancelReason.CANCELLED, "early")

    async def never() -> None:
        raise AssertionError

    assert await run(registered(never), job) == outcomes.Cancelled("early")


async def test_a_cancellation_that_the_scope_did_not_order_passes_through() -> None:
    patient = Patient("raise")
    async with asyncio.timeout(60):
        task = asyncio.create_task(execution.run_attempt(registered(patient), job_of(), executors=Executors()))
        await patient.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_one_from_outside_passes_through_a_scope_that_was_cancelled_too() -> None:
    patient = Patient("raise")
    job = job_of()
    async with asyncio.timeout(60):
        task = asyncio.create_task(execution.run_attempt(registered(patient), job, executors=Executors()))
        await patient.started.wait()
        job.scope.cancel(CancelReason.TIMEOUT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_timeout_of_the_handlers_own_is_an_ordinary_error() -> None:
    async def hurried() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    outcome = await run(registered(hurried))
    assert isinstance(outcome, Retried)
    assert (outcome.failure.error_type, outcome.timed_out) == ("TimeoutError", False)


async def test_a_thread_is_told_and_never_interrupted() -> None:
    started, told = threading.Event(), threading.Event()

    def patient(ctx: SyncContext[None]) -> str:
        started.set()
        told.wait(20)
        ctx.raise_if_cancelled()
        return "never"

    def stubborn() -> str:
        started.set()
        told.wait(20)
        return "done"

    for function, expected in [(patient, Released()), (stubborn, DONE)]:
        started.clear()
        told.clear()
        job = job_of()
        async with asyncio.timeout(60):
            task = asyncio.create_task(execution.run_attempt(registered(function), job, executors=Executors()))
            await asyncio.to_thread(started.wait, 20)
            job.scope.cancel(CancelReason.SHUTDOWN)
            await asyncio.sleep(0)
            assert not task.done()
            told.set()
            assert await task == expected
