"""When a worker gives up starting children, and how long it waits before the next."""

import pytest

from bullpen_worker.supervision import starts
from bullpen_worker.supervision.children import End
from bullpen_worker.supervision.starts import MOST, SETTLED_S, Starts


def test_children_that_are_never_ready_end_the_worker():
    counted = Starts()
    assert [bool(counted.failed()) for _ in range(MOST)] == [False, False, True]


def test_one_that_is_ready_begins_the_count_anew():
    counted = Starts()
    counted.failed()
    counted.failed()
    counted.ready()
    assert counted.failed() == ""


@pytest.mark.parametrize(
    ("end", "ready_for_s", "gives_up"),
    [
        (End.BROKEN, 1.0, True),
        (End.BROKEN, None, True),
        (End.BROKEN, SETTLED_S, False),
        (End.CRASHED, 1.0, False),
        (End.OVERDUE, 1.0, False),
    ],
)
def test_only_our_own_code_that_fails_soon_is_counted(end, ready_for_s, gives_up):
    counted = Starts()
    said = [counted.ended(end, ready_for_s=ready_for_s) for _ in range(MOST)]
    assert [bool(each) for each in said] == [False, False, gives_up]


def test_another_end_between_begins_the_count_anew():
    counted = Starts()
    ends = [End.BROKEN, End.BROKEN, End.CRASHED, End.BROKEN, End.BROKEN]
    assert [counted.ended(end, ready_for_s=1.0) for end in ends] == [""] * 5


def test_pauses_double_up_to_a_limit():
    pauses = [0.0]
    for _ in range(12):
        pauses.append(starts.next_pause(pauses[-1]))
    assert pauses[1:4] == [starts.FIRST_PAUSE_S, 0.2, 0.4]
    assert pauses[-1] == starts.LONGEST_PAUSE_S
