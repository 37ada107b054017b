"""Which windows are open, and when to look again."""

from datetime import datetime

import pytest

from bullpen.cron import CronInvalid
from bullpen.scaling import Window
from bullpen.scaling.windows import OpenWindows, open_at

HOUR = 3_600_000
OFFICE = Window(name="office", schedule="0 8 * * 1-5", duration_ms=10 * HOUR, time_zone="Europe/Berlin", min_replicas=2)
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
