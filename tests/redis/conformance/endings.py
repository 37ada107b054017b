"""Ends that are no failure, or come from outside: snoozes, cancellations, timeouts, limits, jobs too late, names nobody knows."""

import asyncio
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from bullpen import (
    Cancel,
    Context,
    JobType,
    NonRetryableError,
    RateLimited,
    Snooze,
)
from tests.redis.conformance.playing import SOON, Book, Scenario, queue
from tests.redis.conformance.sides import QUEUE, Open, told


async def unknown_names_and_versions(open: Open, folder: Path) -> Any:
    book = Book()
    newer = JobType("note", queue=QUEUE, data=dict[str, int], version=2)

    async with open(book.handlers) as side:
        handles = [
            await side.client.queue(QUEUE).enqueue("nobody knows", {}),
            await side.client.enqueue(newer.job({"number": 1})),
        ]

        async def both_put_off() -> bool:
            return (await side.client.queue(QUEUE).counts())["delayed"] == 2

        await side.work(until=both_put_off)
        report = [await told(handle) for handle in handles]
    assert [(job["state"], job["attempt"]) for job in report] == [("delayed", 0)] * 2
    return report


async def the_fallback_takes_what_nobody_knows(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.fallback
    async def other(ctx: Context[None], data: JsonValue) -> JsonValue:
        return {"ignored": ctx.job.name, "data": data}

    async with open(book.handlers) as side:
        handle = await side.client.queue(QUEUE).enqueue("strange", {"a": [1, None]})
        await side.work()
        return await told(handle)


async def snoozes(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("later", attempts=2, backoff=SOON)
    async def later(ctx: Context[None]) -> int:
        book.lines.append([ctx.job.attempt, ctx.job.snoozes, ctx.fence])
        if ctx.job.snoozes < 2:
            raise Snooze("15ms")
        if ctx.job.attempt == 1:
            raise ValueError("once")
        raise (
            BaseExceptionGroup("a task group's", [Snooze("10ms")]) if ctx.job.snoozes < 3 else NonRetryableError("end")
        )

    async with open(book.handlers) as side:
        handle = await side.client.enqueue(later.job())
        await side.work()
        report = [await told(handle), book.lines]
    assert book.lines == [[1, 0, 1], [1, 1, 2], [1, 2, 3], [2, 2, 4], [2, 3, 5]]
    return report


async def cancelled_by_itself_or_before_it_runs(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("gone")
    async def gone() -> None:
        raise Cancel("account closed")

    async with open(book.handlers) as side:
        of_its_own = await side.client.enqueue(gone.job())
        waiting = await side.client.enqueue(book.note.job(1))
        urgent = await side.client.enqueue(book.note.job(2), priority=1)
        delayed = await side.client.enqueue(book.note.job(3), delay="1h")
        answers = [await handle.cancel(f"reason {n}") for n, handle in enumerate((waiting, urgent, delayed))]
        answers.append(await waiting.cancel("again"))
        answers.append(await side.client.queue(QUEUE).job("no-such-job").cancel())
        await side.work()
        report = [answers, *[await told(handle) for handle in (of_its_own, waiting, urgent, delayed)], book.lines]
    assert answers == [True, True, True, False, False]
    assert [job["state"] for job in report[1:5]] == ["cancelled"] * 4
    assert not book.lines
    return report


async def cancelled_while_it_runs(open: Open, folder: Path) -> Any:
    book = Book()
    started = asyncio.Event()

    @book.handlers.handler("long")
    async def long(ctx: Context[None], stubborn: bool) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            book.lines.append(str(ctx.cancelled))
            if not stubborn:
                raise
        return "done nevertheless"

    async with open(book.handlers) as side:
        report = []
        for stubborn in (False, True):
            started.clear()
            handle = await side.client.enqueue(long.job(stubborn))
            async with side.working():
                await started.wait()
                active = await told(handle)
                report += [active, await handle.remove(), await handle.cancel("enough")]
            report.append(await told(handle))
    assert book.lines == ["cancelled", "cancelled"]
    assert report[0]["state"] == "active"
    assert report[3]["state"] == "cancelled"
    return [report, book.lines]


async def rate_limited_by_a_handler(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("busy")
    async def busy(ctx: Context[None]) -> int:
        book.lines.append(["busy", ctx.job.attempt, ctx.fence])
        if ctx.fence == 1:
            raise RateLimited("60ms")
        return ctx.job.attempt

    async with open(book.handlers) as side:
        first = await side.client.enqueue(busy.job())
        second = await side.client.enqueue(busy.job(), priority=2)
        other = await side.client.enqueue(book.note.job(1))
        await side.work()
        report = [*[await told(handle) for handle in (first, second, other)], book.lines]
        infos = [await handle.info() for handle in (first, second, other)]
        held = [(info.started_at - infos[0].enqueued_at).total_seconds() >= 0.06 for info in infos]  # type: ignore[operator]
    assert book.lines[:3] == [["busy", 1, 1], ["busy", 1, 2], 1]
    assert held == [True] * 3
    return [*report, held]


async def a_rate_limit_of_the_queue(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers, yaml=queue(folder, "rateLimit: {jobs: 2, per: 500ms}")) as side:
        handles = [await side.client.enqueue(book.note.job(number)) for number in range(5)]
        await side.work()
        infos = [await handle.info() for handle in handles]
        # The first opens a window; the last is not before the third, however late others came within theirs.
        held = (infos[-1].started_at - infos[0].started_at).total_seconds() > 0.9  # type: ignore[operator]
    assert held
    return [held, book.lines]


async def timeouts(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("slow", attempts=2, backoff=SOON, timeout="50ms")
    async def slow(ctx: Context[None]) -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            book.lines.append([ctx.job.attempt, str(ctx.cancelled)])

    @book.handlers.handler("cleans up", attempts=1, timeout="50ms")
    async def cleans_up() -> None:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            raise RuntimeError("while cleaning up") from None

    @book.handlers.handler("own limit", attempts=1)
    async def own_limit() -> None:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(3_600)

    async with open(book.handlers) as side:
        handles = [await side.client.enqueue(each.job()) for each in (slow, cleans_up, own_limit)]
        handles.append(await side.client.enqueue(slow.job(), timeout="20ms", attempts=1))
        await side.work()
        report = [*[await told(handle) for handle in handles], book.lines]
    assert report[0]["error"] == "timed out after 50ms"
    assert report[2]["result"][2] == "TimeoutError"
    assert book.lines == [[1, "timeout"], [1, "timeout"], [2, "timeout"]]
    return report


async def expires_before_it_runs(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers, yaml=queue(folder, "expires: 1h")) as side:
        await side.client.queue(QUEUE).pause()
        late = await side.client.enqueue(book.note.job(1), expires="30ms")
        in_time = await side.client.enqueue(book.note.job(2), expires="1m")
        queues_own = await side.client.enqueue(book.note.job(3))
        await side.pass_time(60)
        await side.client.queue(QUEUE).resume()
        await side.work()
        report = [*[await told(handle) for handle in (late, in_time, queues_own)], book.lines]
    assert book.lines == [2, 3]
    assert report[0]["error"].startswith("expired")
    return report


SCENARIOS: Final[tuple[Scenario, ...]] = (
    unknown_names_and_versions,
    the_fallback_takes_what_nobody_knows,
    snoozes,
    cancelled_by_itself_or_before_it_runs,
    cancelled_while_it_runs,
    rate_limited_by_a_handler,
    a_rate_limit_of_the_queue,
    timeouts,
    expires_before_it_runs,
)
