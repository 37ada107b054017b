"""What becomes of a job by what its handler says: completion, failure, retries, what fits."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bullpen import (
    Backoff,
    BaseContext,
    Context,
    Handlers,
    JobSpec,
    NonRetryableError,
    RetryableError,
    RunNext,
    SyncContext,
)
from tests.redis.conformance.playing import SOON, Book, Scenario, queue
from tests.redis.conformance.sides import QUEUE, Open, told


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


SCENARIOS: Final[tuple[Scenario, ...]] = (
    completes_with_progress_and_logs,
    fails_twice_then_completes,
    fails_for_good,
    delays_of_retries,
    a_retry_at_once_goes_behind_those_that_wait,
    payloads_and_results_that_do_not_fit,
    plain_functions,
    middleware_around_enqueues_and_attempts,
)
