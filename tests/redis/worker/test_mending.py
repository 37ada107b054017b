"""Jobs that BullMQ's scripts cannot live with: mended, run, and no reason to stop."""

import asyncio

import pytest

from bullpen import Handlers
from bullpen.redis.failures import ReplyError
from bullpen_worker.running import mending
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually

PARENT = b'{"id":"1","queueKey":"bull:other"}'


@pytest.mark.parametrize(
    ("fields", "unfit"),
    [
        ({}, []),
        ({b"ats": b"1", b"atm": b"0", b"stc": b"-3", b"parent": PARENT}, []),
        ({b"ats": b"", b"atm": b"1.5", b"stc": b"9" * 30}, [b"ats", b"atm", b"stc"]),
        ({b"ats": b" 1", b"atm": b"01", b"stc": b"\xff"}, [b"ats", b"atm", b"stc"]),
        ({b"parent": b""}, [b"parent"]),
        ({b"parent": b"{}"}, [b"parent"]),
        ({b"parent": b'{"id":1,"queueKey":"x"}'}, [b"parent"]),
        ({b"parent": b"[" * 200_000}, [b"parent"]),
    ],
)
def test_what_the_scripts_would_fail_at(fields: dict[bytes, bytes], unfit: list[bytes]) -> None:
    assert mending.unfit(fields) == unfit


def handlers() -> Handlers[None]:
    q = Handlers("q")

    @q.handler("work")
    async def work() -> None: ...

    return q


@pytest.mark.parametrize("field", ["ats", "atm", "stc", "parent"])
async def test_a_job_with_a_broken_field_runs_once_and_completes(room: Room, ends: Ends, field: str) -> None:
    job = await room.add("work")
    await room.link.call("HSET", room.keys.job(job), field, "x")
    after = await room.add("work")
    async with room.engine(handlers(), hooks=ends, concurrency=1):
        await room.becomes(job, "completed")
        await room.becomes(after, "completed")
    assert sorted(end.job_id for end in ends.ends) == [job, after]
    fields = await room.fields(job)
    assert (fields["ats"], fields["atm"], fields.get("stc")) == ("1", "1", None)
    assert await room.locks() == 0


@pytest.mark.parametrize("field", ["timestamp", "bullpen:due", "processedOn", "bullpen:snoozes", "priority"])
async def test_numbers_of_thousands_of_digits_end_nothing(room: Room, ends: Ends, field: str) -> None:
    job = await room.add("work")
    await room.link.call("HSET", room.keys.job(job), field, "9" * 5_000)
    async with room.engine(handlers(), hooks=ends):
        await room.becomes(job, "completed")
    assert ends.outcomes() == ["completed"]


async def test_an_ack_that_brings_a_broken_job_is_written_once(room: Room, ends: Ends) -> None:
    """The job before it has completed though Redis answered with an error; the broken one follows."""
    jobs = [await room.add("work") for _ in range(3)]
    await room.link.call("HSET", room.keys.job(jobs[1]), "ats", "x")
    async with room.engine(handlers(), hooks=ends, concurrency=1):
        for job in jobs:
            fields = await room.becomes(job, "completed")
            assert fields["atm"] == "1"
    assert ends.outcomes() == ["completed"] * 3


async def test_what_is_no_job_leaves_the_queue_and_keeps_its_key(room: Room, ends: Ends) -> None:
    await room.link.call("SET", room.keys.job("somebody's"), "own")
    await room.link.call("LPUSH", room.keys.wait, "somebody's")
    job = await room.add("work")
    async with room.engine(handlers(), hooks=ends):
        await room.becomes(job, "completed")

        async def gone() -> bool:
            return await room.counts() == {"completed": 1}

        await eventually(gone)
    assert await room.link.call("GET", room.keys.job("somebody's")) == b"own"
    assert await room.locks() == 0


async def test_a_queue_that_cannot_be_fetched_from_ends_the_engine(room: Room, ends: Ends) -> None:
    """No job is at fault, so no waiting helps."""
    await room.link.call("SET", room.keys.wait, "no list")
    async with room.make(handlers(), concurrency=1) as engine:
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            await asyncio.wait_for(engine.run(), 10)
