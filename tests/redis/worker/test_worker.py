"""The worker inside of a program of one's own."""

import asyncio
import json
import threading
import time

import pytest

from bullpen import Client, Context, Handlers, RateLimited, SyncContext
from bullpen.errors import ConfigurationError
from bullpen.redis.settings import RedisSettings
from bullpen_worker import Worker
from tests.redis.worker.conftest import PREFIX, Ends, Room
from tests.support.waiting import eventually


@pytest.fixture
def settings(bullpen_redis: str) -> RedisSettings:
    return RedisSettings.from_url(bullpen_redis, prefix=PREFIX)


async def test_it_runs_what_is_enqueued_and_drains_when_stopped(room: Room, settings: RedisSettings) -> None:
    q = Handlers("q")

    @q.handler("double")
    async def double(number: int) -> int:
        await asyncio.sleep(0.05)
        return 2 * number

    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q], concurrency=3)
        running = asyncio.create_task(worker.run())
        handle = await client.enqueue(double.job(21))
        assert await handle.result(timeout="60s") == 42
        assert (await room.fields(handle.id))["pb"] == worker.name
        entry = json.loads(await room.link.call("HGET", room.keys.workers, worker.name))  # type: ignore[arg-type]
        assert (entry["slots"], entry["names"]) == (3, ["double"])
        late = await client.enqueue(double.job(1))
        await eventually(lambda: worker._engine is not None and worker._engine.busy)
        stopper = threading.Thread(target=lambda: (worker.stop(), worker.stop()))
        stopper.start()
        await running
        stopper.join()
        assert await late.result(timeout="60s") == 2
        assert await room.link.call("HEXISTS", room.keys.workers, worker.name) == 0
        with pytest.raises(RuntimeError, match="has run already"):
            await worker.run()


async def test_its_concurrency_may_be_changed_before_it_has_begun(settings: RedisSettings) -> None:
    q = Handlers("q")

    @q.handler("work")
    async def work() -> None: ...

    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q])
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0)  # it has begun, and waits for its policy
        worker.concurrency = 300
        engine = await eventually(lambda: worker._engine)
        assert engine.concurrency == 300
        worker.stop()
        await running


async def test_handlers_enqueue_with_the_client_of_the_worker(settings: RedisSettings) -> None:
    q = Handlers("q")
    seen: list[object] = []

    @q.handler("leaf")
    async def leaf() -> str:
        return "leaf"

    @q.handler("tree")
    async def tree(ctx: Context[None]) -> str:
        seen.append(ctx.client)
        return (await ctx.client.enqueue(leaf.job())).id

    @q.handler("thread")
    def thread(ctx: SyncContext[None]) -> str:
        return ctx.client.enqueue(leaf.job()).id

    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q])
        running = asyncio.create_task(worker.run())
        for job in (tree.job(), thread.job()):
            leaf_id = await (await client.enqueue(job)).result(timeout="60s")
            assert await client.handle(leaf, leaf_id).result(timeout="60s") == "leaf"
        assert seen == [client]
        worker.stop()
        await running


async def test_a_handler_that_blocks_the_loop_keeps_its_lock(room: Room, settings: RedisSettings) -> None:
    q = Handlers("q")

    @q.handler("hog")
    async def hog() -> None:
        time.sleep(2.5)  # noqa: ASYNC251 - that is the point

    await room.link.call(
        "HSET", room.keys.policy, "v", "1", "rev", "1", "doc",
        json.dumps({"recovery": {"lockDuration": "1500ms", "checkInterval": "200ms"}}),
    )  # fmt: skip
    ends = Ends()
    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q], hooks=ends)
        running = asyncio.create_task(worker.run())
        handle = await client.enqueue(hog.job())
        await handle.result(timeout="60s")
        worker.stop()
        await running
    fields = await room.fields(handle.id)
    assert (fields["ats"], fields["atm"]) == ("1", "1")
    assert ends.outcomes() == ["completed"]


async def test_locks_are_as_long_as_they_are_renewed_for_under_a_policy_of_another_version(
    room: Room, settings: RedisSettings
) -> None:
    q = Handlers("q")
    ended = asyncio.Event()

    @q.handler("long")
    async def long() -> None:
        await ended.wait()

    doc = {"retry": {"backoff": {"type": "OfAVersionToCome"}}, "recovery": {"lockDuration": "10m"}}
    await room.link.call("HSET", room.keys.policy, "v", "1", "rev", "1", "doc", json.dumps(doc))
    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q])
        running = asyncio.create_task(worker.run())
        job_id = await room.add("long")
        await room.becomes(job_id, "active")
        left_ms = await room.link.call("PTTL", room.keys.lock(job_id))
        assert isinstance(left_ms, int)
        assert left_ms > 500_000  # the first renewal is after 200 s
        ended.set()
        await room.becomes(job_id, "completed")
        worker.stop()
        await running


async def test_a_job_is_cancelled_from_elsewhere(room: Room, settings: RedisSettings) -> None:
    q = Handlers("q")

    @q.handler("long")
    async def long() -> None:
        await asyncio.sleep(60)

    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q])
        running = asyncio.create_task(worker.run())
        handle = await client.enqueue(long.job())
        await room.becomes(handle.id, "active")
        await handle.cancel("not wanted")
        fields = await room.becomes(handle.id, "failed", timeout=7)
        assert fields["failedReason"] == "cancelled: not wanted"
        worker.stop()
        await running


async def test_its_concurrency_changes_while_it_runs(settings: RedisSettings) -> None:
    q = Handlers("q")
    running_now = most = 0

    @q.handler("nap")
    def nap() -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        time.sleep(0.02)
        running_now -= 1

    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q], concurrency=1)
        running = asyncio.create_task(worker.run())
        await client.enqueue_many(nap.job() for _ in range(20))
        await eventually(lambda: most)
        assert worker.concurrency == 1
        worker.concurrency = 8
        await client.enqueue_many(nap.job() for _ in range(100))
        await eventually(lambda: most > 4, 10)
        worker.stop()
        await running
        with pytest.raises(ValueError, match="whole number from 1"):
            worker.concurrency = 0


async def test_a_failing_lifespan_comes_through(settings: RedisSettings) -> None:
    import contextlib
    from collections.abc import Generator

    @contextlib.contextmanager
    def broken() -> Generator[None]:
        raise OSError("no database")
        yield

    q = Handlers("q", lifespan=broken)

    @q.handler("any")
    async def handle() -> None: ...

    async with Client(settings) as client, asyncio.timeout(60):
        with pytest.raises(OSError, match="no database"):
            await Worker(client, queue="q", handlers=[q]).run()


async def test_cancelling_run_gives_the_jobs_back(room: Room, settings: RedisSettings) -> None:
    q = Handlers("q")

    @q.handler("long")
    async def long() -> None:
        await asyncio.sleep(60)

    async with Client(settings) as client, asyncio.timeout(60):
        worker = Worker(client, queue="q", handlers=[q])
        running = asyncio.create_task(worker.run())
        handle = await client.enqueue(long.job())
        await room.becomes(handle.id, "active")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert await room.state(handle.id) in {"wait", "prioritized"}
    assert "atm" not in await room.fields(handle.id)
    assert await room.locks() == 0


async def test_what_cannot_work_is_refused_when_it_is_made(settings: RedisSettings) -> None:
    client = Client(settings)
    with pytest.raises(ConfigurationError, match="no handler for queue 'q'"):
        Worker(client, queue="q", handlers=[Handlers("other")])


async def test_a_limit_that_one_of_them_met_holds_the_other(settings: RedisSettings) -> None:
    q = Handlers("q")
    met: list[float] = []
    starts: list[float] = []

    @q.handler("limited")
    async def limited(ctx: Context[None]) -> None:
        if ctx.fence == 1:
            met.append(time.monotonic())
            raise RateLimited("2s")
        starts.append(time.monotonic())

    @q.handler("other")
    async def other() -> None:
        starts.append(time.monotonic())

    async with Client(settings) as client, asyncio.timeout(60):
        workers = [Worker(client, queue="q", handlers=[q], concurrency=1) for _ in range(2)]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        first = await client.enqueue(limited.job())
        queue = client.queue("q")
        await eventually(lambda: met)

        async def is_back() -> bool:
            return (await queue.counts())["waiting"] == 1

        await eventually(is_back)
        others = await client.enqueue_many(other.job() for _ in range(4))
        for handle in (first, *others):
            await handle.result(timeout="60s")
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
    assert len(starts) == 5
    assert min(starts) - met[0] >= 1.95
