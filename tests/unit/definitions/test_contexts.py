"""What a handler sees of its job, and how an attempt is cancelled."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from bullpen import CancelReason, Context, JobSignal, SyncContext
from bullpen.handling.contexts import ActiveJob, AttemptCancelled, CancelScope
from bullpen.options import Backoff
from bullpen.retry import Policy


class Services:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.progressed: list[str] = []
        self.lines: list[str] = []
        self.client: Any = "async client"
        self.sync_client: Any = "blocking client"

    def progress(self, value_json: str) -> None:
        self.progressed.append(value_json)

    def log(self, line: str) -> None:
        self.lines.append(line)


def active(services: Services | None = None, **fields: Any) -> ActiveJob:
    values: dict[str, Any] = {
        "id": "1",
        "name": "welcome",
        "queue": "emails",
        "data": b'{"userId":7}',
        "attempt": 2,
        "retry": Policy(5, Backoff.immediate()),
        "services": services or Services(),
    }
    return ActiveJob(**{**values, **fields})


def test_the_job_as_it_was_when_the_attempt_started() -> None:
    job = active(
        deps="deps",
        fence=3,
        snoozes=4,
        priority=5,
        enqueued_at_ms=1_000,
        started_at_ms=2_500,
        deadline_ms=62_500,
        progress_json="10",
    )
    ctx: Context[str] = Context(job)
    assert (ctx.name, ctx.queue, ctx.deps, ctx.fence, ctx.client) == ("welcome", "emails", "deps", 3, "async client")
    assert ctx.deadline == datetime(1970, 1, 1, 0, 1, 2, 500_000, tzinfo=UTC)
    info = ctx.job
    assert (info.id, info.name, info.queue, info.state) == ("1", "welcome", "emails", "active")
    assert (info.attempt, info.attempts, info.snoozes, info.priority) == (2, 5, 4, 5)
    assert (info.data, info.progress) == ({"userId": 7}, 10)
    assert info.enqueued_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert info.started_at == datetime(1970, 1, 1, 0, 0, 2, 500_000, tzinfo=UTC)
    assert ctx.jobs == (info,)
    assert ctx.job is info


def test_a_job_without_deadline_or_readable_data() -> None:
    ctx: SyncContext[None] = SyncContext(active(data="nonsense"))
    assert ctx.deadline is None
    assert ctx.job.data is None
    assert ctx.client == "blocking client"


@pytest.mark.parametrize(("value", "text"), [(10, "10"), (0.5, "0.5"), ({"done": 1}, '{"done":1}')])
def test_progress_is_json(value: Any, text: str) -> None:
    services = Services()
    Context[None](active(services)).progress(value)
    assert services.progressed == [text]


@pytest.mark.parametrize("value", [float("nan"), {"a": b""}, object(), {1: 2}])
def test_progress_that_is_no_json_is_refused(value: Any) -> None:
    services = Services()
    with pytest.raises(ValueError, match="progress: "):
        Context[None](active(services)).progress(value)
    assert not services.progressed


def test_log_lines_have_fields_and_an_end() -> None:
    services = Services()
    ctx: SyncContext[None] = SyncContext(active(services))
    ctx.log("seen", keys=("a", "b"), n=1, why="no reason")
    ctx.log("x" * 100_000)
    assert services.lines[0] == 'seen keys=["a","b"] n=1 why="no reason"'
    assert len(services.lines[1]) == 16_384
    with pytest.raises(ValueError, match="when: object is not a JSON type"):
        ctx.log("seen", when=object())  # type: ignore[arg-type]


# -- cancellation ------------------------------------------------------------


def test_a_context_tells_why_and_raises_what_except_exception_does_not_swallow() -> None:
    job = active()
    ctx: SyncContext[None] = SyncContext(job)
    ctx.raise_if_cancelled()
    assert ctx.cancelled is None
    assert job.scope.cancel(CancelReason.TIMEOUT)
    assert ctx.cancelled is CancelReason.TIMEOUT
    with pytest.raises(AttemptCancelled) as caught:
        ctx.raise_if_cancelled()
    assert caught.value.reason is CancelReason.TIMEOUT
    assert isinstance(caught.value, JobSignal)
    assert not isinstance(caught.value, Exception)


def test_the_first_reason_stands_but_a_lost_lock_overrules() -> None:
    scope = CancelScope()
    assert scope.cancel(CancelReason.CANCELLED, "closed")
    assert not scope.cancel(CancelReason.TIMEOUT, "late")
    assert (scope.reason, scope.text) == (CancelReason.CANCELLED, "closed")
    assert not scope.cancel(CancelReason.LOCK_LOST)
    assert scope.reason is CancelReason.LOCK_LOST


async def test_the_task_is_interrupted_once_so_that_it_can_clean_up() -> None:
    scope = CancelScope()
    cleaned: list[str] = []
    started = asyncio.Event()

    async def work() -> None:
        scope.enter(asyncio.current_task())
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            scope.cancel(CancelReason.SHUTDOWN)
            await asyncio.sleep(0)
            cleaned.append("all of it")
            raise

    async with asyncio.timeout(60):
        task = asyncio.create_task(work())
        await started.wait()
        scope.cancel(CancelReason.TIMEOUT)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cleaned == ["all of it"]


async def test_a_scope_that_was_left_interrupts_nothing() -> None:
    scope = CancelScope()
    task = asyncio.current_task()
    assert task is not None
    scope.enter(task)
    scope.leave()
    scope.cancel(CancelReason.TIMEOUT)
    await asyncio.sleep(0)
    assert not task.cancelling()
    assert not scope.delivered
