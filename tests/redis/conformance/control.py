"""What is done to a queue and its jobs from outside, and what it refuses."""

from pathlib import Path
from typing import Any, Final

from bullpen import (
    Context,
    Deduplication,
    Keep,
    Retention,
)
from tests.redis.conformance.playing import Book, Scenario, queue
from tests.redis.conformance.sides import QUEUE, Open, refused, told


async def paused_and_resumed(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers) as side:
        there = side.client.queue(QUEUE)
        await there.pause()
        handle = await side.client.enqueue(book.note.job(1))
        await side.client.enqueue(book.note.job(2), priority=1)
        before = [await there.paused(), dict(await there.counts()), await told(handle)]
        await there.resume()
        await side.work()
        report = [before, await there.paused(), await told(handle), book.lines]
    assert before[0] is True
    return report


async def refused_at_the_door(open: Open, folder: Path) -> Any:
    book = Book()
    spec = """
limits: {payloadBytes: 60, waiting: 2}
payloadSchema: {type: object, properties: {number: {maximum: 100}}}
"""
    async with open(book.handlers, yaml=queue(folder, spec)) as side:
        there = side.client.queue(QUEUE)
        report = [
            await refused(there.enqueue("note", {"text": "x" * 60})),
            await refused(there.enqueue("note", {"number": 101})),
            await refused(there.enqueue("note", {"number": 1}, job_id="7")),
            await refused(there.enqueue("note", {"number": 1}, priority="high")),
        ]
        for number in range(2):
            await side.client.enqueue(book.note.job(number))
        report.append(await refused(side.client.enqueue(book.note.job(2))))
        report.append(await refused(side.client.enqueue_many(book.note.job(n) for n in range(2))))
        await side.client.enqueue(book.note.job(3), delay="10ms")
        await side.work()
    assert [name for name, _ in report] == [
        "PayloadTooLarge", "PayloadInvalid", "OptionInvalid", "OptionInvalid", "QueueFull", "QueueFull",
    ]  # fmt: skip
    return [report, book.lines]


async def a_closed_queue(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers, yaml=queue(folder, "closed: true")) as side:
        return await refused(side.client.enqueue(book.note.job(1)))


async def a_full_queue_that_drops_the_oldest(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers, yaml=queue(folder, "limits: {waiting: 3, onFull: DropOldest}")) as side:
        handles = [await side.client.enqueue(book.note.job(n), priority=9) for n in range(2)]
        handles += [await side.client.enqueue(book.note.job(n)) for n in range(2, 6)]
        handles += await side.client.enqueue_many(book.note.job(n) for n in range(6, 8))
        await side.work()
        report = [[await told(handle) for handle in handles], book.lines]
    assert book.lines == [5, 6, 7]
    return report


async def repeated_in_a_full_queue(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers, yaml=queue(folder, "limits: {waiting: 2}")) as side:
        mine = book.note.job(1).with_options(job_id="mine")
        alike = book.note.job(2).with_options(deduplication=Deduplication.simple("alike"))
        first = [(await side.client.enqueue(job)).id for job in (mine, alike)]
        again = [(await side.client.enqueue(job)).id for job in (mine, alike)]
        both = [each.id for each in await side.client.enqueue_many([mine, alike])]
        assert first == again == both
        more = await refused(side.client.enqueue_many([mine, book.note.job(3)]))
        await side.work()
    assert book.lines == [1, 2]
    return [more, book.lines]


async def retried_removed_and_promoted_by_hand(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("fail once", attempts=1)
    async def fail_once(ctx: Context[None]) -> int:
        book.lines.append([ctx.job.attempt, ctx.fence])
        if len(book.lines) < 3:
            raise ValueError("not yet")
        return ctx.fence

    async with open(book.handlers) as side:
        handle = await side.client.enqueue(fail_once.job())
        early = await refused(handle.retry())
        await side.work()
        await handle.retry()
        after_reset = await told(handle)
        await side.work()
        await handle.retry(reset_attempts=False)
        await side.work()
        delayed = await side.client.enqueue(book.note.job(1), delay="1h")
        promoted = [await delayed.promote(), await delayed.promote(), await told(delayed)]
        await side.work()
        waiting = await side.client.enqueue(book.note.job(2))
        removed = [await waiting.remove(), await waiting.remove(), await told(waiting), await delayed.remove()]
        gone = [
            (await refused(call))[0] for call in (waiting.retry(), waiting.promote(), waiting.result(timeout="60s"))
        ]
        report = [early[0], after_reset, await told(handle), promoted, removed, gone, book.lines]
    assert book.lines[:3] == [[1, 1], [1, 1], [2, 2]]
    assert gone == ["JobGone"] * 3
    return report


async def finished_jobs_are_trimmed(open: Open, folder: Path) -> Any:
    book = Book()
    spec = "retention:\n  completed: {age: 1h, count: 2}"
    async with open(book.handlers, yaml=queue(folder, spec)) as side:
        handles = [await side.client.enqueue(book.note.job(number)) for number in range(4)]
        none = Retention(completed=Keep(count=0))
        handles.append(await side.client.enqueue(book.note.job(4), retention=none))
        await side.work()
        gone = ["gone" in await told(handle) for handle in handles]
    # Jobs that end in the same millisecond have no order in BullMQ, so which of the four are kept is open.
    assert (gone[:4].count(True), gone[4]) == (2, True)
    return gone[:4].count(True), gone[4]


SCENARIOS: Final[tuple[Scenario, ...]] = (
    paused_and_resumed,
    refused_at_the_door,
    a_closed_queue,
    a_full_queue_that_drops_the_oldest,
    repeated_in_a_full_queue,
    retried_removed_and_promoted_by_hand,
    finished_jobs_are_trimmed,
)
