"""What the jobs of a worker share, and what none leaves to the next: dependencies, context variables, cancellations of its own."""

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import AsyncGenerator

import pytest

from bullpen import Context, Handlers, SyncContext
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually


async def test_dependencies_are_there_for_handlers_and_closed_afterwards(room: Room, ends: Ends) -> None:
    order: list[str] = []

    @contextlib.asynccontextmanager
    async def deps() -> AsyncGenerator[str]:
        order.append("open")
        yield "tool"
        order.append("closed")

    q = Handlers("q", lifespan=deps)

    @q.handler("use")
    async def use(ctx: Context[str]) -> str:
        order.append(ctx.deps)
        return ctx.deps

    @q.handler("sync")
    def sync(ctx: SyncContext[str]) -> str:
        return ctx.deps

    one, two = await room.add("use"), await room.add("sync")
    async with room.engine(q, hooks=ends):
        await room.becomes(one, "completed")
        fields = await room.becomes(two, "completed")
    assert order == ["open", "tool", "closed"]
    assert fields["returnvalue"] == '"tool"'


@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_that_cancels_its_task_and_returns_has_completed(room: Room, ends: Ends, waits: bool) -> None:
    work = Handlers()

    @work.handler("work")
    async def run() -> None:
        if waits:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with room.engine(work, hooks=ends, concurrency=1):
        for _ in range(3):
            await room.add("work")
        await eventually(lambda: len(ends.ends) == 3)
    assert ends.outcomes() == ["completed"] * 3
    assert await room.counts() == {"completed": 3}


async def test_a_handler_that_cancels_its_own_task_has_failed(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("odd", attempts=1)
    async def odd() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @q.handler("plain")
    async def plain() -> None: ...

    one, two = await room.add("odd"), await room.add("plain")
    async with room.engine(q, hooks=ends, concurrency=1):
        fields = await room.becomes(one, "failed")
        await room.becomes(two, "completed")
    assert "cancelled, and not by the worker" in fields["failedReason"]


async def test_nothing_of_one_job_reaches_the_next(room: Room, ends: Ends) -> None:
    left: contextvars.ContextVar[str] = contextvars.ContextVar("left", default="nothing")
    q = Handlers("q")
    tasks: list[asyncio.Task[object] | None] = []

    @q.handler("sets")
    async def sets() -> str:
        tasks.append(asyncio.current_task())
        found = left.get()
        left.set("something")
        return found

    @q.handler("waits")
    async def waits() -> str:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return left.get()

    @q.handler("plain")
    async def plain() -> str:
        tasks.append(asyncio.current_task())
        return left.get()

    ids = [await room.add(name) for name in ("sets", "sets", "waits", "plain", "plain", "sets", "plain")]
    async with room.engine(q, hooks=ends, concurrency=1):
        await room.idle(ends, len(ids))
    results = [(await room.fields(job_id))["returnvalue"] for job_id in ids]
    assert results == ['"nothing"'] * len(ids)
    # A task is handed on only by a handler that never waited and left every variable as it was.
    assert [before is after for before, after in itertools.pairwise(tasks)] == [
        False, False, False, True, True, False,
    ]  # fmt: skip


class Sore:
    """A value that cannot be compared, as arrays cannot."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of this is ambiguous")

    __hash__ = None  # type: ignore[assignment]


async def test_a_context_variable_may_hold_what_cannot_be_compared(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    kept: contextvars.ContextVar[Sore] = contextvars.ContextVar("kept")
    before = kept.set(Sore())
    found = []

    @q.handler("quick")
    async def quick() -> None:
        found.append(kept.get())
        kept.set(Sore())

    for _ in range(3):
        await room.add("quick")
    async with room.engine(q, hooks=ends, concurrency=1):
        await room.idle(ends, 3)
    assert ends.outcomes() == ["completed"] * 3
    assert len({id(each) for each in found}) == 1  # nothing of a job reaches the next
    kept.reset(before)


@pytest.mark.parametrize("slots", [1, 50])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_whose_task_is_cancelled_after_it_has_returned_costs_neither_slot_nor_job(
    room: Room, ends: Ends, waits: bool, slots: int
) -> None:
    """As by a timer of its own that it forgot: the cancellation meets the ack."""
    q = Handlers("q")

    @q.handler("forgets")
    async def forgets() -> None:
        if waits:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)

    @q.handler("plain")
    async def plain() -> None: ...

    ids = [await room.add(name) for name in ("forgets", "plain", "forgets", "forgets", "plain")]
    async with room.engine(q, hooks=ends, concurrency=1, slots=slots) as engine:
        await room.idle(ends, len(ids))
        await eventually(lambda: not engine.busy)
    assert ends.outcomes() == ["completed"] * len(ids)
    assert await room.counts() == {"completed": len(ids)}
    assert {(await room.fields(job_id))["atm"] for job_id in ids} == {"1"}
    assert await room.locks() == 0
