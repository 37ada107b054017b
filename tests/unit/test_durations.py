from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen import durations


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0s", 0),
        ("1ms", 1),
        ("500ms", 500),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1h1m1s1ms", 3_661_001),
        ("99999h", 99_999 * 3_600_000),
        ("1m1m", 120_000),
    ],
)
def test_text_is_read_in_milliseconds(text: str, ms: int) -> None:
    assert durations.parse_ms(text) == ms
    assert durations.parse(text) == timedelta(milliseconds=ms)


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5 m", "5m ", "5m\n", "-5m", "1.5h", "5d", "100000s", "1h1h1h1h1h", "5M", "٥m"]
)
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse_ms(text)


@pytest.mark.parametrize("value", [5, 1.5, None, True, b"5m"])
def test_what_has_no_unit_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="a bare number has no unit"):
        durations.parse_ms(value)  # type: ignore[arg-type]


def test_a_timedelta_is_rounded_down_and_never_negative() -> None:
    assert durations.parse_ms(timedelta(microseconds=1_999)) == 1
    with pytest.raises(ValueError, match="negative"):
        durations.parse_ms(timedelta(microseconds=-1))


@given(st.integers(0, 99_999 * 3_600_000))
def test_written_and_read_again_is_the_same(ms: int) -> None:
    assert durations.parse_ms(durations.format_ms(ms)) == ms


@pytest.mark.parametrize("ms", [-1, 100_000 * 3_600_000])
def test_what_cannot_be_written_is_refused(ms: int) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        durations.format_ms(ms)
