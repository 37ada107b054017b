"""The end of an attempt whose process was killed for being past its timeout."""

import asyncio
import time
from collections.abc import Mapping

import pytest

from bullpen import Backoff, Handlers
from bullpen.handling.catalogue import Catalogue
from bullpen.queue.policy import BUILT_IN
from bullpen_worker.running.admission import Admission
from bullpen_worker.running.hooks import JobEnd
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Templates
from bullpen_worker.supervision import settlement
from bullpen_worker.supervision.control import Ticket
from tests.redis.worker.conftest import Room
from tests.support.waiting import eventually

TOKEN = "0123456789abcdef:000000001"


class Bench:
    """Jobs that are active, locked with `TOKEN`, and run nowhere."""

    def __init__(self, room: Room) -> None:
        q = Handlers("q")

        @q.handler("slow", attempts=2, backoff=Backoff.fixed("1h"), timeout="2s")
        async def slow() -> None: ...

        self.room = room
        self.line = Line(room.link)
        self.pack = Templates(room.keys, worker_name="host@0123456789ab", lock_ms=10_000, metrics_points=0)
        self.admission = Admission(catalogue=Catalogue([q], "q"), policy=BUILT_IN, pack=self.pack)

    async def active(self, **fields: str) -> Ticket:
        job_id = await self.room.add("slow")
        connection = await self.line.ready()
        await connection.call(self.pack.fetch(TOKEN.encode(), int(time.time() * 1000)))
        for name, value in fields.items():
            await self.room.link.call("HSET", self.room.keys.job(job_id), name, value)
        return Ticket(job_id, TOKEN)

    async def end(self, ticket: Ticket) -> JobEnd | None:
        async with asyncio.timeout(60):
            return await settlement.end_overdue(ticket, line=self.line, pack=self.pack, admission=self.admission)


@pytest.fixture
def bench(room: Room) -> Bench:
    return Bench(room)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "MOST_REFUSALS", 2)


@pytest.mark.parametrize(("made", "state"), [({}, "delayed"), ({"atm": "1"}, "failed")])
async def test_the_attempt_is_spent_and_the_policy_says_what_follows(
    room: Room, bench: Bench, made: Mapping[str, str], state: str
) -> None:
    ticket = await bench.active(**made)
    end = await bench.end(ticket)
    assert end is not None
    assert (end.job_id, end.name, end.outcome, end.attempt) == (ticket.job_id, "slow", "timeout", 1 + len(made))
    assert (end.error, end.reason) == ("bullpen.AttemptTimeout", "timed out after 2s")
    fields = await room.becomes(ticket.job_id, state)
    assert fields["failedReason"] == "timed out after 2s"
    assert fields["atm"] == str(end.attempt)
    assert await room.locks() == 0


async def test_a_job_that_was_removed_meanwhile_is_nobodys(room: Room, bench: Bench) -> None:
    ticket = await bench.active()
    await room.link.call("DEL", room.keys.job(ticket.job_id))
    assert await bench.end(ticket) is None


@pytest.mark.parametrize("lock", [None, "somebody-elses"])
async def test_a_job_that_is_no_longer_ours_is_left_alone(room: Room, bench: Bench, lock: str | None) -> None:
    ticket = await bench.active()
    key = f"{room.keys.job(ticket.job_id)}:lock"
    await (room.link.call("DEL", key) if lock is None else room.link.call("SET", key, lock))
    assert await bench.end(ticket) is None
    assert await room.state(ticket.job_id) == "active"
    assert "failedReason" not in await room.fields(ticket.job_id)


async def test_scripts_that_somebody_flushed_are_loaded_again(room: Room, bench: Bench) -> None:
    ticket = await bench.active()
    await room.link.call("SCRIPT", "FLUSH")
    assert await bench.end(ticket) is not None
    await room.becomes(ticket.job_id, "delayed")


async def test_a_lost_connection_is_waited_for(room: Room, bench: Bench) -> None:
    ticket = await bench.active()
    connection = await room.link.ready()
    ending = asyncio.create_task(bench.end(ticket))
    await asyncio.sleep(0)  # its first command is on its way
    assert connection.backlog
    connection.abort("cut by the test")
    assert await ending is not None
    await room.becomes(ticket.job_id, "delayed")


async def test_a_passing_refusal_is_waited_out(room: Room, bench: Bench) -> None:
    ticket = await bench.active()
    await room.link.call("ACL", "SETUSER", "default", "-evalsha")
    ending = asyncio.create_task(bench.end(ticket))
    try:

        async def refused() -> bool:
            return "evalsha" in str(await room.link.call("ACL", "LOG"))

        await eventually(refused)
        assert not ending.done()
    finally:
        await room.link.call("ACL", "SETUSER", "default", "+evalsha")
        await room.link.call("ACL", "LOG", "RESET")
    assert await ending is not None
    await room.becomes(ticket.job_id, "delayed")


async def test_what_is_refused_for_good_fails_the_job(room: Room, bench: Bench) -> None:
    ticket = await bench.active()
    await room.link.call("SET", room.keys.delayed, "no sorted set")
    end = await bench.end(ticket)
    await room.link.call("DEL", room.keys.delayed)
    assert end is not None
    assert (end.outcome, end.error) == ("failed", "bullpen.EndRefused")
    fields = await room.becomes(ticket.job_id, "failed")
    assert fields["failedReason"].startswith("its attempt ended as timeout, and Redis refuses to write that: ")
    assert (fields["atm"], await room.locks()) == ("1", 0)


async def test_a_job_that_cannot_even_fail_is_kept(room: Room, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ticket = await bench.active(atm="1")
    await room.link.call("SET", room.keys.failed, "no sorted set")
    assert await bench.end(ticket) is None
    await room.link.call("DEL", room.keys.failed)
    assert await room.state(ticket.job_id) == "active"
    assert "Redis refuses" in (await room.fields(ticket.job_id))["defa"]
    assert "left to recovery" in caplog.text
