"""Code that waits for jobs by the harness's client: the harness works meanwhile, and its clock runs."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from bullpen import Backoff, Client, Context, Handlers, JobFailed, JobGone, ResultTimeout, SyncClient, SyncContext
from bullpen.testing import Harness, HarnessError, SyncHarness

NOW = datetime(2027, 1, 1, tzinfo=UTC)

jobs = Handlers("q")


@jobs.handler("double")
async def double(number: int) -> int:
    return 2 * number


@jobs.handler("flaky", attempts=2, backoff=Backoff.fixed("10s"))
async def flaky(ctx: Context[None]) -> int:
    if ctx.job.attempt == 1:
        raise ConnectionError
    return ctx.job.attempt


@jobs.handler("hopeless", attempts=1)
async def hopeless() -> None:
    raise ValueError("no")


@jobs.handler("adds up")
async def adds_up(ctx: Context[None], numbers: list[int]) -> int:
    handles = await ctx.client.enqueue_many(double.job(number) for number in numbers)
    return sum([await handle.result(timeout="1m") for handle in handles])


@jobs.handler("talks")
async def talks(ctx: Context[None], times: int) -> int:
    for number in range(times):
        ctx.progress(number)
    return times


@jobs.handler("waits in a thread")
def waits_in_a_thread(ctx: SyncContext[None]) -> int:
    return ctx.client.enqueue(double.job(1)).result(timeout="1s")


async def view(client: Client, *, delay: str) -> int:
    return await (await client.enqueue(double.job(21), delay=delay)).result(timeout="30s")


def sync_view(client: SyncClient, *, delay: str) -> int:
    return client.enqueue(double.job(21), delay=delay).result(timeout="30s")


async def test_waiting_for_a_result_lets_the_harness_work() -> None:
    async with Harness(jobs, now=NOW) as harness:
        assert await view(harness.client, delay="20s") == 42
        assert harness.now == NOW + timedelta(seconds=20)
        assert await (await harness.client.enqueue(flaky.job())).result(timeout="30s") == 2


async def test_a_wait_ends_when_its_time_has_passed_on_the_clock() -> None:
    async with Harness(jobs, now=NOW) as harness:
        with pytest.raises(ResultTimeout):
            await view(harness.client, delay="40s")
        assert harness.now == NOW + timedelta(seconds=30)
        assert await harness.advance("10s") == 1


async def test_who_waits_sees_how_a_job_failed_and_that_one_is_gone() -> None:
    async with Harness(jobs) as harness:
        handle = await harness.client.enqueue(hopeless.job())
        with pytest.raises(JobFailed) as caught:
            await handle.result(timeout="1s")
        assert (caught.value.reason, caught.value.error_type) == ("no", "ValueError")
        with pytest.raises(JobGone):
            await harness.client.queue("q").job("nobody").result(timeout="1s")


async def test_the_clock_stands_still_while_news_are_taken_in() -> None:
    async with Harness(jobs, now=NOW) as harness:
        handles = [await harness.client.enqueue(talks.job(100)) for _ in range(3)]
        assert await asyncio.gather(*(handle.result(timeout="30s") for handle in handles)) == [100] * 3
        assert harness.now == NOW


async def test_several_wait_at_once() -> None:
    async with Harness(jobs, now=NOW) as harness:
        results = await asyncio.gather(*(view(harness.client, delay=f"{n}s") for n in (5, 1, 20, 3)))
        assert results == [42] * 4
        assert harness.now == NOW + timedelta(seconds=20)


async def test_a_waiter_and_the_clock_go_together() -> None:
    async with Harness(jobs, now=NOW) as harness:
        handle = await harness.client.enqueue(double.job(1), delay="1h")
        waiting = asyncio.create_task(handle.result(timeout="2h"))
        await harness.advance("1h")
        assert await waiting == 2


async def test_a_wait_that_is_cancelled_leaves_the_harness_usable() -> None:
    async with Harness(jobs, now=NOW) as harness:
        waiting = asyncio.create_task((await harness.client.enqueue(double.job(1), delay="1h")).result(timeout="2h"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await harness.run(double.job(2)) == 4


async def test_a_handler_waits_for_other_jobs() -> None:
    async with Harness(jobs, now=NOW) as harness:
        assert await harness.run(adds_up.job([1, 2, 3])) == 12
        assert harness.now == NOW
        handle = await harness.client.enqueue(adds_up.job([4]))
        assert await handle.result(timeout="1s") == 8


async def test_events_arrive_while_they_are_waited_for() -> None:
    async with Harness(jobs, now=NOW) as harness:
        handle = await harness.client.enqueue(flaky.job())
        async with handle.events() as events:
            seen = [(event.state, (event.at - NOW).total_seconds()) async for event in events]
        assert seen == [("active", 0), ("delayed", 0), ("waiting", 10), ("active", 10), ("completed", 10)]


async def test_a_thread_cannot_wait_for_what_only_its_own_thread_could_do() -> None:
    async with Harness(jobs) as harness:
        with pytest.raises(HarnessError, match="Wait in an async def handler"):
            await harness.run(waits_in_a_thread.job())


def test_the_blocking_client_works_the_harness_too() -> None:
    with SyncHarness(jobs, now=NOW) as harness:
        assert sync_view(harness.client, delay="20s") == 42
        assert harness.now == NOW + timedelta(seconds=20)
        with pytest.raises(ResultTimeout):
            sync_view(harness.client, delay="40s")
        assert harness.now == NOW + timedelta(seconds=50)
        assert harness.client.enqueue(adds_up.job([1, 2])).result(timeout="1s") == 6
        with pytest.raises(JobFailed):
            harness.client.enqueue(hopeless.job()).result(timeout="1s")


def test_the_blocking_client_reads_events() -> None:
    with SyncHarness(jobs, now=NOW) as harness:
        handle = harness.client.enqueue(flaky.job())
        with handle.events() as events:
            assert [event.state for event in events] == ["active", "delayed", "waiting", "active", "completed"]


def test_a_loop_of_events_that_never_come_ends_with_an_error() -> None:
    with SyncHarness(jobs, now=NOW) as harness:
        handle = harness.client.queue("another").enqueue("nobody", {})
        with handle.events() as events, pytest.raises(HarnessError, match="no handlers of queue 'another'"):
            next(iter(events))


async def test_the_same_of_async_events() -> None:
    async with Harness(jobs, now=NOW) as harness:
        handle = await harness.client.queue("another").enqueue("nobody", {})
        async with handle.events() as events:
            with pytest.raises(HarnessError, match="no handlers of queue 'another'"):
                await anext(aiter(events))
