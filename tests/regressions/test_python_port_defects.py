"""The other defects of BullMQ's Python port: what loses, repeats or fails jobs there. Here it must not.

Each test names in its first line what the port does. What it shares with Node on purpose (the wire) is in tests/interop.
"""

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import pytest

from bullpen import Backoff, Client, Handlers, JobFailed, NonRetryableError, OptionInvalid
from bullpen.errors import ConfigurationError
from bullpen.queue import schedules
from bullpen.redis.settings import RedisSettings
from bullpen_worker import Worker
from bullpen_worker.running.hooks import NoHooks
from tests.support.does import obedient, worker_process, working, write_policy
from tests.support.proxy import proxy
from tests.support.waiting import eventually, never


def left(raw, keys):
    """What must be gone when all is done: what waits or runs, and locks."""
    return raw.llen(keys.wait), raw.llen(keys.active), sorted(raw.scan_iter("bull:q:*:lock"))


# -- what stands around a handler --------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["job_started", "job_ended", "fetched"])
async def test_a_hook_that_raises_neither_loses_nor_fails_a_job(bullpen_redis, queue, raw, keys, when):
    """Port: a `completed` listener that raises fails the finished job, an `active` one leaves it in `active`."""
    runs = 0
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> str:
        nonlocal runs
        runs += 1
        return "done"

    class Hooks(NoHooks):
        pass

    def broken(self, *args):
        raise RuntimeError("the hook is broken")

    setattr(Hooks, when, broken)
    handles = [await queue.enqueue("work", attempts=1) for _ in range(5)]
    async with working(bullpen_redis, handlers, hooks=Hooks()):
        for handle in handles:
            assert await handle.result(timeout="60s") == "done"
    assert runs == 5
    assert left(raw, keys) == (0, 0, [])


async def test_middleware_that_raises_is_an_attempt_that_failed(bullpen_redis, queue, raw, keys):
    """Port: what raises beside the handler leaves the job locked, or fails it with "Missing lock"."""
    calls = []

    async def around(ctx, call):
        if ctx.jobs[0].attempt == 1:
            raise RuntimeError("before")
        value = await call()
        calls.append(value)
        if len(calls) == 1:
            raise RuntimeError("after")
        return value

    write_policy(bullpen_redis, retry={"attempts": 3, "backoff": {"type": "Immediate"}})
    starts = []
    handle = await queue.enqueue("work", {"value": 7}, attempts=3, backoff=Backoff.immediate())
    async with working(bullpen_redis, obedient(starts), middleware=[around]):
        assert await handle.result(timeout="60s") == 7
    assert [start.attempt for start in starts] == [2, 3]
    traces = json.loads(raw.hget(keys.job(handle.id), "stacktrace"))
    assert ["before" in traces[0], "after" in traces[1], len(traces)] == [True, True, 2]
    assert left(raw, keys) == (0, 0, [])


async def test_an_unexpected_error_ends_the_worker_loudly(bullpen_redis, raw, keys):
    """Port: prints a traceback, and `run()` returns as if all were well: the pod stays ready and does nothing."""
    raw.set(keys.wait, "not a list")
    async with Client(bullpen_redis) as client:
        worker = Worker(client, queue="q", handlers=[obedient()])
        with pytest.raises(Exception, match="WRONGTYPE"):
            await asyncio.wait_for(worker.run(), 60)


async def test_an_unexpected_error_ends_the_process_with_its_reason(bullpen_redis, raw, keys, tmp_path):
    """Port: the same, seen from outside: no exit, no code."""
    raw.set(keys.wait, "not a list")
    log = tmp_path / "log"
    with worker_process(bullpen_redis, log) as process:
        await eventually(lambda: process.poll() is not None, 30)
    assert process.returncode == 1
    assert "WRONGTYPE" in log.read_text()


async def test_a_failing_start_is_raised(bullpen_redis):
    """Port: starts its loop in a task that nobody awaits: errors vanish."""

    @contextlib.asynccontextmanager
    async def deps():
        raise ConnectionError("no mail server")
        yield

    handlers = Handlers("q", lifespan=deps)

    @handlers.handler("work")
    async def work() -> None: ...

    async with Client(bullpen_redis) as client:
        worker = Worker(client, queue="q", handlers=[handlers])
        with pytest.raises(ConnectionError, match="no mail server"):
            await asyncio.wait_for(worker.run(), 60)


# -- the end of a job ----------------------------------------------------------------------------------------------------


async def test_a_completion_whose_reply_is_lost_is_written_and_no_failure(bullpen_redis, queue, raw, keys):
    """Port: an error while it writes the completion turns into `moveToFailed`: a job that succeeded runs again."""
    async with proxy(bullpen_redis) as between:
        starts = []
        async with working(between.url, obedient(starts)):
            handle = await queue.enqueue("work", {"ms": 200, "value": "done"}, attempts=5)
            await eventually(lambda: starts)
            between.lose_replies = True
            await eventually(lambda: raw.zcard(keys.completed) == 1)
            between.lose_replies = False
            between.cut()
            assert await handle.result(timeout="60s") == "done"
            after = await queue.enqueue("work", {"value": "next"})
            assert await after.result(timeout="60s") == "next"
    assert raw.hmget(keys.job(handle.id), "atm", "ats", "failedReason") == ["1", "1", None]
    assert (len(starts), left(raw, keys)) == (2, (0, 0, []))


def too_few_replicas(raw, *, refuse):
    raw.config_set("min-replicas-to-write", int(refuse))


def read_only(raw, *, refuse):
    """As the old primary of a failover is, until it is the primary again."""
    raw.replicaof("127.0.0.1", "1") if refuse else raw.replicaof("NO", "ONE")


@pytest.mark.parametrize("let", [too_few_replicas, read_only])
async def test_a_completion_that_redis_cannot_take_now_is_written_later(bullpen_redis, queue, raw, keys, let):
    """Port: the same, where the write has not happened: Redis refuses writes for a moment."""
    started, go = asyncio.Event(), asyncio.Event()
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> str:
        started.set()
        await go.wait()
        return "done"

    async with working(bullpen_redis, handlers):
        handle = await queue.enqueue("work", attempts=5)
        await started.wait()
        let(raw, refuse=True)
        go.set()
        try:
            await never(lambda: raw.zcard(keys.completed), 0.5)
        finally:
            let(raw, refuse=False)
        assert await handle.result(timeout="60s") == "done"
    assert raw.hmget(keys.job(handle.id), "atm", "ats", "failedReason") == ["1", "1", None]


async def test_an_idle_worker_bears_a_redis_that_refuses_its_wait(bullpen_redis, queue, raw):
    """Port: an error at its blocking read ends its loop."""

    def refused():
        return raw.info("commandstats").get("cmdstat_bzpopmin", {}).get("rejected_calls")

    async with working(bullpen_redis, obedient()):
        (waits,) = await eventually(lambda: [each for each in raw.client_list() if each["cmd"] == "bzpopmin"])
        raw.config_resetstat()
        raw.execute_command("ACL", "SETUSER", "default", "-bzpopmin")
        try:
            raw.client_unblock(waits["id"])
            await eventually(refused)
        finally:
            raw.execute_command("ACL", "SETUSER", "default", "+bzpopmin")
        assert await (await queue.enqueue("work", {"value": "well"})).result(timeout="60s") == "well"


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), b"bytes"], ids=["object", "set", "NaN", "bytes"])
async def test_a_result_that_is_no_json_fails_once_and_says_so(bullpen_redis, queue, raw, keys, value):
    """Port: fails in the middle of its acknowledgement, and runs the handler again."""
    runs = 0
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> Any:
        nonlocal runs
        runs += 1
        return value

    handle = await queue.enqueue("work", attempts=5, backoff=Backoff.immediate())
    async with working(bullpen_redis, handlers):
        with pytest.raises(JobFailed, match="result of job 'work'") as caught:
            await handle.result(timeout="60s")
    assert caught.value.error_type == "bullpen.ResultInvalid"
    assert (runs, left(raw, keys)) == (1, (0, 0, []))


@pytest.mark.parametrize(
    ("field", "value"),
    [("data", "{broken"), ("data", ""), ("data", "\xff\xfe"), ("data", "[" * 100_000), ("data", "NaN")],
    ids=["broken", "empty", "no UTF-8", "deep", "NaN"],
)
async def test_a_job_whose_data_cannot_be_read_fails_clearly_and_does_not_loop(
    bullpen_redis, queue, raw, keys, field, value
):
    """Port: raises before it can fail the job, which the stalled check returns for ever."""
    write_policy(bullpen_redis)
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work(number: int) -> int:
        return number

    await queue.pause()
    broken, sound = await queue.enqueue("work", {"number": 1}), await queue.enqueue("work", {"number": 2})
    raw.hset(keys.job(broken.id), field, value.encode("latin-1"))
    await queue.resume()
    async with working(bullpen_redis, handlers):
        assert await sound.result(timeout="60s") == 2
        await eventually(lambda: raw.zscore(keys.failed, broken.id))
    reason, started = raw.hmget(keys.job(broken.id), "failedReason", "ats")
    assert "payload of job 'work'" in reason
    assert (started, left(raw, keys)) == ("1", (0, 0, []))


@pytest.mark.parametrize(
    "fields",
    [
        {"opts": "{broken"},
        {"opts": "[]"},
        {"opts": '{"attempts": "many", "backoff": [], "removeOnComplete": "x", "bullpen": 7}'},
        {"timestamp": "yesterday", "delay": "x", "priority": "", "atm": "?"},
        {"stacktrace": "{broken", "progress": "{broken", "rjk": "gone", "parentKey": ""},
    ],
    ids=["opts broken", "opts a list", "opts of wrong types", "numbers", "others"],
)
async def test_a_job_whose_record_is_damaged_does_not_stop_the_worker(bullpen_redis, queue, raw, keys, fields):
    """Port: the same for every other field of the job."""
    write_policy(bullpen_redis, retry={"attempts": 1})
    await queue.pause()
    damaged, sound = await queue.enqueue("work", {"value": 1}), await queue.enqueue("work", {"value": 2})
    raw.hset(keys.job(damaged.id), mapping=fields)
    await queue.resume()
    async with working(bullpen_redis, obedient()):
        assert await sound.result(timeout="60s") == 2
        await eventually(lambda: left(raw, keys) == (0, 0, []))
    assert raw.zcard(keys.completed) + raw.zcard(keys.failed) == 2


async def test_a_traceback_is_kept_within_bounds(bullpen_redis, queue, raw, keys):
    """Port: keeps a whole traceback for each attempt, whatever its length, for ever."""
    handlers = Handlers("q")

    @handlers.handler("work")
    async def work() -> None:
        def down(depth):
            if depth:
                down(depth - 1)
            raise ValueError("x" * 100_000)

        down(sys.getrecursionlimit() // 2)

    handle = await queue.enqueue("work", attempts=15, backoff=Backoff.immediate())
    async with working(bullpen_redis, handlers):
        with pytest.raises(JobFailed):
            await handle.result(timeout="60s")
    traces = json.loads(raw.hget(keys.job(handle.id), "stacktrace"))
    assert len(traces) <= 10
    assert len(raw.hget(keys.job(handle.id), "stacktrace")) < 200_000


# -- retries -----------------------------------------------------------------------------------------------------------


async def test_jitter_is_honoured(bullpen_redis, queue, port, raw, keys):
    """Port: a backoff of 1000 ms with jitter 0.9 is 1000 ms each time."""
    wire = {"attempts": 2, "backoff": {"type": "fixed", "delay": 3_600_000, "jitter": 0.9}}
    for _ in range(12):
        await queue.enqueue("work", {"does": "fail"}, attempts=2, backoff=Backoff.fixed("1h", jitter=0.9))
        await port.add("work", {"does": "fail"}, wire)
    async with working(bullpen_redis, obedient()):
        await eventually(lambda: raw.zcard(keys.delayed) == 24)
    now_ms = time.time() * 1000
    waits = sorted(score / 4096 - now_ms for _, score in raw.zrange(keys.delayed, 0, -1, withscores=True))
    assert 0.1 * 3_600_000 - 20_000 < waits[0] < waits[-1] <= 3_600_000
    assert waits[-1] - waits[0] > 0.2 * 3_600_000  # one in a million by chance
    assert len({round(wait) for wait in waits}) > 12


async def test_a_backoff_may_be_a_fraction(bullpen_redis, port, raw, keys):
    """Port: passes over a backoff that is no `int`, and retries at once."""
    await port.add("work", {"does": "fail"}, {"attempts": 2, "backoff": 3_600_000.5})
    async with working(bullpen_redis, obedient()):
        await eventually(lambda: raw.zcard(keys.delayed) == 1)


async def test_an_async_backoff_function_decides(bullpen_redis, queue, raw, keys):
    """Port: an async strategy leaves the job in `active`."""
    handlers = Handlers("q")
    asked = []

    async def later(attempt, error):
        await asyncio.sleep(0)
        asked.append((attempt, str(error)))
        return "10ms"

    @handlers.handler("work", attempts=3, backoff_for=later)
    async def work() -> None:
        raise ValueError("no")

    handle = await queue.enqueue(work.job())
    async with working(bullpen_redis, handlers):
        with pytest.raises(JobFailed):
            await handle.result(timeout="60s")
    assert asked == [(1, "no"), (2, "no")]
    assert left(raw, keys) == (0, 0, [])


async def test_a_backoff_function_that_raises_loses_no_job(bullpen_redis, queue, raw, keys):
    """Port: the same for one that raises."""
    handlers = Handlers("q")

    def later(attempt, error):
        raise KeyError("no such plan")

    @handlers.handler("work", attempts=2, backoff=Backoff.fixed("10ms"), backoff_for=later)
    async def work() -> None:
        raise ValueError("no")

    handle = await queue.enqueue(work.job())
    async with working(bullpen_redis, handlers):
        with pytest.raises(JobFailed):
            await handle.result(timeout="60s")
    assert left(raw, keys) == (0, 0, [])


async def test_a_retried_job_has_all_its_attempts_again_and_its_priority(bullpen_redis, queue, raw, keys):
    """Port: a job that is retried after its last attempt has one attempt, and no priority."""
    starts = []
    async with working(bullpen_redis, obedient(starts)):
        handle = await queue.enqueue("work", {"does": "fail"}, attempts=2, priority=5, backoff=Backoff.immediate())
        with pytest.raises(JobFailed):
            await handle.result(timeout="60s")
    await handle.retry()
    assert (await handle.info()).state == "prioritized"
    async with working(bullpen_redis, obedient(starts)):
        with pytest.raises(JobFailed):
            await handle.result(timeout="60s")
    assert [start.attempt for start in starts] == [1, 2, 1, 2]


async def test_giving_up_spends_no_further_attempt(bullpen_redis, queue):
    """Port: has it as `UnrecoverableError` alone, and no `discard`."""
    runs = 0
    handlers = Handlers("q")

    @handlers.handler("work", give_up_on=(PermissionError,))
    async def work(how: str) -> None:
        nonlocal runs
        runs += 1
        raise PermissionError(how) if how == "listed" else NonRetryableError(how)

    handles = [await queue.enqueue("work", {"how": how}, attempts=5) for how in ("listed", "raised")]
    async with working(bullpen_redis, handlers):
        for handle in handles:
            with pytest.raises(JobFailed):
                await handle.result(timeout="60s")
    assert runs == 2


# -- the worker's own end, and poison ------------------------------------------------------------------------------------


async def test_stopping_past_the_grace_period_gives_jobs_back(bullpen_redis, queue, raw, keys):
    """Port: `close()` waits without end; forced, it leaves its jobs in `active`."""
    starts = []
    handles = [await queue.enqueue("work", {"does": "hang"}) for _ in range(3)]
    async with working(bullpen_redis, obedient(starts), grace="100ms"):
        await eventually(lambda: len(starts) == 3)
    assert left(raw, keys) == (3, 0, [])
    assert [raw.hget(keys.job(handle.id), "atm") for handle in handles] == [None] * 3


async def test_a_schedulers_job_that_kills_its_process_is_quarantined(
    bullpen_redis, client, queue, raw, keys, tmp_path
):
    """Port: a stalled job of a scheduler is never failed: one that kills its pod loops."""
    write_policy(bullpen_redis, recovery={"lockDuration": "1s", "checkInterval": "300ms", "maxCrashes": 2})
    schedule = schedules.Schedule("poison", "work", '{"does": "die"}', every_ms=3_600_000)
    await client._session.run(schedules.upsert(keys, schedule, time.time_ns() // 1_000_000))
    with worker_process(bullpen_redis, tmp_path / "log", "--concurrency", "1"):
        await eventually(lambda: raw.zcard(keys.failed) == 1, 40)
        healthy = await queue.enqueue("work", {"value": "well"})
        assert await healthy.result(timeout="60s") == "well"
    (poison,) = raw.zrange(keys.failed, 0, -1)
    assert poison.startswith("repeat:poison:")
    assert raw.hget(keys.job(poison), "failedReason").startswith("quarantined: ")
    assert raw.zcard(keys.delayed) == 1  # the schedule goes on


# -- waiting for results, producers, settings ------------------------------------------------------------------------------


async def test_waiting_for_a_result_outlives_a_lost_connection(bullpen_redis, queue, raw):
    """Port: its event reader ends for good at the first error, and it has no way to wait for a result."""
    async with working(bullpen_redis, obedient()):
        handle = await queue.enqueue("work", {"ms": 3_000, "value": "done"})
        waiting = asyncio.create_task(handle.result(timeout="60s"))
        await eventually(lambda: any(each["cmd"] == "xread" for each in raw.client_list()))
        raw.client_kill_filter(_type="normal", skipme=True)
        assert await waiting == "done"


@pytest.mark.parametrize(
    "options",
    [{"job_id": "7"}, {"job_id": "a:b"}, {"job_id": ""}, {"priority": 2_097_153}, {"priority": -1}, {"attempts": 0}],
    ids=str,
)
async def test_what_node_refuses_is_refused(queue, raw, keys, options):
    """Port: checks no ids, no priorities."""
    with pytest.raises(OptionInvalid):
        await queue.enqueue("work", {}, **options)
    assert not raw.exists(keys.wait)


@pytest.mark.parametrize("version", ["7.2", "7", "7.2.4-rc1", "255.255.255", "8.0.0.1"])
def test_no_version_of_redis_is_too_loosely_written(version):
    """Port: wants strict semver, and raises at "7.2"."""
    from bullpen.redis.findings import _version

    assert _version({"redis_version": version}, {}).found == f"Redis {version}"


@pytest.mark.parametrize(
    "url", ["redis://h/0?decode_responses=true", "redis://h/0?retry=5", "redis://h/0?socket_timeout=5"]
)
def test_settings_that_would_break_it_are_refused_by_name(url):
    """Port: such words in its connection collide with its own: a TypeError, or a worker that hangs."""
    with pytest.raises(ConfigurationError, match="unknown option"):
        RedisSettings.from_url(url)


async def test_jobs_of_the_ports_own_producer_run(bullpen_redis, port, raw, keys):
    """Port: as a producer it is served like Node: bulk, delays, priorities, retries."""
    write_policy(bullpen_redis, retry={"attempts": 2, "backoff": {"type": "Immediate"}})
    await port.add("plain", {"value": 1}, {})
    await port.add("failing", {"does": "fail"}, {})
    await port.add("delayed", {"value": 2}, {"delay": 50})
    await port.addBulk([{"name": "bulk", "data": {"value": n}, "opts": {"priority": 3}} for n in range(10)])
    starts = []
    async with working(bullpen_redis, obedient(starts)):
        await eventually(lambda: raw.zcard(keys.completed) == 12 and raw.zcard(keys.failed) == 1)
    assert sorted(start.name for start in starts) == ["bulk"] * 10 + ["delayed", "failing", "failing", "plain"]
