"""What happens to jobs, told once and played on both sides. A scenario gives a report of plain values.

Each scenario also asserts the point that it is about, so that two sides which are wrong alike are noticed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from bullpen import (
    Backoff,
    BaseContext,
    Cancel,
    Context,
    Deduplication,
    Handlers,
    JobSpec,
    JobType,
    Keep,
    NonRetryableError,
    RateLimited,
    Retention,
    RetryableError,
    RunNext,
    Snooze,
    SyncContext,
)
from tests.redis.conformance.sides import HEAD, QUEUE, Open, refused, told

Scenario = Callable[[Open, Path], Awaitable[Any]]
SCENARIOS: list[Scenario] = []
SOON = Backoff.fixed("20ms")


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


def queue(folder: Path, spec: str) -> Path:
    """A file with the queue, under a spec of its own."""
    file = folder / "queues.yaml"
    file.write_text(HEAD + "\n".join(f"  {line}" for line in spec.strip().splitlines()))
    return file


class Book:
    """Handlers of the queue, and what they write down."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.handlers = Handlers(QUEUE)

        @self.handlers.handler("note")
        async def note(number: int) -> int:
            self.lines.append(number)
            return number

        self.note = note


@scenario
async def completes_with_progress_and_logs(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("talk")
    async def talk(ctx: Context[None], text: str, *, times: int = 2) -> list[str]:
        ctx.progress({"done": 1})
        ctx.log("at it", text=text)
        book.lines.append([ctx.job.attempt, ctx.job.attempts, ctx.fence, ctx.job.data, ctx.cancelled])
        return [text] * times

    async with open(book.handlers) as side:
        handle = await side.client.enqueue(talk.job("ä"))
        waiting = await told(handle)
        await side.work()
        report = [waiting, await told(handle), book.lines]
    assert report[1]["result"] == ["ä", "ä"]
    return report


@scenario
async def fails_twice_then_completes(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("flaky", attempts=5, backoff=SOON)
    async def flaky(ctx: Context[None]) -> str:
        book.lines.append([ctx.job.attempt, ctx.fence])
        if ctx.job.attempt < 3:
            raise ConnectionError(f"attempt {ctx.job.attempt}")
        return "at last"

    async with open(book.handlers) as side:
        handle = await side.client.enqueue(flaky.job())
        await side.work()
        report = [await told(handle), book.lines]
    assert book.lines == [[1, 1], [2, 2], [3, 3]]
    return report


@scenario
async def fails_for_good(open: Open, folder: Path) -> Any:
    class Broken(Exception):
        pass

    book = Book()

    @book.handlers.handler("used up", attempts=2, backoff=SOON)
    async def used_up() -> None:
        raise Broken("no")

    @book.handlers.handler("hopeless")
    async def hopeless() -> None:
        raise NonRetryableError("never")

    @book.handlers.handler("given up", give_up_on=(KeyError,))
    async def given_up() -> None:
        raise KeyError("x")

    @book.handlers.handler("exits", attempts=1)
    async def exits() -> None:
        raise SystemExit(3)

    @book.handlers.handler("mute", attempts=1)
    async def mute() -> None:
        raise ValueError

    async with open(book.handlers) as side:
        jobs = [used_up.job(), hopeless.job(), given_up.job(), exits.job(), mute.job()]
        handles = [await side.client.enqueue(job) for job in jobs]
        await side.work()
        report = [await told(handle) for handle in handles]
    assert [job["state"] for job in report] == ["failed"] * 5
    assert report[0]["attempt"] == 2
    return report


@scenario
async def delays_of_retries(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("own delay", attempts=2, backoff=Backoff.fixed("1h"))
    async def own_delay(ctx: Context[None]) -> int:
        if ctx.job.attempt == 1:
            raise RetryableError("wait a little", delay="20ms")
        return ctx.job.attempt

    @book.handlers.handler("by class", attempts=2, backoff=Backoff.fixed("1h"), backoff_for={OSError: SOON})
    async def by_class(ctx: Context[None]) -> int:
        if ctx.job.attempt == 1:
            raise ConnectionError
        return ctx.job.attempt

    async def ask(attempt: int, error: Exception) -> str | None:
        book.lines.append([attempt, str(error)])
        return "15ms"

    @book.handlers.handler("by function", attempts=3, backoff_for=ask)
    async def by_function(ctx: Context[None]) -> int:
        if ctx.job.attempt < 3:
            raise ValueError(ctx.job.attempt)
        return ctx.job.attempt

    @book.handlers.handler("at once", attempts=3, backoff=Backoff.immediate())
    async def at_once(ctx: Context[None]) -> int:
        book.lines.append(["at once", ctx.job.attempt])
        if ctx.job.attempt < 3:
            raise ValueError
        return ctx.job.attempt

    async with open(book.handlers) as side:
        handles = [await side.client.enqueue(each.job()) for each in (own_delay, by_class, by_function, at_once)]
        await side.work()
        report = [*[await told(handle) for handle in handles], book.lines]
    assert [job["result"] for job in report[:4]] == [2, 2, 3, 3]
    return report


@scenario
async def a_retry_at_once_goes_behind_those_that_wait(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("again", attempts=2, backoff=Backoff.immediate())
    async def again(ctx: Context[None]) -> None:
        book.lines.append(f"again {ctx.job.attempt}")
        if ctx.job.attempt == 1:
            raise ValueError

    async with open(book.handlers) as side:
        await side.client.enqueue(again.job())
        await side.client.enqueue(again.job(), priority=3)
        for number in range(2):
            await side.client.enqueue(book.note.job(number))
        await side.client.enqueue(book.note.job(9), priority=3)
        await side.work()
    assert book.lines[:4] == ["again 1", 0, 1, "again 2"]
    return book.lines


@scenario
async def payloads_and_results_that_do_not_fit(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("wants int")
    async def wants_int(number: int) -> None:
        raise AssertionError

    @book.handlers.handler("gives text")
    async def gives_text() -> int:
        return "text"  # type: ignore[return-value]

    @book.handlers.handler("gives much")
    async def gives_much() -> str:
        return "x" * 200

    async with open(book.handlers, yaml=queue(folder, "limits: {resultBytes: 100}")) as side:
        there = side.client.queue(QUEUE)
        handles = [
            await there.enqueue("wants int", {"number": "seven"}),
            await there.enqueue("wants int", {}),
            await side.client.enqueue(gives_text.job()),
            await side.client.enqueue(gives_much.job()),
        ]
        await side.work()
        report = [await told(handle) for handle in handles]
    assert [job["attempt"] for job in report] == [1, 1, 1, 1]
    assert "bullpen.PayloadInvalid" in report[0]["result"]
    assert "bullpen.ResultInvalid" in report[3]["result"]
    return report


@scenario
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


@scenario
async def the_fallback_takes_what_nobody_knows(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.fallback
    async def other(ctx: Context[None], data: JsonValue) -> JsonValue:
        return {"ignored": ctx.job.name, "data": data}

    async with open(book.handlers) as side:
        handle = await side.client.queue(QUEUE).enqueue("strange", {"a": [1, None]})
        await side.work()
        return await told(handle)


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
async def a_rate_limit_of_the_queue(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers, yaml=queue(folder, "rateLimit: {jobs: 2, per: 500ms}")) as side:
        handles = [await side.client.enqueue(book.note.job(number)) for number in range(5)]
        await side.work()
        infos = [await handle.info() for handle in handles]
        windows = [round((info.started_at - infos[0].started_at).total_seconds() / 0.5) for info in infos]  # type: ignore[operator]
    assert windows == [0, 0, 1, 1, 2]
    return [windows, book.lines]


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
async def throttled(open: Open, folder: Path) -> Any:
    book = Book()
    key = Deduplication.throttle("k", "500ms")
    async with open(book.handlers) as side:
        there = side.client.queue(QUEUE)
        await there.pause()
        first = await side.client.enqueue(book.note.job(1), deduplication=key)
        second = await side.client.enqueue(book.note.job(2), deduplication=key)
        await side.pass_time(550)
        third = await side.client.enqueue(book.note.job(3), deduplication=key)
        await there.resume()
        await side.work()
    assert first.id == second.id != third.id
    assert book.lines == [1, 3]
    return book.lines


@scenario
async def debounced(open: Open, folder: Path) -> Any:
    book = Book()
    key = Deduplication.debounce("k", "300ms")
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


@scenario
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


@scenario
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


@scenario
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


@scenario
async def a_closed_queue(open: Open, folder: Path) -> Any:
    book = Book()
    async with open(book.handlers, yaml=queue(folder, "closed: true")) as side:
        return await refused(side.client.enqueue(book.note.job(1)))


@scenario
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


@scenario
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
        gone = [(await refused(call))[0] for call in (waiting.retry(), waiting.promote(), waiting.result(timeout="1s"))]
        report = [early[0], after_reset, await told(handle), promoted, removed, gone, book.lines]
    assert book.lines[:3] == [[1, 1], [1, 1], [2, 2]]
    assert gone == ["JobGone"] * 3
    return report


@scenario
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


@scenario
async def middleware_around_enqueues_and_attempts(open: Open, folder: Path) -> Any:
    book = Book()

    async def around(ctx: BaseContext[Any], call: RunNext) -> object:
        book.lines.append(f"before {ctx.name}")
        try:
            return await call()
        except ValueError as error:
            book.lines.append(f"saw {error}")
            return -1
        finally:
            book.lines.append("after")

    @contextmanager
    def urgent(job: JobSpec[object]) -> Generator[JobSpec[object]]:
        yield job.with_options(priority=7)

    book.handlers = Handlers(QUEUE, middleware=[around])

    @book.handlers.handler("odd")
    async def odd(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number

    @book.handlers.handler("threaded")
    def threaded(number: int) -> int:
        return number + 1

    async with open(book.handlers, middleware=[around], client_middleware=[urgent]) as side:
        handles = [await side.client.enqueue(job) for job in (odd.job(1), odd.job(2), threaded.job(3))]
        handles.append(await side.client.queue(QUEUE).enqueue("odd", {"number": "x"}))
        await side.work()
        report = [[await told(handle) for handle in handles], book.lines]
    assert report[0][0]["result"] == -1
    return report


@scenario
async def plain_functions(open: Open, folder: Path) -> Any:
    book = Book()

    @book.handlers.handler("threaded", attempts=2, backoff=SOON)
    def threaded(ctx: SyncContext[None], text: str) -> dict[str, str]:
        ctx.progress(50)
        ctx.log("here")
        if ctx.job.attempt == 1:
            raise ValueError("once")
        follow = ctx.client.enqueue(book.note.job(5))
        return {"text": text, "queue": follow.queue}

    async with open(book.handlers) as side:
        handle = await side.client.enqueue(threaded.job("x"))
        await side.work()
        return [await told(handle), book.lines]


@scenario
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


@scenario
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
