"""Jobs that are added more than once."""

import asyncio
from pathlib import Path
from typing import Any, Final

from bullpen import (
    Deduplication,
)
from tests.redis.conformance.playing import Book, Scenario
from tests.redis.conformance.sides import QUEUE, Open, told


async def duplicates_by_id(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers) as side:
        first = await side.client.enqueue(book.note.job(1), job_id="one")
        second = await side.client.enqueue(book.note.job(2), job_id="one")
        await side.work()
        third = await side.client.enqueue(book.note.job(3), job_id="one")
        await side.work()
        removed = await first.remove()
        fourth = await side.client.enqueue(book.note.job(4), job_id="one")
        await side.work()
        report = [first.id, second.id, third.id, removed, await told(fourth), book.lines]
    assert book.lines == [1, 4]
    return report


async def duplicates_by_a_simple_key(open: Open, folder: Path) -> Any:
    book = Book()
    once = Deduplication.simple("k")
    async with open(book.handlers) as side:
        handles = [await side.client.enqueue(book.note.job(n), deduplication=once, delay="20ms") for n in range(3)]
        await side.work()
        handles.append(await side.client.enqueue(book.note.job(3), deduplication=once))
        await handles[3].remove()
        handles.append(await side.client.enqueue(book.note.job(4), deduplication=once))
        await handles[4].cancel("x")
        handles.append(await side.client.enqueue(book.note.job(5), deduplication=once))
        await side.work()
        same = [handle.id == handles[0].id for handle in handles]
        report = [same, [await told(handle) for handle in handles], book.lines]
    assert same == [True, True, True, False, False, False]
    assert book.lines == [0, 5]
    return report


async def throttled(open: Open, folder: Path) -> Any:
    book = Book()
    key = Deduplication.throttle("k", "2s")
    async with open(book.handlers) as side:
        there = side.client.queue(QUEUE)
        await there.pause()
        first = await side.client.enqueue(book.note.job(1), deduplication=key)
        second = await side.client.enqueue(book.note.job(2), deduplication=key)
        await side.pass_time(2_100)
        third = await side.client.enqueue(book.note.job(3), deduplication=key)
        await there.resume()
        await side.work()
    assert first.id == second.id != third.id
    assert book.lines == [1, 3]
    return book.lines


async def debounced(open: Open, folder: Path) -> Any:
    book = Book()
    key = Deduplication.debounce("k", "2s")
    async with open(book.handlers) as side:
        handles = [await side.client.enqueue(book.note.job(number), deduplication=key) for number in range(3)]
        counts = dict(await side.client.queue(QUEUE).counts())
        await side.work()
        report = [
            counts,
            len({handle.id for handle in handles}),
            [await told(handle) for handle in handles],
            book.lines,
        ]
    assert book.lines == [2]
    return report


async def the_last_is_kept(open: Open, folder: Path) -> Any:
    book = Book()
    started, go = asyncio.Event(), asyncio.Event()

    @book.handlers.handler("hold")
    async def hold(number: int) -> None:
        book.lines.append(number)
        started.set()
        await go.wait()

    key = Deduplication.keep_last("k")
    async with open(book.handlers) as side:
        handles = [await side.client.enqueue(hold.job(number), deduplication=key) for number in range(2)]
        async with side.working():
            await started.wait()
            handles += [await side.client.enqueue(hold.job(number), deduplication=key) for number in range(2, 5)]
            go.set()
        same = [handle.id == handles[0].id for handle in handles]
    assert book.lines == [0, 4]
    return [same, book.lines]


SCENARIOS: Final[tuple[Scenario, ...]] = (
    duplicates_by_id,
    duplicates_by_a_simple_key,
    throttled,
    debounced,
    the_last_is_kept,
)
