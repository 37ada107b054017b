"""Handlers in threads: what goes in, what comes out, and what becomes of those that do not end."""

import asyncio
import contextlib
import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator

import pytest

from bullpen.errors import Snooze
from bullpen_worker.executors.threads import ThreadPool
from support.waiting import eventually


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(4)
    yield pool
    pool.close()


async def test_it_runs_in_another_thread_and_gives_the_result(pool: ThreadPool) -> None:
    name, value = await pool.run(lambda: (threading.current_thread().name, 6 * 7))
    assert (name, value) == ("bullpen-handler-0", 42)


@pytest.mark.parametrize("error", [ValueError("no"), Snooze("5m"), SystemExit(3), StopAsyncIteration()])
async def test_it_raises_what_the_function_raises(pool: ThreadPool, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await pool.run(fail)
    assert raised.value is error
    assert [entry.name for entry in raised.traceback][-1] == "fail"


async def test_a_failed_call_leaves_no_cycle(pool: ThreadPool) -> None:
    class Held:
        pass

    def fail() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError

    seen: list[weakref.ref[Held]] = []
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            await pool.run(fail)
        await eventually(lambda: seen[0]() is None)
    finally:
        gc.enable()


async def test_context_variables_come_along_and_do_not_come_back(pool: ThreadPool) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("outer")

    def change() -> str:
        before = variable.get()
        variable.set("inner")
        return before

    assert [await pool.run(change) for _ in range(2)] == ["outer", "outer"]
    assert variable.get() == "outer"


async def test_threads_are_started_when_needed_and_used_again(pool: ThreadPool) -> None:
    barrier = threading.Barrier(3)
    for _ in range(20):
        assert await pool.run(threading.get_ident) == await pool.run(threading.get_ident)
    names = await asyncio.gather(
        *(pool.run(lambda: (barrier.wait(60), threading.current_thread().name)) for _ in "abc")
    )
    assert {name for _, name in names} == {f"bullpen-handler-{number}" for number in range(3)}


async def test_no_more_threads_than_its_size_and_the_size_can_be_raised(pool: ThreadPool) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        started.release()
        assert gate.wait(60)

    pool.size = 1
    calls = [asyncio.create_task(pool.run(block)) for _ in range(2)]
    await eventually(lambda: started.acquire(blocking=False))
    assert pool.busy == 2
    assert not started.acquire(blocking=False)
    pool.size = 3
    calls.append(asyncio.create_task(pool.run(block)))
    await eventually(lambda: started.acquire(blocking=False))
    gate.set()
    await asyncio.gather(*calls)
    assert pool.busy == 0


async def test_a_cancelled_call_keeps_its_slot_until_the_thread_ends(pool: ThreadPool) -> None:
    gate, started = threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        assert gate.wait(60)
        return "done"

    call = asyncio.create_task(pool.run(block))
    await eventually(started.is_set)
    for _ in range(3):
        call.cancel()
        done, _ = await asyncio.wait([call], timeout=0.02)
        assert not done
    assert pool.busy == 1
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert pool.busy == 0


async def test_a_timeout_around_it_is_a_timeout_after_the_thread_has_ended(pool: ThreadPool) -> None:
    gate = threading.Event()
    asyncio.get_running_loop().call_later(0.05, gate.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pool.run(lambda: gate.wait(60))
    assert gate.is_set()


async def test_closing_gives_up_on_a_thread_that_does_not_end() -> None:
    pool, gate, started = ThreadPool(1), threading.Event(), threading.Event()
    running = asyncio.create_task(pool.run(lambda: (started.set(), gate.wait(60))))
    queued = asyncio.create_task(pool.run(lambda: pytest.fail("it was closed before this began")))
    await eventually(started.is_set)
    pool.close()
    results = await asyncio.gather(running, queued, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(lambda: None)
    gate.set()
    await eventually(lambda: not any(thread.name.startswith("bullpen-handler") for thread in threading.enumerate()))


async def test_many_results_at_once_arrive_each_at_its_caller(pool: ThreadPool) -> None:
    async def square(number: int) -> int:
        return await pool.run(lambda: number * number)

    assert await asyncio.gather(*map(square, range(2000))) == [number * number for number in range(2000)]


def test_a_stuck_thread_does_not_keep_the_process_from_exiting() -> None:
    program = """
        import asyncio, threading
        from bullpen_worker.executors.threads import ThreadPool

        async def main():
            pool, started = ThreadPool(1), threading.Event()
            call = asyncio.create_task(pool.run(lambda: (started.set(), threading.Event().wait())))
            while not started.is_set():
                await asyncio.sleep(0.001)
            pool.close()
            await asyncio.wait([call])
            print("left", call.cancelled())

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left True\n", "")


@contextlib.contextmanager
def no_more_threads() -> Iterator[None]:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


async def test_a_call_that_gets_no_thread_is_not_run_later(pool: ThreadPool) -> None:
    """Its caller was told that it failed: the job may run again by then."""
    calls: list[str] = []
    with no_more_threads(), pytest.raises(RuntimeError, match="new thread"):
        await pool.run(lambda: calls.append("refused"))
    await pool.run(lambda: calls.append("served"))
    await pool.run(lambda: calls.append("served"))
    assert calls == ["served", "served"]


async def test_a_call_that_gets_no_thread_of_its_own_waits_for_one(pool: ThreadPool) -> None:
    end = threading.Event()
    first = asyncio.create_task(asyncio.wait_for(pool.run(end.wait), 60))
    await eventually(lambda: pool.busy)
    with no_more_threads():
        second = asyncio.create_task(pool.run(lambda: "served"))
        await eventually(lambda: pool.busy == 2)
        end.set()
        assert await second == "served"
    assert await first
