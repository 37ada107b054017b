"""What breaks first in BullMQ's Python port: waiting, limits, stopping, dying, blocking, and a Redis that is down.

Each test names in its first line what the port does; here it must not.
"""

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter

import pytest

from bullpen import Client, Handlers, RedisUnavailable, SyncClient, SyncContext
from bullpen.queue.keys import QueueKeys
from bullpen.redis.settings import RedisSettings
from bullpen_worker.keeping.custody import Custody, CustodyThread
from bullpen_worker.keeping.heartbeat import Entry
from bullpen_worker.running import fetching, markers
from tests.support.does import obedient, worker_process, working, write_policy
from tests.support.keeping import dead
from tests.support.waiting import eventually


def started_late_ms(raw, keys, job_id):
    due, started, delay = raw.hmget(keys.job(job_id), "timestamp", "processedOn", "delay")
    assert not int(delay or 0)  # moved out of delayed
    return int(started) - int(due)


def commands(raw):
    """How often each command was called since the last reset."""
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in raw.info("commandstats").items()}


@pytest.fixture
def unpolled(monkeypatch):
    """No worker looks by itself: what starts was started by what woke one."""
    monkeypatch.setattr(fetching, "POLL_MS", 3_600_000)
    monkeypatch.setattr(markers, "BLOCK_S", 3_600)


# -- 1. idle connections ---------------------------------------------------------------------------------------------


async def idle_for(bullpen_redis, queue, raw, keys, seconds):
    starts = []
    async with working(bullpen_redis, obedient(starts)):
        later = [
            await queue.enqueue("later", {"value": n}, delay=f"{round(each * 1000)}ms")
            for n, each in enumerate(seconds)
        ]
        waiting = asyncio.create_task(later[-1].result(timeout="60s"))
        await eventually(lambda: len(starts) == len(later), seconds[-1] + 30)
        assert await waiting == len(later) - 1
        for handle, each in zip(later, seconds, strict=True):
            assert started_late_ms(raw, keys, handle.id) >= each * 1000
        assert await (await queue.enqueue("work", {"value": "at once"})).result(timeout="60s") == "at once"


async def test_a_worker_idle_for_longer_than_a_socket_timeout_starts_delayed_jobs(bullpen_redis, queue, raw, keys):
    """Port: its blocking wait times out at 5 s and backs off; delayed jobs of 8 s did not run within a minute."""
    await idle_for(bullpen_redis, queue, raw, keys, [5.5, 6.5])


@pytest.mark.prove
async def test_a_worker_idle_for_long_starts_delayed_jobs(bullpen_redis, queue, raw, keys):
    """Port: the same with 8, 20 and 35 s."""
    await idle_for(bullpen_redis, queue, raw, keys, [8, 20, 35])


# -- 2. to 5. limits, lateness, concurrency ---------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "concurrency", "total", "jobs"), [(1, 10, 2, 40), (4, 5, 4, 80)])
async def test_worker_concurrency_above_total_concurrency_does_not_stall(
    bullpen_redis, queue, unpolled, workers, concurrency, total, jobs
):
    """Port: with total concurrency 2 and a worker of 10, 16 of 40 jobs were done after 40 s."""
    write_policy(bullpen_redis, concurrency={"total": total})
    running, most, done = 0, 0, 0
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        done += 1

    await asyncio.gather(*(queue.enqueue("work") for _ in range(jobs)))
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(workers):
            await stack.enter_async_context(working(bullpen_redis, handlers, concurrency=concurrency))
        await eventually(lambda: done == jobs)
    assert most == total


async def test_a_rate_limit_gives_a_burst_in_each_period(bullpen_redis, queue, raw, unpolled):
    """Port: looks again only every 5 s: 20 jobs at 5 in 1 s took 15 s."""
    write_policy(bullpen_redis, rateLimit={"jobs": 5, "per": "500ms"})
    starts = []
    async with working(bullpen_redis, obedient(starts), concurrency=10):
        await asyncio.gather(*(queue.enqueue("work") for _ in range(20)))
        await eventually(lambda: len(starts) == 20)
    at_ms = [int(at.partition("-")[0]) for at, event in raw.xrange("bull:q:events") if event["event"] == "active"]
    assert len(at_ms) == 20
    # The first opens a period; the last is not before the fourth, however late within their periods others came.
    assert at_ms[-1] - at_ms[0] >= 2.8 * 500


async def test_delayed_jobs_start_when_they_are_due(bullpen_redis, queue, raw, keys, unpolled):
    """Port: blocks in whole seconds, so that delayed jobs start 324 to 967 ms late."""
    starts, chance = [], random.Random(4)
    delays_ms = [chance.randrange(30, 1_500) for _ in range(30)]
    async with working(bullpen_redis, obedient(starts)):
        handles = [await queue.enqueue("work", {}, delay=f"{delay}ms") for delay in delays_ms]
        await eventually(lambda: len(starts) == 30)
    late_ms = [started_late_ms(raw, keys, each.id) - delay for each, delay in zip(handles, delays_ms, strict=True)]
    assert 0 <= min(late_ms) < 200  # of thirty the best: a machine that is busy, or stands still, delays some


async def test_concurrency_is_used(bullpen_redis, queue):
    """Port: fetches one job a time over one connection, so that more concurrency brings no more jobs a second."""
    running, most, done = 0, 0, 0
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        done += 1

    await asyncio.gather(*(queue.enqueue("work") for _ in range(200)))
    async with working(bullpen_redis, handlers, concurrency=50):
        await eventually(lambda: done == 200)
    assert most == 50


# -- 6. close --------------------------------------------------------------------------------------------------------


async def test_run_never_returns_while_a_job_runs(bullpen_redis, queue, raw, keys):
    """Port: `close()` returned with a job running in 10 of 40 trials; that job stalled when the process ended."""
    running, done, chance = 0, 0, random.Random(6)
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> None:
        nonlocal running, done
        running += 1
        await asyncio.sleep(chance.random() * 0.02)
        running -= 1
        done += 1

    async def feed():
        while True:
            await asyncio.gather(*(queue.enqueue("work") for _ in range(20)))

    feeding = asyncio.create_task(feed())
    for _ in range(20):
        before = done
        async with working(bullpen_redis, handlers, concurrency=10):
            await eventually(lambda before=before: done > before + 3)
        assert (running, raw.llen(keys.active)) == (0, 0)
    feeding.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await feeding
    assert not list(raw.scan_iter("bull:q:*:lock"))
    assert not any(raw.hexists(key, "stc") for key in raw.scan_iter("bull:q:*-*") if raw.type(key) == "hash")


# -- 7. death --------------------------------------------------------------------------------------------------------


async def test_a_killed_workers_job_comes_back_in_time_and_a_second_kill_does_not_fail_it(
    bullpen_redis, queue, raw, keys, tmp_path
):
    """Port: the job of a killed pod comes back after a minute, and a second kill fails it for good."""
    write_policy(bullpen_redis, recovery={"lockDuration": "1s", "checkInterval": "300ms"})
    handle = await queue.enqueue("work", {"does": "hang"}, attempts=1)
    log = tmp_path / "log"

    def started(times):
        return raw.hget(keys.job(handle.id), "ats") == str(times)

    def up(workers):
        return len(raw.hkeys(keys.workers)) >= workers

    with worker_process(bullpen_redis, log) as first:
        await eventually(lambda: started(1), 20)
        with worker_process(bullpen_redis, log) as second:
            await eventually(lambda: up(2), 20)
            first.kill()
            await eventually(lambda: raw.hget(keys.job(handle.id), "stc") == "1")
            await eventually(lambda: started(2), 20)  # it may have been the job that killed: a process of its own
            with worker_process(bullpen_redis, log):
                await eventually(lambda: up(3), 20)
                raw.hset(keys.job(handle.id), "data", '{"value": "done"}')
                second.kill()
                assert await handle.result(timeout="60s") == "done"
    assert raw.hmget(keys.job(handle.id), "atm", "ats") == ["1", "3"]


# -- 8. blocking handlers --------------------------------------------------------------------------------------------


async def test_a_handler_that_blocks_the_loop_for_longer_than_its_lock_runs_once(bullpen_redis, queue, raw, keys):
    """Port: renews locks in the loop that the handler blocks; the job ran twice and its first result was lost."""
    write_policy(bullpen_redis)
    runs = 0
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> str:
        nonlocal runs
        runs += 1
        ends = time.monotonic() + 3  # three lock durations
        while time.monotonic() < ends:
            pass
        return "done"

    async with working(bullpen_redis, handlers), worker_beside(bullpen_redis):
        handle = await queue.enqueue("work")
        await eventually(lambda: runs)
        assert await handle.result(timeout="60s") == "done"
    assert (runs, raw.hget(keys.job(handle.id), "ats"), raw.hget(keys.job(handle.id), "stc")) == (1, "1", None)


class Deaf:
    """Custody's hooks, to whom nothing matters."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@contextlib.asynccontextmanager
async def worker_beside(url):
    """Look for dead workers as a second worker does, from a thread: the test's own loop is blocked."""
    entry = Entry("host", 1, 0, 1, 0, 1, "working", ("work",), "0")
    settings = RedisSettings.from_url(url)
    thread = CustodyThread(
        lambda: Custody(settings, QueueKeys("bull", "q"), name=dead(7), hooks=Deaf(), entry=lambda: entry),
        lambda _error: None,
    )
    thread.start()
    try:
        yield
    finally:
        await asyncio.to_thread(thread.stop)


async def test_a_plain_function_is_a_handler(bullpen_redis, queue):
    """Port: a `def` handler fails after it has run: "object int can't be used in 'await' expression"."""
    handlers = Handlers("q")

    @handlers.handler("thread")
    def thread(ctx: SyncContext[None], number: int) -> int:
        ctx.progress(50)
        return number + 1

    async with working(bullpen_redis, handlers):
        assert await (await queue.enqueue("thread", {"number": 6}, attempts=1)).result(timeout="60s") == 7


# -- 9. names (with Node itself: tests/interop) --------------------------------------------------------------------------


async def test_each_worker_has_one_connection_with_the_name_that_nodes_tools_look_for(bullpen_redis, raw, keys):
    """Port: names both connections, and with the raw queue's name: Node's tools see none, its own each twice."""
    async with working(bullpen_redis, obedient()) as one, working(bullpen_redis, obedient()) as two:

        def named():
            names = Counter(each["name"] for each in raw.client_list() if ":w:" in each["name"])
            assert names == Counter({f"bull:cQ==:w:{one.name}": 1, f"bull:cQ==:w:{two.name}": 1})
            return True

        await eventually(named)


# -- 10. a Redis that is down ------------------------------------------------------------------------------------------


@pytest.fixture
def dead_port():
    with socket.socket() as taken:  # while this test runs nobody else may listen there
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_a_producer_fails_fast_when_redis_is_down(dead_port):
    """Port: `add` to a dead port still hung after 25 s."""
    async with Client(f"redis://127.0.0.1:{dead_port}", timeout="1s") as client, asyncio.timeout(20):
        with pytest.raises(RedisUnavailable, match=str(dead_port)):
            await client.queue("q").enqueue("work")
    with (
        SyncClient(f"redis://127.0.0.1:{dead_port}", timeout="1s") as client,
        pytest.raises(RedisUnavailable, match=str(dead_port)),
    ):
        await asyncio.to_thread(client.queue("q").enqueue, "work")


async def test_a_producer_fails_fast_when_redis_is_frozen(redis_server):
    """Port: the same with a server that accepts and says nothing."""
    async with Client(redis_server.url, timeout="500ms") as client:
        await client.queue("q").enqueue("work")
        redis_server.freeze()
        try:
            async with asyncio.timeout(20):
                with pytest.raises(RedisUnavailable):
                    await client.queue("q").enqueue("work")
        finally:
            redis_server.thaw()
        assert await (await client.queue("q").enqueue("work")).info()


# -- what it costs -----------------------------------------------------------------------------------------------------


async def test_a_job_costs_one_round_trip(bullpen_redis, queue, raw):
    """Port: acknowledges and fetches apart: two round trips a job. Here jobs that end together share one."""
    starts, jobs = [], 300
    await asyncio.gather(*(queue.enqueue("work") for _ in range(jobs)))
    raw.config_resetstat()
    async with working(bullpen_redis, obedient(starts), concurrency=5):
        await eventually(lambda: len(starts) == jobs)
    assert commands(raw)["evalsha"] < jobs + 40


async def test_high_concurrency_is_no_herd(bullpen_redis, queue, raw):
    """Port: at concurrency 100, ten spaced jobs cost 2,030 calls, in place of 50."""
    spent = {}
    for concurrency in (1, 100):
        starts = []
        async with working(bullpen_redis, obedient(starts), concurrency=concurrency):
            await (await queue.enqueue("first")).result(timeout="60s")
            raw.config_resetstat()
            for _ in range(10):
                await (await queue.enqueue("work")).result(timeout="60s")
            spent[concurrency] = commands(raw)["evalsha"]
        assert len(starts) == 11
    assert spent[100] < 100
    assert spent[100] - spent[1] < 40


async def test_each_running_job_has_a_lock_token_of_its_own(bullpen_redis, queue, raw):
    """Port: binds the token late, so that several jobs share one."""
    starts = []
    async with working(bullpen_redis, obedient(starts), concurrency=20, grace="100ms"):
        for _ in range(20):
            await queue.enqueue("work", {"does": "hang"})
        await eventually(lambda: len(starts) == 20)
        tokens = {raw.get(key) for key in raw.scan_iter("bull:q:*:lock")}
        assert len(tokens) == 20
