"""What becomes of jobs that a worker cannot run, and of those that are no longer its own when they end."""

import asyncio
import json
import time

from bullpen import Context, Handlers
from bullpen.handling.contexts import CancelReason
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually


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
