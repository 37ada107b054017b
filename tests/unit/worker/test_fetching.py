"""What the fetcher decides, by a clock that stands still."""

import asyncio
import gc
from collections import deque

import pytest

from bullpen_worker.running import fetching
from bullpen_worker.running.fetching import (
    FETCH,
    LIMIT_CAP_MS,
    NOTHING,
    PARK,
    POLL_MS,
    UNTOLD,
    Empty,
    Fetcher,
    Outlook,
    Step,
)
from tests.support.waiting import eventually

NOW = 1_000_000


def outlook(free: int = 1, **known: object) -> Outlook:
    return Outlook(free, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "step"),
    [
        (outlook(), FETCH),
        (outlook(0), PARK),
        (outlook(-1), PARK),
        (outlook(3, holding=True), PARK),
        (outlook(drained=True, fetched_ms=NOW), Step(listen=True, until_ms=NOW + POLL_MS)),
        (outlook(drained=True, fetched_ms=NOW, due_ms=NOW + 40), Step(listen=True, until_ms=NOW + 40)),
        (outlook(drained=True, fetched_ms=NOW, due_ms=NOW + 90_000), Step(listen=True, until_ms=NOW + POLL_MS)),
        (outlook(drained=True, fetched_ms=NOW, due_ms=NOW), FETCH),
        (outlook(drained=True, fetched_ms=NOW - POLL_MS), FETCH),
        (outlook(limited_until_ms=NOW + 30), Step(until_ms=NOW + 30)),
        (outlook(limited_until_ms=NOW + 90_000), Step(until_ms=NOW + LIMIT_CAP_MS)),
        (outlook(limited_until_ms=NOW), FETCH),
    ],
)
def test_the_next_step(known: Outlook, step: Step) -> None:
    assert known.step(NOW) == step


def test_a_clock_that_is_set_back_is_no_reason_to_wait() -> None:
    known = outlook(limited_until_ms=NOW + 1000)
    assert known.step(NOW) == Step(until_ms=NOW + 1000)
    assert known.step(NOW - 500_000) == FETCH
    known = outlook(drained=True, fetched_ms=NOW)
    assert known.step(NOW).listen
    assert known.step(NOW - 500_000) == FETCH


def test_what_an_answer_teaches() -> None:
    known = outlook()
    known.learn(NOTHING, NOW)
    assert known.step(NOW).listen
    known.learn(Empty(due_ms=NOW + 10), NOW)
    assert known.step(NOW).until_ms == NOW + 10
    known.learn(Empty(limited_ms=70), NOW)
    assert known.step(NOW) == Step(until_ms=NOW + 70)
    assert known.step(NOW + 70) == FETCH
    known.learn(NOTHING, NOW + 80)
    known.learn(UNTOLD, NOW + 80)
    assert known.step(NOW + 80) == FETCH


def test_a_long_limit_is_looked_at_again_and_again() -> None:
    """Each fetch promotes what is due, notices a limit that was lifted, and shows that the worker lives."""
    known = outlook()
    known.learn(Empty(limited_ms=3_600_000), NOW)
    assert known.step(NOW) == Step(until_ms=NOW + LIMIT_CAP_MS)
    assert known.step(NOW + LIMIT_CAP_MS) == FETCH


def test_what_a_marker_teaches() -> None:
    known = outlook(drained=True, fetched_ms=NOW)
    known.marker(NOW + 500, NOW)
    assert known.step(NOW) == Step(listen=True, until_ms=NOW + 500)
    known.marker(0, NOW)
    assert known.step(NOW) == FETCH


class Lost(Exception): ...


class Queue:
    """Redis, as the fetcher sees it."""

    def __init__(self) -> None:
        self.answers: deque[Empty | Exception | None] = deque()
        self.fetches = 0
        self.waits: list[asyncio.Future[int | None]] = []
        self.put_back_count = 0
        self.hungry: list[bool] = []

    async def fetch(self) -> Empty | None:
        self.fetches += 1
        answer = self.answers.popleft() if self.answers else NOTHING
        if isinstance(answer, Exception):
            raise answer
        return answer

    def listen(self) -> asyncio.Future[int | None]:
        self.waits.append(asyncio.get_running_loop().create_future())
        return self.waits[-1]

    async def unblock(self) -> None:
        if self.waits and not self.waits[-1].done():
            self.waits[-1].set_result(None)

    async def put_back(self) -> None:
        self.put_back_count += 1

    def fetcher(self, free: int = 2) -> Fetcher:
        return Fetcher(
            free=free,
            fetch=self.fetch,
            marker=self,
            clock_ms=lambda: NOW,
            on_hungry=self.hungry.append,
            passing=(Lost,),
        )


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_it_fetches_until_there_is_nothing_and_then_listens_once() -> None:
    queue = Queue()
    queue.answers.extend([None, None, NOTHING])
    fetcher = queue.fetcher()
    running = asyncio.create_task(fetcher.run())
    await turns()
    assert (queue.fetches, len(queue.waits)) == (3, 1)
    queue.waits[0].set_result(0)
    await turns()
    assert (queue.fetches, len(queue.waits)) == (4, 2)
    fetcher.close()
    await running
    assert queue.hungry == [True, False]


async def test_a_marker_that_comes_while_no_slot_is_free_is_put_back_and_no_new_wait_begins() -> None:
    queue = Queue()
    fetcher = queue.fetcher(free=1)
    running = asyncio.create_task(fetcher.run())
    await turns()
    fetcher.add_free(-1)
    await turns()
    queue.waits[0].set_result(0)
    await turns()
    assert (queue.fetches, queue.put_back_count, len(queue.waits)) == (1, 1, 1)
    fetcher.add_free(1)
    await turns()
    assert len(queue.waits) == 2
    fetcher.close()
    await running


async def test_holding_gives_up_the_wait_and_passes_on_what_is_known() -> None:
    queue = Queue()
    queue.answers.append(Empty(due_ms=NOW + 60_000))
    fetcher = queue.fetcher()
    running = asyncio.create_task(fetcher.run())
    await turns()
    fetcher.hold()
    await turns()
    assert queue.waits[0].done()
    assert queue.put_back_count == 1
    assert queue.hungry == [True, False]
    fetcher.note(NOTHING)
    await turns()
    assert queue.fetches == 1
    fetcher.release()
    await turns()
    assert (queue.fetches, queue.hungry[-1]) == (2, True)
    fetcher.close()
    await running


async def test_a_marker_popped_in_the_moment_of_holding_is_put_back() -> None:
    queue = Queue()
    fetcher = queue.fetcher()
    running = asyncio.create_task(fetcher.run())
    await turns()
    queue.waits[0].set_result(0)
    fetcher.hold()
    await turns()
    assert queue.fetches == 1
    assert queue.put_back_count >= 1
    fetcher.close()
    await running


async def test_a_lost_connection_is_waited_out_and_others_errors_end_it() -> None:
    queue = Queue()
    queue.answers.extend([Lost(), NOTHING])
    fetcher = queue.fetcher()
    running = asyncio.create_task(fetcher.run())
    await eventually(lambda: queue.waits)
    queue.waits[0].set_exception(Lost())
    await turns()
    assert queue.fetches == 3
    queue.answers.append(ValueError("a bug"))
    fetcher.look()
    with pytest.raises(ValueError, match="a bug"):
        await running


async def test_a_wait_that_outlives_the_fetcher_says_nothing_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is frozen when the worker stops; the connection is closed afterwards."""
    monkeypatch.setattr(fetching, "_PATIENCE_S", 0.01)
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    queue = Queue()

    async def frozen() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(queue, "unblock", frozen)
    fetcher = queue.fetcher()
    running = asyncio.create_task(fetcher.run())
    await eventually(lambda: len(queue.waits) == 1)
    fetcher.close()
    await running
    queue.waits.pop().set_exception(Lost())
    del fetcher, running
    await turns()
    gc.collect()
    assert not said
