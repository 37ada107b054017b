"""How a worker stops, and what becomes of jobs that it must not, or cannot, run."""

import asyncio
import contextvars
import dataclasses
import itertools
import json
import time

import pytest

from bullpen import Context, Handlers, SyncContext
from bullpen.handling.contexts import CancelReason
from bullpen.queue.policy import BUILT_IN
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually

TOKEN = "abcdefabcdefabcd:000000001"


async def test_stop_lets_what_fits_finish_and_gives_the_rest_back_unspent(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    reasons: list[CancelReason | None] = []

    @q.handler("nap")
    async def nap(ctx: Context[None], seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            reasons.append(ctx.cancelled)

    short, long = await room.add("nap", {"seconds": 0.2}), await room.add("nap", {"seconds": 30})
    urgent = await room.add("nap", {"seconds": 30}, {"priority": 4})
    async with room.make(q, concurrency=3, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 3)
        waiting = await room.add("nap", {"seconds": 0})
        began = time.monotonic()
        engine.stop(600)
        await running
        assert 0.5 < time.monotonic() - began < 3
    assert await room.state(short) == "completed"
    assert await room.counts() == {"completed": 1, "wait": 2, "prioritized": 1}
    assert await room.link.call("LRANGE", room.keys.wait, 0, -1) == [waiting.encode(), long.encode()]  # at the front
    for job_id in (long, urgent):
        fields = await room.fields(job_id)
        assert "atm" not in fields
        assert "stc" not in fields
    assert await room.locks() == 0
    assert await room.link.call("ZSCORE", room.keys.marker, "0") == b"0"
    assert sorted(ends.outcomes()) == ["completed", "released", "released"]
    assert reasons == [None, CancelReason.SHUTDOWN, CancelReason.SHUTDOWN]


async def test_a_second_stop_ends_at_once(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("nap")
    async def nap() -> None:
        await asyncio.sleep(30)

    await room.add("nap")
    async with room.make(q, concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 1)
        engine.stop(60_000)
        engine.stop(0)
        async with asyncio.timeout(3):
            await running
    assert await room.counts() == {"wait": 1}


async def test_a_handler_that_does_not_end_is_given_back_all_the_same(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    release = asyncio.Event()

    @q.handler("deaf")
    async def deaf() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    job_id = await room.add("deaf")
    async with room.make(q, concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 1)
        engine.stop(0)
        await eventually(lambda: ends.ends, 10)
        release.set()
        async with asyncio.timeout(8):
            await running
    assert await room.state(job_id) == "wait"
    assert "atm" not in await room.fields(job_id)
    assert await room.locks() == 0


async def test_a_cancelled_run_gives_back_too(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("nap")
    async def nap() -> None:
        await asyncio.sleep(30)

    await room.add("nap")
    async with room.make(q, concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.busy == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert await room.counts() == {"wait": 1}
    assert await room.locks() == 0


async def test_an_unknown_name_waits_unspent_and_then_fails(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("known")
    async def known() -> None: ...

    job_id = await room.add("unheard")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "delayed")
    assert fields["delay"] == "30000"
    assert "atm" not in fields
    since = int(fields["bullpen:unknown"])
    assert abs(since - time.time() * 1000) < 5000
    assert ends.outcomes() == ["released"]
    # an hour later, as far as the job can tell
    await room.link.call("HSET", room.keys.job(job_id), "bullpen:unknown", since - 3_600_001)
    await room.link.call("ZADD", room.keys.delayed, 1, job_id)
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert "no handler of this worker knows the name 'unheard'" in fields["failedReason"]
    assert json.loads(fields["bullpen:error"]) == {"type": "bullpen.UnknownJob"}


async def test_a_newer_payload_waits_for_a_newer_worker(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("versioned", version=1)
    async def versioned() -> None: ...

    job_id = await room.add("versioned", opts={"bullpen": {"p": 1, "v": 2}})
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "delayed")
    assert "bullpen:unknown" in fields


async def test_a_deferred_failure_fails_without_running_even_a_suspect(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("crasher", attempts=5)
    async def crasher() -> None:
        raise AssertionError

    job_id = await room.add("crasher")
    await room.link.call("HSET", room.keys.job(job_id), "defa", "quarantined: 3 crashes", "bullpen:suspect", "1")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"] == "quarantined: 3 crashes"
    assert not ends.suspects


async def test_a_suspect_is_handed_over_with_its_lock(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("suspect")
    async def suspect() -> str:
        return "alive"

    job_id = await room.add("suspect")
    await room.link.call("HSET", room.keys.job(job_id), "bullpen:suspect", "1")
    ends.takes_suspects = True
    async with room.engine(q, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: ends.suspects)
        (handed, token) = ends.suspects[0]
        assert handed == job_id
        await eventually(lambda: engine.busy == 0)
        assert not engine.table.views()
        assert await room.state(job_id) == "active"
        assert await room.link.call("GET", room.keys.lock(job_id)) == token.encode()
        other = await room.add("suspect")
        await room.becomes(other, "completed")  # under another token
    assert await room.state(job_id) == "active"
    alone = Ends()
    async with room.make(q, concurrency=1, hooks=alone) as solo:
        await solo.run_one(job_id, token)
    assert await room.state(job_id) == "completed"
    assert alone.outcomes() == ["completed"]


async def test_a_suspect_whose_id_is_no_text_is_handed_over_too(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("suspect")
    async def suspect() -> str:
        return "ran"

    job_id, key = b"\xff1", room.keys.base.encode() + b"\xff1"
    await room.link.call("HSET", key, "name", "suspect", "data", "{}", "opts", "{}", "bullpen:suspect", "1")
    await room.link.call("LPUSH", room.keys.wait, job_id)
    ends.takes_suspects = True
    async with room.engine(q, hooks=ends):
        await eventually(lambda: ends.suspects)
    handed, token = ends.suspects[0]
    assert await room.link.call("GET", key + b":lock") == token.encode()
    async with room.make(q, concurrency=1, hooks=ends, slots=1) as alone:
        await alone.run_one(handed, token)
    assert await room.link.call("ZSCORE", room.keys.completed, job_id) is not None


async def test_without_anybody_to_take_it_a_suspect_runs_here(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("suspect")
    async def suspect() -> None: ...

    job_id = await room.add("suspect")
    await room.link.call("HSET", room.keys.job(job_id), "bullpen:suspect", "1")
    async with room.engine(q, hooks=ends):
        await room.becomes(job_id, "completed")


async def test_a_solo_run_of_a_job_that_is_gone_returns(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("any")
    async def handle() -> None: ...

    async with room.make(q, concurrency=1, hooks=ends) as solo, asyncio.timeout(5):
        await solo.run_one("gone", TOKEN)


async def test_a_lost_lock_voids_the_result(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    seen: list[CancelReason | None] = []

    @q.handler("long")
    async def long(ctx: Context[None]) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            seen.append(ctx.cancelled)

    job_id = await room.add("long")
    async with room.engine(q, hooks=ends) as engine:
        (view,) = await eventually(engine.table.views)
        await eventually(lambda: engine.busy)
        engine.lock_lost(view.slot, view.generation - 1)  # of an earlier run: nothing happens
        engine.lock_lost(view.slot, view.generation)
        await room.idle(ends, 1)
    assert ends.outcomes() == ["lock_lost"]
    assert seen == [CancelReason.LOCK_LOST]
    assert await room.state(job_id) == "active"  # nothing was written
    assert "returnvalue" not in await room.fields(job_id)


async def test_an_ack_that_finds_a_foreign_lock_writes_nothing(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    go = asyncio.Event()

    @q.handler("stolen")
    async def stolen() -> None:
        await go.wait()

    job_id = await room.add("stolen")
    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.busy)
        await room.link.call("SET", room.keys.lock(job_id), "somebody else")
        go.set()
        await room.idle(ends, 1)
    assert ends.outcomes() == ["lock_lost"]
    assert await room.state(job_id) == "active"


async def test_a_job_removed_while_it_runs_is_void(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    go = asyncio.Event()

    @q.handler("gone")
    async def gone() -> None:
        await go.wait()

    job_id = await room.add("gone")
    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.busy)
        await room.link.call("DEL", room.keys.job(job_id))
        go.set()
        await room.idle(ends, 1)
        assert ends.outcomes() == ["lock_lost"]
        other = await room.add("gone")
        await room.becomes(other, "completed")


async def test_a_job_with_an_id_too_long_for_the_slot_table_fails_with_a_reason(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("any")
    async def handle() -> None: ...

    job_id = await room.add("any", job_id="x" * 3000)
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert "id is too long" in fields["failedReason"]


async def test_a_parent_completed_before_its_children_fails(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("parent")
    async def parent() -> None: ...

    job_id = await room.add("parent")
    await room.link.call("SADD", f"{room.keys.job(job_id)}:dependencies", "some child")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert "children of its job have not ended" in fields["failedReason"]


async def test_dependencies_are_there_for_handlers_and_closed_afterwards(room: Room, ends: Ends) -> None:
    import contextlib
    from collections.abc import AsyncGenerator

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


async def test_a_new_policy_holds_from_the_next_job_on(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("slow")
    async def slow() -> None:
        await asyncio.sleep(30)

    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.table.last_fetch_ms)
        engine.apply_policy(dataclasses.replace(BUILT_IN, timeout_ms=30))
        await room.add("slow")
        await room.idle(ends, 1)
    assert ends.outcomes() == ["timeout"]


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


async def test_stopping_at_any_moment_leaves_nothing_active(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("quick")
    async def quick() -> None: ...

    await room.add_many("quick", 1500)
    for round_ in range(15):
        async with room.make(q, concurrency=1 + round_ % 4, hooks=ends) as engine:
            running = asyncio.create_task(engine.run())
            before = len(ends.ends)
            await eventually(lambda before=before, more=round_: len(ends.ends) >= before + more * 3, every=0.0005)
            engine.stop(0 if round_ % 2 else 1000)
            await running
        counts = await room.counts()
        assert "active" not in counts
        assert await room.locks() == 0
    async with room.engine(q, hooks=ends, concurrency=10):
        await eventually(lambda: ends.outcomes().count("completed") == 1500, 20)
    assert set(ends.outcomes()) <= {"completed", "released"}


async def test_it_stops_although_redis_was_never_there(ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("any")
    async def handle() -> None: ...

    room = Room("redis://127.0.0.1:1")
    async with room.make(q, concurrency=1, hooks=ends) as engine, asyncio.timeout(10):
        running = asyncio.create_task(engine.run())
        await asyncio.wait([running], timeout=0.1)
        assert not running.done()
        engine.stop(0)
        await running


async def test_a_job_that_arrives_after_the_order_to_stop_goes_back(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("quick")
    async def quick() -> None: ...

    async with room.make(q, concurrency=1, hooks=ends) as engine:
        running = asyncio.create_task(engine.run())
        await eventually(lambda: engine.table.last_fetch_ms)
        engine.hold()
        await eventually(lambda: not engine.table.fetching)
        job_id = await room.add("quick")
        await room.link.call("CLIENT", "PAUSE", 300)
        engine.release()
        await eventually(lambda: engine._lines[0].connection.backlog)  # the fetch is under way
        engine.stop(0)
        await running
    assert await room.state(job_id) == "wait"
    assert await room.locks() == 0
    assert set(ends.outcomes()) <= {"released"}  # none when the order overtook the fetch


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
