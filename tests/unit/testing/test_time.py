"""Time inside handlers: sleeping costs none of the test's, and everything keeps its order."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from bullpen import Backoff, Context, Handlers
from bullpen.testing import HandlerStuck, Harness

NOW = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def jobs() -> Handlers[None]:
    return Handlers("q")


async def test_a_handler_that_sleeps_an_hour_has_slept_it(jobs: Handlers[None]) -> None:
    @jobs.handler("nap", timeout="2h")
    async def nap() -> float:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(1_800)
        await asyncio.sleep(1_800)
        return asyncio.get_running_loop().time() - began

    async with Harness(jobs, now=NOW) as harness:
        assert await harness.run(nap.job()) == 3_600
        assert harness.now == NOW + timedelta(hours=1)


async def test_the_timeout_of_a_job_ends_a_sleep(jobs: Handlers[None]) -> None:
    @jobs.handler("nap", timeout="30s", attempts=3, backoff=Backoff.fixed("5s"))
    async def nap() -> None:
        await asyncio.sleep(3_600)

    async with Harness(jobs, now=NOW) as harness:
        with pytest.raises(TimeoutError, match="timed out after 30s"):
            await harness.run(nap.job())
        assert harness.now == NOW + timedelta(seconds=3 * 30 + 2 * 5)


async def test_who_wakes_at_the_last_moment_may_finish(jobs: Handlers[None]) -> None:
    @jobs.handler("nap", timeout="30s")
    async def nap() -> str:
        await asyncio.sleep(30)
        return "in time"

    async with Harness(jobs) as harness:
        assert await harness.run(nap.job()) == "in time"


async def test_a_timeout_inside_of_a_handler(jobs: Handlers[None]) -> None:
    @jobs.handler("impatient")
    async def impatient() -> list[str]:
        found = []
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        except TimeoutError:
            found.append("timeout")
        try:
            await asyncio.wait_for(asyncio.sleep(10), 5)
        except TimeoutError:
            found.append("wait_for")
        return found

    async with Harness(jobs, now=NOW) as harness:
        assert await harness.run(impatient.job()) == ["timeout", "wait_for"]
        assert harness.now == NOW + timedelta(seconds=10)


async def test_tasks_of_a_handler_sleep_side_by_side(jobs: Handlers[None]) -> None:
    @jobs.handler("many")
    async def many() -> list[int]:
        woken: list[int] = []

        async def sleeper(seconds: int) -> None:
            await asyncio.sleep(seconds)
            woken.append(seconds)

        async with asyncio.TaskGroup() as group:
            for seconds in (30, 10, 20):
                group.create_task(sleeper(seconds))
        return woken

    async with Harness(jobs, now=NOW) as harness:
        assert await harness.run(many.job()) == [10, 20, 30]
        assert harness.now == NOW + timedelta(seconds=30)


async def test_letting_others_go_first_is_no_sleep(jobs: Handlers[None]) -> None:
    done = asyncio.Event()

    @jobs.handler("polite")
    async def polite() -> int:
        turns = 0
        while not done.is_set():
            await asyncio.sleep(0)
            turns += 1
        return turns

    async def later() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        done.set()

    async with Harness(jobs, now=NOW) as harness, asyncio.TaskGroup() as group:
        group.create_task(later())
        assert await harness.run(polite.job()) > 10
        assert harness.now == NOW


async def test_the_tests_own_timers_stay_real_and_the_loop_is_left_as_it_was(jobs: Handlers[None]) -> None:
    loop = asyncio.get_running_loop()
    before = dict(vars(loop))
    started, go = asyncio.Event(), asyncio.Event()

    @jobs.handler("hold")
    async def hold() -> None:
        started.set()
        await go.wait()

    async with Harness(jobs, now=NOW) as harness:
        await harness.client.enqueue(hold.job())
        working = asyncio.create_task(harness.run_until_idle())
        await started.wait()
        began = loop.time()
        await asyncio.sleep(0.01)
        assert 0.01 <= loop.time() - began < 60
        assert harness.now == NOW
        go.set()
        assert await working == 1
    assert vars(loop).keys() == before.keys()


async def test_time_that_the_test_lets_pass_passes_for_a_handler_that_waits(jobs: Handlers[None]) -> None:
    started = asyncio.Event()

    @jobs.handler("hold", timeout="1m", attempts=1)
    async def hold() -> None:
        started.set()
        await asyncio.Event().wait()

    async with Harness(jobs, now=NOW) as harness:
        handle = await harness.client.enqueue(hold.job())
        working = asyncio.create_task(harness.run_until_idle(raise_errors=False))
        await started.wait()
        assert (await handle.info()).state == "active"
        await harness.advance("59s")
        assert not working.done()
        await harness.advance("1s", raise_errors=False)
        assert await working == 1
        assert (await handle.info()).error == "timed out after 1m"


async def test_a_handler_that_waits_for_what_does_not_come_is_named(jobs: Handlers[None]) -> None:
    @jobs.handler("forever")
    async def forever() -> None:
        await asyncio.Event().wait()

    line = inspect.getsourcelines(forever.function)[1] + 2
    async with Harness(jobs, patience="50ms") as harness:
        handle = await harness.client.enqueue(forever.job())
        with pytest.raises(HandlerStuck, match=rf"'forever' of queue 'q'.*test_time\.py:{line}"):
            await harness.run_until_idle()
        info = await handle.info()
        assert (info.state, info.attempt) == ("waiting", 0)


async def test_its_own_timeout_around_such_a_wait_runs_out(jobs: Handlers[None]) -> None:
    @jobs.handler("guarded")
    async def guarded() -> str:
        try:
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        except TimeoutError:
            return "gave up"
        return "came"

    async with Harness(jobs, patience="50ms", now=NOW) as harness:
        assert await harness.run(guarded.job()) == "gave up"
        assert harness.now == NOW + timedelta(minutes=1)


@pytest.fixture
async def slow_server() -> AsyncIterator[int]:
    """Answers a line some time after it was asked."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asyncio.sleep(0.05)
        writer.write(b"at last\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_real_input_takes_real_time_and_no_timeout_cuts_it_short(jobs: Handlers[None], slow_server: int) -> None:
    @jobs.handler("ask", timeout="1s")
    async def ask() -> str:
        async with asyncio.timeout(0.01):  # by the harness's clock, which stands still
            reader, writer = await asyncio.open_connection("127.0.0.1", slow_server)
            writer.write(b"well?\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return answer.decode().strip()

    async with Harness(jobs, now=NOW) as harness:
        assert await harness.run(ask.job()) == "at last"
        assert harness.now == NOW


async def test_what_is_due_while_a_handler_sleeps_runs_after_it(jobs: Handlers[None]) -> None:
    seen: list[tuple[str, timedelta]] = []

    @jobs.handler("nap")
    async def nap() -> None:
        await asyncio.sleep(60)
        seen.append(("nap", harness.now - NOW))

    @jobs.handler("note")
    async def note(ctx: Context[None]) -> None:
        assert ctx.job.started_at is not None
        seen.append(("note", ctx.job.started_at - NOW))

    async with Harness(jobs, now=NOW) as harness:
        await harness.client.enqueue(nap.job())
        await harness.client.enqueue(note.job(), delay="30s")
        await harness.client.enqueue(note.job(), delay="90s")
        assert await harness.advance("2m") == 3
        assert seen == [(name, timedelta(seconds=at)) for name, at in (("nap", 60), ("note", 60), ("note", 90))]
        assert harness.now == NOW + timedelta(minutes=2)


async def test_two_harnesses_on_one_loop_have_clocks_of_their_own(jobs: Handlers[None]) -> None:
    @jobs.handler("nap", timeout="3h")
    async def nap(hours: int) -> None:
        await asyncio.sleep(3_600 * hours)

    async with Harness(jobs, now=NOW) as one, Harness(jobs, now=NOW) as other:
        await asyncio.gather(one.run(nap.job(1)), other.run(nap.job(2)))
        assert (one.now - NOW, other.now - NOW) == (timedelta(hours=1), timedelta(hours=2))
