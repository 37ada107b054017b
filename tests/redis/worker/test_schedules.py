"""A worker that fetches a scheduler's job writes the scheduler's next run."""

import time

from bullpen import Handlers
from bullpen.queue import schedules
from bullpen.queue.schedules import Schedule
from bullpen.redis.wire import pack_command
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually


async def upsert(room: Room, schedule: Schedule) -> None:
    steps = schedules.upsert(room.keys, schedule, int(time.time() * 1000))
    operation = next(steps)
    try:
        while True:
            replies = [
                await room.link.eval(call.script, call.keys, call.args)
                if hasattr(call, "script")
                else await room.link.send(pack_command(*call.words))
                for call in operation.commands()
            ]
            operation = steps.send(operation.read(replies))
    except StopIteration:
        pass


async def test_an_interval_goes_on(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("sweep")
    async def sweep() -> None: ...

    await upsert(room, Schedule("sweep", "sweep", every_ms=150))
    async with room.engine(q, hooks=ends):
        await room.idle(ends, 4)
    assert set(ends.outcomes()) == {"completed"}
    assert (await room.counts())["delayed"] == 1


async def test_a_schedule_goes_on_though_nobody_knows_its_job(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("other")
    async def other() -> None: ...

    await upsert(room, Schedule("sweep", "unheard", every_ms=150))
    async with room.engine(q, hooks=ends):
        await room.idle(ends, 3)
    assert set(ends.outcomes()) == {"released"}

    async def runs() -> bool:
        found = await room.link.call("KEYS", f"{room.keys.base}repeat:sweep:*")
        return len(found) >= 3  # type: ignore[arg-type]

    await eventually(runs)


async def test_a_pattern_that_cannot_be_read_keeps_its_job_from_nothing(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("report")
    async def report() -> None: ...

    repeat = {"pattern": "not a cron line", "tz": "Nowhere/Land", "count": 1}
    job_id = await room.add("report", opts={"repeat": repeat}, rjk="report")
    async with room.engine(q, hooks=ends):
        await room.becomes(job_id, "completed")
