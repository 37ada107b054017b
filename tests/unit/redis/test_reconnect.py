"""The pause before the next attempt to connect."""

from hypothesis import given
from hypothesis import strategies as st

from bullpen.redis.link import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, reconnect_pause


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_are_bounded_jittered_and_never_nothing(attempt, chance):
    pause = reconnect_pause(attempt, lambda: chance)
    assert FIRST_PAUSE_SECONDS / 10 <= pause <= LONGEST_PAUSE_SECONDS
    assert pause <= FIRST_PAUSE_SECONDS * 2 ** min(attempt, 30)
    assert reconnect_pause(attempt + 1, lambda: chance) >= pause


def test_a_fleet_spreads_over_the_whole_pause():
    assert reconnect_pause(20, lambda: 0.0) == LONGEST_PAUSE_SECONDS / 10
    assert reconnect_pause(20, lambda: 0.999) > LONGEST_PAUSE_SECONDS * 0.99
