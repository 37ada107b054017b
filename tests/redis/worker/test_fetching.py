"""When a worker asks for jobs, and that no wake-up is lost."""

import asyncio
import time
from collections import Counter

import pytest

from bullpen import Handlers
from bullpen_worker.running import fetching, markers
from tests.redis.worker.conftest import Ends, Room
from tests.support.waiting import eventually

AN_HOUR_S = 3_600


@pytest.fixture
def unpolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker looks by itself: what starts was started by what woke one."""
    monkeypatch.setattr(fetching, "POLL_MS", AN_HOUR_S * 1_000)
    monkeypatch.setattr(markers, "BLOCK_S", AN_HOUR_S)


def sleepers(seconds: float = 0.0) -> tuple[Handlers[None], list[float]]:
    q = Handlers("q")
    starts: list[float] = []

    @q.handler("nap")
    async def nap() -> None:
        starts.append(time.time())
        if seconds:
            await asyncio.sleep(seconds)

    return q, starts


@pytest.mark.parametrize("concurrency", [1, 50])
async def test_every_job_runs_once_and_leaves_nothing_behind(room: Room, ends: Ends, concurrency: int) -> None:
    q = Handlers("q")
    runs: Counter[str] = Counter()

    @q.handler("count")
    async def count(number: int) -> int:
        runs[str(number)] += 1
        return number

    jobs = 20_000 if concurrency > 1 else 2_000
    for start in range(0, jobs, 500):
        await asyncio.gather(
            *(room.add("count", {"number": n}, {"removeOnComplete": 1000}) for n in range(start, start + 500))
        )
    async with room.engine(q, hooks=ends, concurrency=concurrency):
        await room.idle(ends, jobs, timeout=120)
    assert len(runs) == jobs
    assert set(runs.values()) == {1}
    assert await room.counts() == {"completed": 1000}
    assert await room.locks() == 0
    assert int((await room.fields("1")).get("atm", "1")) == 1
    assert await room.link.call("HGET", room.keys.metrics_completed, "count") == str(jobs).encode()


async def test_delayed_jobs_start_when_they_are_due(room: Room, ends: Ends, unpolled: None) -> None:
    q = Handlers("q")
    late: list[float] = []

    @q.handler("due")
    async def due(at: float) -> None:
        late.append(time.time() * 1000 - at)

    async with room.engine(q, hooks=ends):
        for number in range(20):
            delay = 60 + 37 * number
            now = int(time.time() * 1000)
            await room.add("due", {"at": now + delay}, {"delay": delay, "timestamp": now})
        await room.idle(ends, 20)
    assert min(late) >= 0  # the benchmark says how late they are


async def test_total_concurrency_below_ours_neither_stalls_nor_is_passed(
    room: Room, ends: Ends, unpolled: None
) -> None:
    q = Handlers("q")
    running = most = 0

    @q.handler("nap")
    async def nap() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1

    await room.link.call("HSET", room.keys.meta, "concurrency", 2)
    for _ in range(40):
        await room.add("nap")
    async with room.engine(q, hooks=ends, concurrency=10):
        await room.idle(ends, 40)
    assert most == 2


async def test_a_rate_limit_gives_a_burst_in_each_window(room: Room, ends: Ends, unpolled: None) -> None:
    q, _ = sleepers()
    await room.link.call("HSET", room.keys.meta, "max", 5, "duration", 300)
    for _ in range(15):
        await room.add("nap")
    async with room.engine(q, hooks=ends):
        await room.idle(ends, 15)
    events = await room.link.call("XRANGE", room.keys.events, "-", "+")
    assert isinstance(events, list)
    # By Redis' clock: ours may be put off in between.
    starts = [int(entry[0].split(b"-")[0]) for entry in events if entry[1][1] == b"active"]  # type: ignore[index,union-attr]
    assert len(starts) == 15
    # The first opens a window; the last is not before the third, however late within their windows others came.
    assert starts[-1] - starts[0] >= 1.8 * 300  # the event is stamped a moment after its window has opened


async def test_an_idle_worker_is_woken_by_each_job(room: Room, ends: Ends, unpolled: None) -> None:
    q, _ = sleepers()
    async with room.engine(q, hooks=ends, concurrency=100, slots=100):
        for number in range(20):
            await room.add("nap")
            await room.idle(ends, number + 1)


async def test_an_idle_worker_hardly_asks(room: Room, ends: Ends) -> None:
    q, _ = sleepers()

    async def commands() -> int:
        info = await room.link.call("INFO", "commandstats")
        lines = info.decode().splitlines()  # type: ignore[union-attr]
        return sum(
            int(line.split("calls=")[1].split(",")[0])
            for line in lines
            if line.startswith(("cmdstat_evalsha", "cmdstat_bzpopmin"))
        )

    async with room.engine(q, hooks=ends, concurrency=100, slots=100) as engine:
        await eventually(lambda: engine.table.last_fetch_ms)
        await asyncio.wait({asyncio.ensure_future(asyncio.Event().wait())}, timeout=0.1)
        before = await commands()
        await asyncio.wait({asyncio.ensure_future(asyncio.Event().wait())}, timeout=6)
        assert await commands() - before <= 4


async def test_a_paused_queue_is_resumed_without_waiting_for_the_poll(room: Room, ends: Ends, unpolled: None) -> None:
    q, _ = sleepers()
    await room.link.call("HSET", room.keys.meta, "paused", 1)
    await room.add("nap")
    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.table.last_fetch_ms)
        assert not ends.ends
        await room.link.call("HDEL", room.keys.meta, "paused")
        await room.link.call("ZADD", room.keys.marker, 0, "0")  # as BullMQ's pause-7 does
        await room.idle(ends, 1)


async def test_a_held_worker_leaves_the_markers_to_others(room: Room, ends: Ends, unpolled: None) -> None:
    q, _ = sleepers()
    others = Ends()
    async with room.engine(q, hooks=ends) as held, room.engine(q, hooks=others):
        await eventually(lambda: held.table.last_fetch_ms)
        held.hold()
        for number in range(10):
            await room.add("nap", opts={"priority": 3} if number % 2 else {})
            await room.idle(others, number + 1)
        assert not ends.ends
        assert not held.table.fetching
        held.release()
        await eventually(lambda: held.table.fetching)


async def test_a_retiring_worker_passes_its_share_of_the_total_on(room: Room, ends: Ends, unpolled: None) -> None:
    q, _ = sleepers(0.2)
    others = Ends()
    await room.link.call("HSET", room.keys.meta, "concurrency", 1)
    async with room.engine(q, hooks=ends) as first:
        await room.add("nap", opts={"priority": 5})
        await eventually(lambda: first.busy)
        async with room.engine(q, hooks=others) as second:
            await eventually(lambda: second.table.last_fetch_ms)
            await room.add("nap", opts={"priority": 5})
            first.hold()
            await room.idle(others, 1)
    assert ends.outcomes() == ["completed"]


async def test_concurrency_follows_orders_at_run_time(room: Room, ends: Ends) -> None:
    q = Handlers("q")
    running = 0
    seen: list[int] = []

    @q.handler("nap")
    async def nap() -> None:
        nonlocal running
        running += 1
        seen.append(running)
        await asyncio.sleep(0.02)
        running -= 1

    for _ in range(120):
        await room.add("nap")
    async with room.engine(q, hooks=ends, concurrency=8) as engine:
        await room.idle(ends, 30)
        assert max(seen) == 8
        engine.concurrency = 2
        await eventually(lambda: engine.busy <= 2)
        seen.clear()
        await room.idle(ends, len(ends.ends) + 10)
        assert max(seen) <= 2
        engine.concurrency = 0
        await eventually(lambda: engine.busy == 0)
        engine.concurrency = 6
        await room.idle(ends, 120)
        assert max(seen) == 6
    assert await room.counts() == {"completed": 120}


async def test_it_is_named_as_node_names_workers(room: Room, ends: Ends) -> None:
    q, _ = sleepers()
    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.table.last_fetch_ms)

        async def named() -> bool:
            listed = (await room.link.call("CLIENT", "LIST")).decode()  # type: ignore[union-attr]
            return listed.count(" name=test:cQ==:w:host@0123456789ab ") == 1

        await eventually(named)


async def test_flushed_scripts_are_loaded_again(room: Room, ends: Ends) -> None:
    q, _ = sleepers(0.01)
    async with room.engine(q, hooks=ends, concurrency=2) as engine:
        for number in range(30):
            await room.add("nap", opts={"attempts": 2})
            if number % 10 == 0:
                await eventually(lambda: engine.busy)
                await room.link.call("SCRIPT", "FLUSH")
        await room.idle(ends, 30)
    assert await room.counts() == {"completed": 30}
    assert set(ends.outcomes()) == {"completed"}


async def test_two_workers_share_a_queue(room: Room, ends: Ends) -> None:
    q, _ = sleepers()
    others = Ends()
    await room.add_many("nap", 1000)
    async with room.engine(q, hooks=ends, concurrency=3), room.engine(q, hooks=others, concurrency=3):
        await eventually(lambda: len(ends.ends) + len(others.ends) == 1000, 20)
    assert ends.ends
    assert others.ends
    ids = {end.job_id for end in (*ends.ends, *others.ends)}
    assert len(ids) == 1000
    assert await room.locks() == 0


@pytest.mark.parametrize("delay", [1e300, 1.7976931348623157e308])
async def test_a_job_that_is_delayed_for_ever_disturbs_nobody(room: Room, ends: Ends, delay: float) -> None:
    """Node's ``delay: Number.MAX_VALUE``: its score is more than a whole number holds, or infinite."""
    q, starts = sleepers()
    async with room.engine(q, hooks=ends) as engine:
        await eventually(lambda: engine.table.last_fetch_ms)
        assert engine._fetcher
        outlook = engine._fetcher._outlook
        never = await room.add("nap", opts={"delay": delay})
        await eventually(lambda: outlook.due_ms > time.time() * 1000)  # by the marker
        engine._fetcher.look()
        await eventually(lambda: outlook.due_ms == 0)  # by the answer to a fetch, which cannot say such a time
        for _ in range(2):
            await room.add("nap")
        await room.idle(ends, 2)
        assert await room.state(never) == "delayed"
    assert len(starts) == 2
