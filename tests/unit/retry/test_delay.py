"""The wait that a backoff gives: by table, and by its laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen import retry
from bullpen.options import MAX_DELAY_MS, Backoff

BUILT_IN = Backoff.exponential("2s", max_delay="1m", jitter=0.5)


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Backoff.immediate(), [0, 0, 0]),
        (Backoff.fixed("5s"), [5_000, 5_000, 5_000]),
        (Backoff.linear("5s"), [5_000, 10_000, 15_000]),
        (Backoff.linear("5s", max_delay="12s"), [5_000, 10_000, 12_000]),
        (Backoff.exponential("2s"), [2_000, 4_000, 8_000, 16_000]),
        (Backoff.exponential("2s", factor=1.5), [2_000, 3_000, 4_500, 6_750]),
        (Backoff.exponential("1s", factor=1), [1_000, 1_000]),
        (Backoff.exponential("2s", max_delay="7s"), [2_000, 4_000, 7_000, 7_000]),
        (Backoff.exponential("5s", max_delay="1s"), [1_000, 1_000]),
        (Backoff.exponential("0s"), [0, 0]),
    ],
)
def test_without_jitter(backoff: Backoff, waits: list[int]) -> None:
    assert [retry.delay_ms(backoff, n, random=0.9) for n in range(1, len(waits) + 1)] == waits


@pytest.mark.parametrize(("random", "wait"), [(0.0, 2_000), (0.5, 3_000), (0.999_999, 3_999)])
def test_jitter_takes_away_and_never_adds(random: float, wait: int) -> None:
    assert retry.delay_ms(BUILT_IN, 2, random=random) == wait


@pytest.mark.parametrize("attempt", [1_024, 1_025, 10_000, 10**9])
def test_no_attempt_is_too_late_to_compute(attempt: int) -> None:
    assert retry.delay_ms(Backoff.exponential("2s", factor=100), attempt, random=0) == MAX_DELAY_MS
    assert retry.delay_ms(Backoff.exponential("0s"), attempt, random=0) == 0
    assert retry.delay_ms(BUILT_IN, attempt, random=0) == 30_000


backoffs = st.builds(
    Backoff,
    kind=st.sampled_from(["Exponential", "Linear", "Fixed", "Immediate"]),
    delay_ms=st.integers(0, MAX_DELAY_MS),
    factor=st.floats(1, 100),
    max_delay_ms=st.none() | st.integers(1, MAX_DELAY_MS),
    jitter=st.floats(0, 1),
)
attempts = st.integers(1, 10_000)
randoms = st.floats(0, 1, exclude_max=True)


def without_jitter(backoff: Backoff) -> Backoff:
    return Backoff(backoff.kind, backoff.delay_ms, backoff.factor, backoff.max_delay_ms)


@given(backoffs, attempts, randoms)
def test_the_wait_lies_between_its_share_and_the_whole(backoff: Backoff, attempt: int, random: float) -> None:
    whole = retry.delay_ms(without_jitter(backoff), attempt, random=random)
    wait = retry.delay_ms(backoff, attempt, random=random)
    assert int(whole * (1 - backoff.jitter)) - 1 <= wait <= whole
    assert whole <= (backoff.max_delay_ms or MAX_DELAY_MS) <= MAX_DELAY_MS


@given(backoffs, attempts, randoms)
def test_without_jitter_a_later_attempt_never_waits_less(backoff: Backoff, attempt: int, random: float) -> None:
    plain = without_jitter(backoff)
    assert retry.delay_ms(plain, attempt, random=random) <= retry.delay_ms(plain, attempt + 1, random=random)


@given(backoffs, attempts, randoms, randoms)
def test_more_randomness_never_waits_less(backoff: Backoff, attempt: int, one: float, other: float) -> None:
    less, more = sorted([one, other])
    assert retry.delay_ms(backoff, attempt, random=less) <= retry.delay_ms(backoff, attempt, random=more)
