"""Which windows are open, and when to look again."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen import cron
from bullpen.cron import CronInvalid
from bullpen.scaling import Window
from bullpen.scaling.windows import OpenWindows, open_at

HOUR = 3_600_000
OFFICE = Window(name="office", schedule="0 8 * * 1-5", duration_ms=10 * HOUR, time_zone="Europe/Berlin", min_replicas=2)
NIGHT = Window(name="night", schedule="0 22 * * *", duration_ms=10 * HOUR, time_zone="Europe/Berlin", min_replicas=1)
HALF_PAST_TWO = replace(NIGHT, name="early", schedule="30 2 * * *", duration_ms=HOUR)
NOON = Window(name="noon", schedule="0 11 * * *", duration_ms=HOUR, min_replicas=5)
ALWAYS = Window(name="always", schedule="*/30 * * * *", duration_ms=HOUR, min_replicas=1)
NEVER = Window(name="never", schedule="0 0 30 2 *", duration_ms=HOUR, min_replicas=1)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


@pytest.mark.parametrize(
    ("name", "windows", "now", "names", "min_replicas", "again"),
    [
        ("none", (), "2027-01-04T09:00Z", (), 0, None),
        ("before", (OFFICE,), "2027-01-04T06:59:59Z", (), 0, "2027-01-04T07:00Z"),
        ("opens", (OFFICE,), "2027-01-04T07:00Z", ("office",), 2, "2027-01-04T17:00Z"),
        ("to the last", (OFFICE,), "2027-01-04T16:59:59Z", ("office",), 2, "2027-01-04T17:00Z"),
        ("closes", (OFFICE,), "2027-01-04T17:00Z", (), 0, "2027-01-05T07:00Z"),
        ("in summer", (OFFICE,), "2027-07-05T06:00Z", ("office",), 2, "2027-07-05T16:00Z"),
        ("on Saturday", (OFFICE,), "2027-01-09T09:00Z", (), 0, "2027-01-11T07:00Z"),
        ("the larger of two", (OFFICE, NOON), "2027-01-04T11:30Z", ("office", "noon"), 5, "2027-01-04T12:00Z"),
        ("again while open", (ALWAYS,), "2027-01-04T11:59Z", ("always",), 1, "2027-01-04T12:00Z"),
        ("clocks go forward", (NIGHT,), "2027-03-28T06:59:59Z", ("night",), 1, "2027-03-28T07:00Z"),
        ("and it has had its ten hours", (NIGHT,), "2027-03-28T07:00Z", (), 0, "2027-03-28T20:00Z"),
        ("clocks go back", (NIGHT,), "2027-10-31T05:59:59Z", ("night",), 1, "2027-10-31T06:00Z"),
        ("in the hour that is skipped", (HALF_PAST_TWO,), "2027-03-28T01:30Z", ("early",), 1, "2027-03-28T02:30Z"),
        ("in the hour that comes twice", (HALF_PAST_TWO,), "2027-10-31T00:30Z", ("early",), 1, "2027-10-31T01:30Z"),
        ("but once", (HALF_PAST_TWO,), "2027-10-31T01:30Z", (), 0, "2027-11-01T01:30Z"),
        ("never", (NEVER,), "2027-01-04T11:59Z", (), 0, None),
    ],
)
def test_open_at(
    name: str, windows: tuple[Window, ...], now: str, names: tuple[str, ...], min_replicas: int, again: str | None
) -> None:
    assert open_at(windows, ms(now)) == OpenWindows(names, min_replicas, None if again is None else ms(again))


def test_a_schedule_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(CronInvalid):
        open_at([Window(name="x", schedule="often", duration_ms=1)], 0)


FIFTH_MONDAY_IN_FEBRUARY = Window(name="rare", schedule="0 0 * 2 1#5", duration_ms=HOUR, min_replicas=1)


def test_a_schedule_is_searched_once_and_not_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare one is a search of 10 ms: with 64 of them one JobQueue would hold up all others at each of its readings."""
    searched = []
    search = cron.next_after
    monkeypatch.setattr(cron, "next_after", lambda *args: searched.append(args) or search(*args))
    windows = (replace(FIFTH_MONDAY_IN_FEBRUARY, name="searched"), replace(OFFICE, name="searched"), NEVER)
    began = ms("2027-01-04T06:00Z")
    for second in range(7_200):
        open_at(windows, began + second * 1_000)
    assert len(searched) <= 4


def test_no_window_is_searched_anew_for_there_being_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    next_year = datetime(2028, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(cron, "next_after", lambda *args: searched.append(args) or next_year)
    windows = [replace(OFFICE, name=f"office {number}") for number in range(10_000)]
    for second in range(3):
        open_at(windows, ms("2027-01-04T06:00Z") + second * 1_000)
    assert len(searched) == len(windows)


@given(st.lists(st.integers(-100 * HOUR, 400 * HOUR), min_size=1, max_size=10))
def test_what_was_found_before_changes_no_answer(hours: list[int]) -> None:
    window = replace(OFFICE, schedule="0 8,20 * * 1-6", duration_ms=9 * HOUR, name="remembered")
    now_ms = ms("2027-03-26T00:00Z")  # a change of the clock is near
    for moved_ms in hours:
        now_ms += moved_ms // 7
        fresh = replace(window, name=f"asked at {now_ms}")
        assert replace(open_at((window,), now_ms), names=()) == replace(open_at((fresh,), now_ms), names=())
