"""Jobs that wait in the supervisor: their locks are kept until they leave."""

from __future__ import annotations

import pytest

from bullpen_worker.keeping.keeper import Terms
from bullpen_worker.keeping.leases import Run
from bullpen_worker.supervision.config import per_worker
from bullpen_worker.supervision.control import Ticket
from bullpen_worker.supervision.waiting_room import WaitingRoom

ONE, TWO, THREE = (Ticket(str(n), f"token{n}") for n in range(3))
ORIGIN = object()


@pytest.fixture
def room():
    made = WaitingRoom(2)
    yield made
    made.table.close()


def kept(room):
    return {view.job_id.decode() for view in room.table.views()}


def test_suspects_wait_in_order_and_keep_their_lock_until_they_leave(room):
    assert room.add_suspect(ONE, ORIGIN)
    assert room.add_suspect(TWO, ORIGIN)
    assert room.next_suspect() == (ONE, ORIGIN)
    assert kept(room) == {"0", "1"}
    room.leave(ONE)
    assert kept(room) == {"1"}
    assert len(room) == 1


def test_nobody_waits_twice_and_a_full_room_takes_nobody(room):
    assert room.add_suspect(ONE, ORIGIN)
    assert not room.add_suspect(ONE, ORIGIN)
    assert room.add_overdue(TWO)
    assert not room.add_overdue(THREE)
    room.leave(ONE)
    assert room.add_overdue(THREE)


def test_what_is_overdue_is_taken_once_and_again_when_its_taker_died(room):
    room.add_overdue(ONE)
    assert room.take_overdue() == (ONE,)
    assert room.take_overdue() == ()
    room.again((ONE,))
    assert room.take_overdue() == (ONE,)
    room.leave_job("0")
    room.again((ONE,))
    assert room.take_overdue() == ()
    assert kept(room) == set()


def test_who_loses_its_lock_waits_no_longer(room):
    room.add_suspect(ONE, ORIGIN)
    room.add_overdue(TWO)
    for view in room.table.views():
        lost = room.lose(Run.of(room.table, view))
        assert lost == ([ORIGIN] if view.job_id == b"0" else [])
    assert room.next_suspect() is None
    assert room.take_overdue() == ()
    assert kept(room) == set()


def test_closing_down_gives_what_is_to_be_handed_back(room):
    room.add_suspect(ONE, ORIGIN)
    assert [run.view.job_id for run in room.close_down()] == [b"0"]
    assert room.next_suspect() is None


@pytest.mark.parametrize(
    ("doc", "terms"),
    [
        ("", Terms()),
        ("{}", Terms()),
        ('{"recovery":{"lockDuration":"1m","checkInterval":"500ms","maxCrashes":5}}', Terms(60_000, 500, 5)),
        ('{"recovery":{"lockDuration":"20s"}}', Terms(20_000)),
        ('{"recovery":{"lockDuration":20}}', Terms()),
        ('{"recovery":7}', Terms()),
        ('{"recovery":{"maxCrashes":1e999}}', Terms()),
        ('{"recovery":{"lockDuration":"0s"}}', Terms()),
        ('{"recovery":{"checkInterval":"0ms"}}', Terms()),
        ("?", Terms()),
    ],
)
def test_the_policy_s_recovery_is_read(doc, terms):
    assert Terms.of_policy(doc) == terms


@pytest.mark.parametrize(
    ("said", "concurrency"),
    [("20", 20), ("10000", 10_000), ("10001", 10), ("1e9", 10), ("0", 10), ("-1", 10), ("true", 10), ('"7"', 10)],
)
def test_a_worker_s_concurrency_is_what_a_policy_may_say(said, concurrency):
    assert per_worker(f'{{"concurrency":{{"perWorker":{said}}}}}') == concurrency
