"""The work queue, by a clock of its own."""

import asyncio
import itertools

import pytest

from bullpen_operator.workqueue import LONGEST_BACKOFF_SECONDS, WorkQueue, backoff


@pytest.fixture
async def queue():
    loop = asyncio.get_running_loop()
    return WorkQueue(clock=loop.time, random=lambda: 1.0)


async def drain(queue):
    found = []
    while len(queue):
        key = await queue.take()
        found.append(key)
        queue.done(key)
    return found


async def test_each_key_waits_once_and_in_order(queue):
    for key in "abcab":
        queue.add(key)
    assert len(queue) == 3
    assert await drain(queue) == ["a", "b", "c"]


async def test_a_key_that_comes_while_it_is_worked_on_waits_behind_all_others(queue):
    queue.add("a")
    queue.add("b")
    assert await queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert await queue.take() == "b"
    assert len(queue) == 1
    queue.done("a")
    queue.done("b")
    assert await drain(queue) == ["a"]


async def test_no_key_is_given_twice_at_once(queue):
    at_work, most = set(), 0

    async def work(key):
        nonlocal most
        assert key not in at_work
        at_work.add(key)
        most = max(most, len(at_work))
        await asyncio.sleep(0)
        if key < 3:
            queue.add(key)
        await asyncio.sleep(0)
        at_work.discard(key)

    for key in range(6):
        queue.add(key)
    running = asyncio.create_task(queue.run(work, 4))
    for _ in range(40):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert most == 4


@pytest.fixture
async def lanes():
    """Keys are pairs of a lane and a number."""
    loop = asyncio.get_running_loop()
    return WorkQueue(clock=loop.time, random=lambda: 1.0, lane=lambda key: key[0])


async def test_lanes_take_turns_and_within_one_it_is_first_in_first_out(lanes):
    for key in ("a1", "a2", "a3", "b1", "c1", "b2", "a1"):
        lanes.add(key)
    assert len(lanes) == 6
    assert await drain(lanes) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert lanes.idle


async def test_what_is_forgotten_waits_no_more(lanes):
    for key in ("a1", "a2", "b1"):
        lanes.add(key)
    lanes.forget("a1")
    lanes.forget("b1")
    lanes.forget("c1")
    assert len(lanes) == 1
    assert await drain(lanes) == ["a2"]


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 1), (4, 3), (8, 6)])
async def test_no_lane_has_all_the_workers(lanes, workers, most):
    done, gate = [], asyncio.Event()

    async def work(key):
        if key[0] == "a":  # a hundred that are slow
            await gate.wait()
        done.append(key)

    for number in range(100):
        lanes.add(f"a{number}")
    running = asyncio.create_task(lanes.run(work, workers))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(lanes._working) == most
    if workers > 1:
        lanes.add("b0")
        for _ in range(10):
            await asyncio.sleep(0)
        assert done == ["b0"]
    gate.set()
    for _ in range(400):
        await asyncio.sleep(0)
    assert len([key for key in done if key[0] == "a"]) == 100
    assert lanes.idle
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_delayed_key_comes_when_it_is_due_and_the_sooner_delay_counts(queue):
    queue.add("late", delay=60)
    queue.add("soon", delay=0.02)
    queue.add("late", delay=0.01)
    assert len(queue) == 0
    assert [await queue.take(), await queue.take()] == ["late", "soon"]


async def test_failures_wait_longer_each_time_until_one_succeeds(queue):
    assert [queue.failed("a") for _ in range(4)] == [0.5, 1.0, 2.0, 4.0]
    queue.succeeded("a")
    assert queue.failed("a") == 0.5
    queue.forget("a")
    assert len(queue) == 0


def test_the_backoff_is_bounded_and_spread():
    assert backoff(50, lambda: 1.0) == LONGEST_BACKOFF_SECONDS
    assert backoff(50, lambda: 0.0) == LONGEST_BACKOFF_SECONDS / 2


async def test_keys_that_wait_for_nothing_let_all_else_have_its_turn(queue):
    done, turns = [], []

    async def work(key):
        done.append(key)

    for key in range(100):
        queue.add(key)
    task = asyncio.create_task(queue.run(work, 2))
    while len(done) < 100:
        turns.append(len(done))
        await asyncio.sleep(0)
    task.cancel()
    assert max(later - before for before, later in itertools.pairwise([*turns, 100])) <= 4
