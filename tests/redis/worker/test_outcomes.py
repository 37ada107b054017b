"""Each outcome of API.md's table, as it lies in Redis afterwards."""

import asyncio
import dataclasses
import json
import threading
import time

import pytest

from bullpen import (
    Backoff,
    Cancel,
    Context,
    Handlers,
    NonRetryableError,
    RateLimited,
    RetryableError,
    Snooze,
    SyncContext,
)
from bullpen.handling.contexts import CancelReason
from bullpen.queue.policy import BUILT_IN, Limits
from bullpen.retry import Wish
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually

NEVER = {"removeOnComplete": False, "removeOnFail": False}


async def test_a_completed_job_looks_as_node_would_have_left_it(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("sum")
    async def add(a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}

    job_id = await room.add("sum", {"a": 1, "b": 2})
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "completed")
    assert fields["returnvalue"] == '{"sum":3}'
    assert (fields["atm"], fields["ats"], fields["pb"]) == ("1", "1", "host@0123456789ab")
    assert {"processedOn", "finishedOn"} <= fields.keys()
    assert await room.counts() == {"completed": 1}
    assert await room.locks() == 0
    end = ends.ends[0]
    assert (end.name, end.attempt, end.attempts, end.outcome) == ("sum", 1, 3, "completed")


async def test_a_failing_attempt_is_tried_again_as_the_policy_says_and_fails_for_good(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("bad", attempts=3, backoff=Backoff.fixed("30ms"))
    async def bad() -> None:
        raise ValueError("no good")

    job_id = await room.add("bad")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"] == "no good"
    assert (fields["atm"], fields["ats"]) == ("3", "3")
    assert json.loads(fields["bullpen:error"]) == {"type": "ValueError"}
    traces = json.loads(fields["stacktrace"])
    assert len(traces) == 3
    assert all("ValueError: no good" in trace for trace in traces)
    assert ends.outcomes() == ["retried", "retried", "failed"]
    assert all(0 <= end.wait_ms < 30_000 for end in ends.ends)
    assert await room.counts() == {"failed": 1}


async def test_an_immediate_retry_goes_back_to_wait_at_once(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("bad", attempts=2, backoff=Backoff.immediate())
    async def bad() -> None:
        raise ValueError("no good")

    job_id = await room.add("bad")
    async with room.engine(q, hooks=ends, concurrency=1):
        await room.becomes(job_id, "failed")
    assert ends.outcomes() == ["retried", "failed"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(NonRetryableError("no such card"), "no such card"), (LookupError("gone"), "gone")],
    ids=["NonRetryableError", "give_up_on"],
)
async def test_what_cannot_help_is_not_tried_again(room: Room, ends: Ends, error: Exception, reason: str) -> None:
    q = Handlers("q")

    @q.handler("bad", attempts=5, give_up_on=(LookupError,))
    async def bad() -> None:
        raise error

    job_id = await room.add("bad")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert (fields["failedReason"], fields["atm"]) == (reason, "1")


async def test_a_retryable_error_brings_its_own_delay(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("later", attempts=2)
    async def later() -> None:
        raise RetryableError("busy", delay="1h")

    job_id = await room.add("later")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "delayed")
    assert (fields["delay"], fields["atm"]) == ("3600000", "1")


async def test_a_snooze_spends_no_attempt_and_is_counted(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("nap")
    async def nap(ctx: Context[None]) -> int:
        if ctx.job.snoozes < 2:
            raise Snooze("10ms")
        return ctx.job.attempt

    job_id = await room.add("nap")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "completed")
    assert (fields["bullpen:snoozes"], fields["atm"], fields["ats"], fields["returnvalue"]) == ("2", "1", "3", "1")
    assert ends.outcomes() == ["released", "released", "completed"]


async def test_cancel_ends_the_job_as_cancelled(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("stop")
    async def stop() -> None:
        raise Cancel("account closed")

    job_id = await room.add("stop")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"] == "cancelled: account closed"
    assert ends.outcomes() == ["cancelled"]


async def test_a_running_job_is_cancelled_from_outside(room: Room, ends: Ends) -> None:
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
        await room.becomes(job_id, "active")
        await eventually(lambda: engine.cancel(job_id, CancelReason.CANCELLED, "not wanted"))
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"] == "cancelled: not wanted"
    assert seen == [CancelReason.CANCELLED]
    assert not engine.cancel("nobody", CancelReason.CANCELLED)


@pytest.mark.parametrize("reason", ["half of \ud83d", "x" * 1_000_000, "\ud83d" * 5_000])
async def test_any_reason_to_cancel_can_be_written(room: Room, ends: Ends, reason: str) -> None:
    """Half of a surrogate pair is what remains where Node cuts a text in the middle of an emoji."""
    q = Handlers("q")

    @q.handler("cancels")
    async def cancels() -> None:
        raise Cancel(reason)

    job_id = await room.add("cancels")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    said = fields["failedReason"].removeprefix("cancelled: ")
    assert reason.encode(errors="backslashreplace").decode().startswith(said)
    assert 10 < len(said) < 20_000
    assert ends.outcomes() == ["cancelled"]


async def test_rate_limited_holds_the_whole_queue(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    starts: list[float] = []

    @q.handler("busy")
    async def busy() -> None:
        starts.append(time.monotonic())
        if len(starts) == 1:
            raise RateLimited("300ms")

    first, second = await room.add("busy"), None
    async with room.engine(q, hooks=ends, concurrency=3):
        await room.idle(ends, 1)
        second = await room.add("busy")
        fields = await room.becomes(first, "completed")
        await room.becomes(second, "completed")
    assert (fields["atm"], fields["ats"]) == ("1", "2")
    assert starts[1] - starts[0] >= 0.29
    assert ends.outcomes()[0] == "released"


async def test_a_rate_limit_of_node_s_keeps_its_period_after_a_handler_met_another(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    starts: list[int] = []

    @q.handler("busy")
    async def busy() -> None:
        starts.append(1)
        if len(starts) == 1:
            raise RateLimited("1s")

    await room.link.call("HSET", room.keys.meta, "max", 1, "duration", 3_600_000)
    job_id = await room.add("busy")
    async with room.engine(q, hooks=ends):
        await room.idle(ends, 1)
        await room.becomes(job_id, "completed")
        left = await room.link.call("PTTL", room.keys.limiter)
    assert isinstance(left, int)
    assert left > 3_000_000


async def test_a_short_limit_does_not_end_a_longer_one(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    go = asyncio.Event()

    @q.handler("busy")
    async def busy(delay: str) -> None:
        if delay == "1s":
            await go.wait()
        raise RateLimited(delay)

    await room.add("busy", {"delay": "1s"})
    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.busy)
        await room.add("busy", {"delay": "1m"})
        await room.idle(ends, 1)
        go.set()
        await room.idle(ends, 2)
        left = await room.link.call("PTTL", room.keys.limiter)
    assert isinstance(left, int)
    assert left > 50_000
    assert (await room.counts()) == {"wait": 2}


async def test_an_attempt_past_its_timeout_is_cancelled_and_spent(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("slow", attempts=1, timeout="50ms")
    async def slow() -> None:
        await asyncio.sleep(30)

    job_id = await room.add("slow")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"] == "timed out after 50ms"
    assert ends.outcomes() == ["timeout"]


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


async def test_a_thread_past_its_timeout_keeps_its_slot_until_it_ends(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    ending: list[float] = []

    @q.handler("slow", attempts=1, timeout="50ms")
    def slow(ctx: SyncContext[None]) -> None:
        while ctx.cancelled is None:
            time.sleep(0.005)
        time.sleep(0.1)
        ending.append(time.time())
        ctx.raise_if_cancelled()

    job_id = await room.add("slow")
    async with room.engine(q, hooks=ends, concurrency=1):
        fields = await room.becomes(job_id, "failed")
    assert ends.outcomes() == ["timeout"]
    assert int(fields["finishedOn"]) >= int(ending[0] * 1000)


@pytest.mark.parametrize("way", ["times out", "is cancelled", "is cancelled by a stop"])
async def test_a_thread_that_returns_when_its_time_is_over(room: Room, ends: Ends, way: str) -> None:
    """It ends as it would have ended a moment later; a stop alone lets it count, its work being done."""
    q = Handlers("q")
    over, begun = threading.Event(), threading.Event()

    @q.handler("slow", attempts=1, timeout="50ms" if way == "times out" else "1h")
    def slow(ctx: SyncContext[None]) -> str:
        begun.set()
        while ctx.cancelled is None:
            time.sleep(0.005)
        over.wait(10)
        return "done"

    job_id = await room.add("slow")
    async with room.engine(q, hooks=ends, concurrency=1) as engine:
        await eventually(begun.is_set)
        if way == "is cancelled":
            engine.cancel(job_id, CancelReason.CANCELLED, "not needed")
        elif way == "is cancelled by a stop":
            engine.cancel(job_id, CancelReason.SHUTDOWN)
        over.set()
        await room.idle(ends, 1)
        fields = await room.fields(job_id)
    outcome, reason = {
        "times out": ("timeout", "timed out after 50ms"),
        "is cancelled": ("cancelled", "cancelled: not needed"),
        "is cancelled by a stop": ("completed", None),
    }[way]
    assert (ends.outcomes(), fields.get("failedReason"), fields["atm"]) == ([outcome], reason, "1")


async def test_a_job_that_expired_is_not_run(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("late")
    async def late() -> None:
        raise AssertionError

    job_id = await room.add("late", opts={"bullpen": {"p": 1, "expires": int(time.time() * 1000) - 1}})
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
    assert fields["failedReason"].startswith("expired")
    assert ends.outcomes() == ["expired"]


async def test_a_result_too_large_fails_the_job_without_retry(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("big", attempts=5)
    async def big() -> str:
        return "x" * 200

    job_id = await room.add("big")
    policy = dataclasses.replace(BUILT_IN, limits=Limits(result_bytes=100))
    async with room.engine(q, hooks=ends, policy=policy):
        fields = await room.becomes(job_id, "failed")
    assert "limits.resultBytes allows 100" in fields["failedReason"]
    assert fields["atm"] == "1"


async def test_a_foreign_job_follows_the_queues_retry_policy(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("bad")
    async def bad() -> None:
        raise ValueError("no")

    job_id = await room.add("bad")
    policy = dataclasses.replace(BUILT_IN, retry=Wish(4, Backoff.immediate()))
    async with room.engine(q, hooks=ends, policy=policy):
        fields = await room.becomes(job_id, "failed")
    assert fields["atm"] == "4"


async def test_an_async_backoff_function_decides(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    async def backoff(attempt: int, error: Exception) -> str:
        await asyncio.sleep(0)
        return f"{attempt * 10}m"

    @q.handler("bad", attempts=2, backoff_for=backoff)
    async def bad() -> None:
        raise ValueError("no")

    job_id = await room.add("bad")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "delayed")
    assert fields["delay"] == "600000"


async def test_retention_keeps_the_number_asked_for(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("quick")
    async def quick() -> None: ...

    for _ in range(5):
        await room.add("quick", opts={"removeOnComplete": 2})
    await room.add("quick", opts={"removeOnComplete": True})
    async with room.engine(q, hooks=ends, concurrency=1):
        await room.idle(ends, 6)
        await eventually(lambda: len(ends.ends) == 6)
    assert await room.counts() == {"completed": 2}


async def test_progress_and_logs_are_written_before_the_end(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("talk")
    async def talk(ctx: Context[None]) -> None:
        for step in range(5):
            ctx.progress(step)
            ctx.log("step", number=step)

    job_id = await room.add("talk")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "completed")
    assert fields["progress"] == "4"
    lines = await room.link.call("LRANGE", room.keys.logs(job_id), 0, -1)
    assert lines == [f"step number={n}".encode() for n in range(5)]
    stream = await room.link.call("XRANGE", room.keys.events, "-", "+")
    names = [dict(zip(entry[1][::2], entry[1][1::2], strict=True))[b"event"] for entry in stream]  # type: ignore[union-attr,index]
    assert names.count(b"progress") == 1  # coalesced
    assert names.index(b"progress") < names.index(b"completed")


async def test_progress_is_there_within_100_ms_while_the_job_runs(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    go = asyncio.Event()

    @q.handler("talk")
    async def talk(ctx: Context[None]) -> None:
        ctx.progress({"done": 1})
        await go.wait()

    job_id = await room.add("talk")
    async with room.engine(q, hooks=ends):

        async def there() -> bool:
            return (await room.fields(job_id)).get("progress") == '{"done":1}'

        await eventually(there)
        go.set()
        await room.becomes(job_id, "completed")


async def test_a_payload_that_does_not_fit_fails_once_and_never_loops(room: Room, ends: Ends) -> None:
    q = Handlers("q")

    @q.handler("typed", attempts=5)
    async def typed(number: int) -> None: ...

    job_id = await room.add("typed", {"number": "many"})
    broken = await room.add("typed", {"number": 1})
    await room.link.call("HSET", room.keys.job(broken), "data", "{not json", "opts", "[broken")
    async with room.engine(q, hooks=ends):
        fields = await room.becomes(job_id, "failed")
        other = await room.becomes(broken, "failed")
    assert "number" in fields["failedReason"]
    assert fields["atm"] == other["atm"] == "1"
    assert json.loads(fields["bullpen:error"]) == {"type": "bullpen.PayloadInvalid"}
