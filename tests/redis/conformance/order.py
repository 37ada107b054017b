"""Which job starts when, and whose setting holds."""

from pathlib import Path
from typing import Any, Final

from bullpen import (
    Context,
)
from tests.redis.conformance.playing import SOON, Book, Scenario, queue
from tests.redis.conformance.sides import QUEUE, Open, refused, told


async def the_order_of_starts(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers) as side:
        for number, options in enumerate(
            (
                {"priority": 5}, {"priority": 1}, {}, {}, {"lifo": True}, {"priority": 5}, {"priority": 1}, {"lifo": True},
                {"delay": "1s"}, {"delay": "2s"}, {"delay": "1s"}, {"delay": "1s", "priority": 1},
            )
        ):  # fmt: skip
            await side.client.enqueue(book.note.job(number), **options)  # type: ignore[arg-type]
        states = ("waiting", "prioritized", "delayed")
        there = side.client.queue(QUEUE)
        listed = {state: [job.data for job in await there.jobs(state)] for state in states}  # type: ignore[arg-type]
        newest = [job.data for job in await there.jobs("waiting", newest_first=True, start=1, count=2)]
        counts = dict(await there.counts())
        await side.work()
        done = [job.data for job in await there.jobs("completed")]
    assert book.lines[:8] == [7, 4, 2, 3, 1, 6, 0, 5]
    return [listed, newest, counts, book.lines[:8], sorted(book.lines[8:]), sorted(str(data) for data in done)]


async def levels_of_priority(open: Open, folder: Path) -> Any:
    book = Book()
    spec = "priorities:\n  levels: {high: 1, normal: 10, low: 100}\n  default: normal"
    async with open(book.handlers, yaml=queue(folder, spec)) as side:
        handles = [await side.client.enqueue(book.note.job(1), priority="low")]
        handles.append(await side.client.enqueue(book.note.job(2)))
        handles.append(await side.client.enqueue(book.note.job(3), priority="high"))
        handles.append(await side.client.enqueue(book.note.job(4), priority=5))
        error = await refused(side.client.enqueue(book.note.job(5), priority="urgent"))
        lifo = await refused(side.client.enqueue(book.note.job(5), lifo=True))
        await side.work()
        report = [error, lifo, *[await told(handle) for handle in handles], book.lines]
    assert book.lines == [3, 4, 2, 1]
    return report


async def the_policy_and_who_overrules_it(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("plain")
    async def plain(ctx: Context[None]) -> None:
        book.lines.append(["plain", ctx.job.attempt])
        raise ValueError

    @book.handlers.handler("coded", attempts=2)
    async def coded(ctx: Context[None]) -> None:
        book.lines.append(["coded", ctx.job.attempt])
        raise ValueError

    @book.handlers.handler("named", attempts=2)
    async def named(ctx: Context[None]) -> None:
        book.lines.append(["named", ctx.job.attempt])
        raise ValueError

    spec = """
retry: {attempts: 3, backoff: {type: Fixed, delay: 10ms}}
jobs:
  - {name: named, retry: {attempts: 1}}
"""
    async with open(book.handlers, yaml=queue(folder, spec)) as side:
        handles = [await side.client.enqueue(each.job()) for each in (plain, coded, named)]
        handles.append(await side.client.enqueue(named.job(), attempts=2))
        await side.work()
        report = [await told(handle) for handle in handles]
    assert [job["attempt"] for job in report] == [3, 2, 1, 2]
    return [report, sorted(book.lines)]


async def events_of_a_job(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("talk", attempts=2, backoff=SOON)
    async def talk(ctx: Context[None]) -> int:
        ctx.progress(10 * ctx.job.attempt)
        if ctx.job.attempt == 1:
            raise ValueError
        return 1

    async with open(book.handlers) as side:
        handle = await side.client.enqueue(talk.job(), delay="10ms")
        async with handle.events() as events:
            await side.work()
            seen = [[event.type, event.state, event.progress] async for event in events]
    assert seen[-1] == ["completed", "completed", 20]
    return seen


async def a_schedule(open: Open, folder: Path) -> Any:
    book = Book()
    spec = "schedules:\n  - {name: sweep, every: 200ms, job: note, data: {number: 3}}"
    async with open(book.handlers, yaml=queue(folder, spec)) as side:
        there = side.client.queue(QUEUE)

        async def one_ran() -> bool:
            return (await there.counts())["completed"] >= 1

        await side.work(until=one_ran)
        (following,) = await there.jobs("delayed")
        handle = there.job(following.id)
        first = (await there.jobs("completed"))[0]
        distance = int(following.id.rpartition(":")[2]) - int(first.id.rpartition(":")[2])
        refusal = (await refused(handle.remove()))[0]
        report = [distance, refusal, await handle.cancel("x"), await told(handle), first.data]
    assert distance % 200 == 0
    return report[1:]


SCENARIOS: Final[tuple[Scenario, ...]] = (
    the_order_of_starts,
    levels_of_priority,
    the_policy_and_who_overrules_it,
    events_of_a_job,
    a_schedule,
)
