"""Redis refuses for good to write what became of a job: the job fails with a message of its own, is not lost, and not run again."""

import asyncio
import contextlib
import dataclasses
import logging
import re
from collections.abc import AsyncIterator

import pytest

from bullpen import Backoff, Handlers, NonRetryableError, Snooze
from bullpen.queue.policy import BUILT_IN, Recovery
from bullpen_worker.running import delivery
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually

WRONG = "Redis refuses to write that"


class Work:
    """A handler that waits until the queue's keys are broken."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.go = asyncio.Event()
        self.runs = 0
        self.handlers = Handlers("q")

        @self.handlers.handler("work", attempts=5, backoff=Backoff.fixed("1h"))
        async def work() -> str:
            self.runs += 1
            await self.go.wait()
            if error is not None:
                raise error
            return "done"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MOST_REFUSALS", 3)


async def broken(room: Room, *keys: str) -> None:
    for key in keys:
        await room.link.call("DEL", room.keys.base + key)
        await room.link.call("SET", room.keys.base + key, "not what it should be")


@pytest.mark.parametrize(
    ("key", "error", "was"),
    [
        ("completed", None, "completed"),
        ("events", None, "completed"),
        ("delayed", ValueError("no"), "retried"),
        ("delayed", Snooze("1h"), "released"),
    ],
)
async def test_a_job_whose_end_is_refused_fails_and_says_why(
    room: Room, ends: Ends, caplog: pytest.LogCaptureFixture, key: str, error: BaseException | None, was: str
) -> None:
    work = Work(error)
    job_id = await room.add("work")
    async with room.engine(work.handlers, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: engine.busy)
        await broken(room, key)
        work.go.set()
        await eventually(lambda: ends.ends, 10)
        await room.link.call("DEL", room.keys.base + key)
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"].startswith(f"its attempt ended as {was}, and {WRONG}: ")
    assert "WRONGTYPE" in fields["failedReason"]
    assert (fields["ats"], fields["atm"], fields["bullpen:error"]) == ("1", "1", '{"type":"bullpen.EndRefused"}')
    assert "defa" not in fields
    assert fields["finishedOn"]
    assert work.runs == 1
    assert ends.outcomes() == ["failed"]
    assert await room.locks() == 0
    assert any(WRONG in record.message and record.levelno == logging.ERROR for record in caplog.records)


async def test_a_job_that_cannot_even_fail_is_kept_and_its_handler_is_not_called_again(room: Room, ends: Ends) -> None:
    work = Work()
    job_id = await room.add("work")
    async with room.engine(work.handlers, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: engine.busy)
        await broken(room, "completed", "failed")
        work.go.set()
        await eventually(lambda: ends.ends, 10)

        async def kept() -> bool:
            lists = [await room.link.call("LRANGE", key, 0, -1) for key in (room.keys.active, room.keys.wait)]
            return [job_id.encode()] in lists

        # An ack that is refused takes it out for a moment, each time.
        await eventually(kept)
        fields = await room.fields(job_id)
        assert WRONG in fields["defa"]
        await room.link.call("DEL", room.keys.failed, room.keys.completed)
        fields = await room.becomes(job_id, "failed", 15)
    assert WRONG in fields["failedReason"]
    assert work.runs == 1
    *before, last = ends.outcomes()
    assert (set(before), last) == ({"lock_lost"}, "failed")


async def test_a_job_that_has_failed_anyway_keeps_its_own_reason(room: Room, ends: Ends) -> None:
    work = Work(NonRetryableError("no such card"))
    job_id = await room.add("work")
    async with room.engine(work.handlers, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: engine.busy)
        await broken(room, "events")
        work.go.set()
        await eventually(lambda: ends.ends, 10)
        await room.link.call("DEL", room.keys.events)
        fields = await room.becomes(job_id, "failed")
    assert (fields["failedReason"], fields["atm"]) == ("no such card", "1")
    assert fields["bullpen:error"] == '{"type":"bullpen.NonRetryableError"}'


async def test_what_is_refused_for_a_while_is_written_in_the_end(
    room: Room, ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "MOST_REFUSALS", 50)
    work = Work()
    job_id = await room.add("work")
    async with room.engine(work.handlers, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: engine.busy)
        await broken(room, "completed")
        work.go.set()

        await eventually(lambda: "is active again" in caplog.text)
        assert not ends.ends
        await room.link.call("DEL", room.keys.completed)
        fields = await room.becomes(job_id, "completed")
    assert (fields["returnvalue"], fields["atm"]) == ('"done"', "1")
    assert ends.outcomes() == ["completed"]
    assert work.runs == 1


@contextlib.asynccontextmanager
async def configured(room: Room, name: str, value: str) -> AsyncIterator[None]:
    await room.link.call("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        await room.link.call("CONFIG", "SET", name, "0")


def full(room: Room) -> contextlib.AbstractAsyncContextManager[None]:
    return configured(room, "maxmemory", "1000")


def without_replicas(room: Room) -> contextlib.AbstractAsyncContextManager[None]:
    return configured(room, "min-replicas-to-write", "1")


@pytest.mark.parametrize("error", [None, ValueError("no"), NonRetryableError("no"), Snooze("1h")])
async def test_a_full_redis_takes_the_ends_of_jobs_from_a_worker_that_takes_no_more(
    room: Room, ends: Ends, error: BaseException | None
) -> None:
    work = Work(error)
    job_id = await room.add("work")
    async with room.engine(work.handlers, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: engine.busy)
        engine.hold()
        async with full(room):
            work.go.set()
            await eventually(lambda: ends.ends, 10)
    state = "completed" if error is None else "failed" if isinstance(error, NonRetryableError) else "delayed"
    assert await room.state(job_id) == state
    assert work.runs == 1
    assert "lock_lost" not in ends.outcomes()
    assert await room.locks() == 0


async def test_a_full_redis_takes_back_what_a_worker_that_stops_had(room: Room, ends: Ends) -> None:
    work = Work()
    job_id = await room.add("work")
    async with room.engine(work.handlers, hooks=ends, concurrency=1) as engine:
        await eventually(lambda: engine.busy)
        async with full(room):
            engine.stop(0)
            await eventually(lambda: ends.ends, 10)
            assert await room.state(job_id) == "wait"
    assert ends.outcomes() == ["released"]
    assert "atm" not in await room.fields(job_id)


async def test_a_result_waits_for_a_redis_that_takes_no_writes(
    room: Room, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis discards the transaction of a worker that takes no more jobs, and says why before that."""
    work = Work()
    job_id = await room.add("work")
    policy = dataclasses.replace(BUILT_IN, recovery=Recovery(lock_duration_ms=60_000))
    async with room.engine(work.handlers, hooks=ends, concurrency=1, policy=policy) as engine:
        await eventually(lambda: engine.busy)
        engine.hold()
        async with without_replicas(room):
            before = await refusals(room, "NOREPLICAS")
            work.go.set()

            async def often() -> bool:
                return await refusals(room, "NOREPLICAS") > before + 2 * delivery.MOST_REFUSALS

            await eventually(often, 20)
            assert not ends.ends
        fields = await room.becomes(job_id, "completed", 20)
    assert (fields["returnvalue"], fields["atm"]) == ('"done"', "1")
    assert ends.outcomes() == ["completed"]
    assert work.runs == 1
    assert not any(WRONG in record.message for record in caplog.records)


async def refusals(room: Room, code: str) -> int:
    """How often Redis has answered with this error."""
    said = str(await room.link.call("INFO", "errorstats"))
    found = re.search(rf"errorstat_{code}:count=(\d+)", said)
    return int(found[1]) if found else 0
