"""When a queue is read, and when it is decided on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen_operator.scaling.wake import (
    CALM_POLLS,
    FOLLOW_MS,
    LONGEST_POLL_MS,
    PACE_MS,
    RESYNC_MS,
    SHORTEST_POLL_MS,
    Phase,
    Rhythm,
    poll_ms,
)

POLL = 200.0


def read(rhythm, count, at_ms, *, idle=None):
    return rhythm.seen(count, at_ms, idle=count == 0 if idle is None else idle, poll_ms=POLL)


def quiet(now_ms=0.0):
    rhythm = read(Rhythm.begin(now_ms), 0, now_ms).rhythm
    assert rhythm.phase is Phase.QUIET
    return rhythm


def play(adds_ms, rhythm=None, until_ms=5_000.0):
    """Read when the rhythm says so; jobs come at these times after the wake, and nobody takes them. Gives the decisions."""
    adds = sorted(adds_ms)
    rhythm = (rhythm or quiet()).woken(adds[0])
    decisions = []
    while rhythm.read_at_ms <= until_ms:
        now_ms = rhythm.read_at_ms
        count = sum(at_ms <= now_ms for at_ms in adds)
        rhythm, decide = read(rhythm, count, now_ms)
        if decide and (not decisions or decisions[-1][1] != count):
            decisions.append((now_ms, count))
    return decisions


def test_one_job_is_decided_on_when_the_count_has_stood_still():
    ((at_ms, count),) = play([0.0])
    assert count == 1
    assert 10 <= at_ms <= 10 + PACE_MS


def test_a_short_burst_is_one_decision():
    ((at_ms, count),) = play([float(ms) for ms in range(36)])
    assert count == 36
    assert at_ms <= 35 + 10 + 2 * PACE_MS


def test_a_longer_burst_is_two():
    first, second = play([float(ms) for ms in range(0, 300, 3)])
    assert first[0] <= 50 + PACE_MS
    assert second[1] == 100
    assert second[0] <= 297 + 10 + 2 * PACE_MS


def test_a_burst_that_pauses_is_gone_after_at_once():
    first, second = play([0.0, 1.0, 30.0, 31.0])
    assert first[1] == 2
    assert second[1] == 4
    assert second[0] <= 31 + 40 + 10 + 2 * PACE_MS


def test_an_endless_burst_is_decided_on_now_and_then():
    decisions = play([float(ms) for ms in range(0, 4_000, 5)], until_ms=3_000)
    assert len(decisions) >= 3
    assert decisions[1][0] <= 50 + FOLLOW_MS + 2 * PACE_MS


def test_a_job_that_ran_at_once_leaves_nothing_to_settle():
    rhythm, decide = read(quiet().woken(100.0), 0, 101.0)
    assert decide
    assert rhythm.phase is Phase.BUSY


def test_a_queue_is_quiet_after_calm_polls_in_a_row():
    rhythm = read(Rhythm.begin(0.0), 5, 0.0).rhythm
    for _ in range(CALM_POLLS - 1):
        rhythm = read(rhythm, 0, rhythm.read_at_ms).rhythm
        assert rhythm.phase is Phase.BUSY
    assert read(rhythm, 0, rhythm.read_at_ms).rhythm.phase is Phase.QUIET


def test_a_job_between_two_polls_makes_it_begin_anew():
    rhythm = read(Rhythm.begin(0.0), 5, 0.0).rhythm
    for count in (0, 1) * CALM_POLLS:
        rhythm = read(rhythm, count, rhythm.read_at_ms).rhythm
    assert rhythm.phase is Phase.BUSY


def test_a_quiet_queue_that_has_work_when_it_is_read_settles_as_if_it_had_woken():
    rhythm, decide = read(quiet(), 1, 30_000.0)
    assert rhythm.phase is Phase.SETTLING
    assert not decide


def test_events_in_a_busy_queue_are_no_news():
    rhythm = read(Rhythm.begin(0.0), 5, 0.0).rhythm
    assert rhythm.woken(10.0) is rhythm


def test_what_cannot_be_read_is_polled():
    rhythm = quiet().woken(5.0).unreadable(10.0)
    assert rhythm.phase is Phase.BUSY
    assert rhythm.settle is None


@pytest.mark.parametrize(
    ("polled", "expected"), [(0, SHORTEST_POLL_MS), (1, SHORTEST_POLL_MS), (100, 500), (200, 1_000), (9_000, 2_000)]
)
def test_the_more_are_busy_the_rarer_each_is_read(polled, expected):
    assert poll_ms(polled) == expected <= LONGEST_POLL_MS


def test_quiet_queues_are_read_together():
    together = {read(Rhythm.begin(ms), 0, ms).rhythm.read_at_ms for ms in (0.0, 900.0, 2_500.0, 4_999.0)}
    assert len(together) == 1
    assert min(together) <= 4_999 + RESYNC_MS


def test_a_moment_that_was_asked_for_is_kept():
    assert quiet().look_again(40.0).read_at_ms == 40.0
    assert quiet().look_again(90_000.0).read_at_ms == quiet().read_at_ms


@given(
    st.lists(
        st.tuples(st.sampled_from(["read", "wake", "nudge", "fail"]), st.integers(0, 5), st.floats(0, 40_000)),
        max_size=60,
    )
)
def test_every_queue_is_read_again_in_bounded_time(steps):
    now_ms, rhythm = 0.0, Rhythm.begin(0.0)
    for what, count, passed_ms in steps:
        now_ms += passed_ms
        match what:
            case "read":
                rhythm = read(rhythm, count, now_ms).rhythm
                assert rhythm.read_at_ms > now_ms - 1e-6
            case "wake":
                rhythm = rhythm.woken(now_ms)
            case "nudge":
                rhythm = rhythm.nudged(now_ms)
            case _:
                rhythm = rhythm.unreadable(now_ms)
        assert rhythm.read_at_ms <= now_ms + RESYNC_MS
        assert rhythm.watchable == (rhythm.phase is Phase.QUIET)


@given(st.lists(st.floats(0, 400), min_size=1, max_size=120))
def test_a_burst_ends_in_a_decision_on_all_of_it(adds_ms):
    decisions = play(adds_ms)
    assert decisions[-1][1] == len(adds_ms)
    assert decisions[-1][0] - max(adds_ms) <= 250
    # A pause within a burst ends it: what comes after is another, found by the poll.
    gaps = sum(later - sooner > 9 for sooner, later in zip(sorted(adds_ms), sorted(adds_ms)[1:], strict=False))
    assert len(decisions) <= 2 + gaps
