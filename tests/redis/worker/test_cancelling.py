"""Jobs that were cancelled, and do not stop for it."""

import asyncio
import threading
import time

import pytest

from bullpen import CancelReason, Handlers
from bullpen.handling.catalogue import Catalogue
from bullpen.queue.operations.jobs import CancelJob
from bullpen.queue.policy import BUILT_IN
from bullpen_worker.running.admission import Admission
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Templates
from bullpen_worker.supervision import settlement
from bullpen_worker.supervision.control import Ticket
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually

TOKEN = "0123456789abcdef:000000001"


async def order_to_cancel(room: Room, job_id: str) -> None:
    [call] = CancelJob(room.keys, job_id, "no need", 1, {"count": -1}).commands()
    assert await room.link.eval(call.script, call.keys, (*call.args, *call.more_args)) == b"told"  # type: ignore[union-attr]


async def test_one_that_a_stopping_worker_leaves_behind_is_cancelled_and_not_given_back(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    go = threading.Event()

    @q.handler("deaf")
    def deaf() -> None:
        go.wait(60)

    job_id = await room.add("deaf")
    try:
        async with room.make(q, concurrency=1, hooks=ends) as engine:
            running = asyncio.create_task(engine.run())
            await eventually(lambda: engine.busy)
            assert engine.cancel(job_id, CancelReason.CANCELLED, "no need")
            engine.stop(0)
            async with asyncio.timeout(60):
                await running
    finally:
        go.set()
    assert ends.outcomes() == ["cancelled"]
    assert (await room.becomes(job_id, "failed"))["failedReason"] == "cancelled: no need"


@pytest.mark.parametrize("is_for_it", [True, False], ids=["its own", "of another job that had its id"])
async def test_one_whose_process_was_killed_for_its_time_is_cancelled_as_ordered(room: Room, is_for_it: bool) -> None:
    q = Handlers("q")

    @q.handler("slow", attempts=2, timeout="2s")
    async def slow() -> None: ...

    line = Line(room.link)
    pack = Templates(room.keys, worker_name="host@0123456789ab", lock_ms=10_000, metrics_points=0)
    admission = Admission(catalogue=Catalogue([q], "q"), policy=BUILT_IN, pack=pack)
    job_id = await room.add("slow")
    connection = await line.ready()
    await connection.call(pack.fetch(TOKEN.encode(), int(time.time() * 1000)))
    await order_to_cancel(room, job_id)
    if not is_for_it:
        await room.link.call("HSET", room.keys.job(job_id), "timestamp", 1_795_000_000_000)
    async with asyncio.timeout(30):
        end = await settlement.end_overdue(Ticket(job_id, TOKEN), line=line, pack=pack, admission=admission)
    assert end is not None
    assert end.outcome == ("cancelled" if is_for_it else "timeout")
    fields = await room.becomes(job_id, "failed" if is_for_it else "delayed")
    assert fields["failedReason"] == ("cancelled: no need" if is_for_it else "timed out after 2s")
