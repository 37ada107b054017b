"""The next run of a schedule equals Node's.

`cron_node_answers.json` holds what BullMQ's own `getNextMillis` answered for random expressions, time zones and
moments, most of them around changes of daylight saving time; and expressions that it refuses.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen import cron
from bullpen.cron import CronInvalid

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NODE: dict[str, Any] = json.loads((Path(__file__).parent / "cron_node_answers.json").read_text())


def moment(ms: int | None) -> datetime | None:
    return None if ms is None else EPOCH + timedelta(milliseconds=ms)


def test_the_next_run_is_nodes() -> None:
    differing = []
    for expression, zone, after, start, end, answer in NODE["answers"]:
        ours = cron.next_after(expression, zone, moment(after) or EPOCH, start=moment(start), end=moment(end))
        if ours != moment(answer):
            differing.append((expression, zone, moment(after), moment(start), moment(end), moment(answer), ours))
    assert differing == []
    assert len(NODE["answers"]) > 700


@pytest.mark.parametrize("expression", NODE["refused"])
def test_what_node_refuses_is_refused(expression: str) -> None:
    with pytest.raises(CronInvalid):
        cron.parse(expression)


@pytest.mark.parametrize(
    ("name", "expression", "zone", "after", "following"),
    [
        ("Monday at 8", "0 8 * * 1", "Europe/Berlin", "2027-01-01T00:00Z", "2027-01-04T07:00Z"),
        ("in summer", "0 8 * * 1", "Europe/Berlin", "2027-07-01T00:00Z", "2027-07-05T06:00Z"),
        ("seconds first", "30 0 8 * * *", "UTC", "2027-01-01T08:00Z", "2027-01-01T08:00:30Z"),
        ("later, never now", "0 8 * * *", "UTC", "2027-01-01T08:00Z", "2027-01-02T08:00Z"),
        ("either day", "0 0 13 * fri", "UTC", "2027-01-01T00:00Z", "2027-01-08T00:00Z"),
        ("either day, the other", "0 0 13 * fri", "UTC", "2027-01-08T00:00Z", "2027-01-13T00:00Z"),
        ("last day", "0 0 L * *", "UTC", "2028-02-01T00:00Z", "2028-02-29T00:00Z"),
        ("last Friday", "0 0 * * 5L", "UTC", "2027-01-01T00:00Z", "2027-01-29T00:00Z"),
        ("third Friday", "0 0 * * 5#3", "UTC", "2027-01-01T00:00Z", "2027-01-15T00:00Z"),
        ("Sunday is 7 too", "0 0 * * 7", "UTC", "2027-01-01T00:00Z", "2027-01-03T00:00Z"),
        ("nickname", "@daily", "Asia/Kathmandu", "2027-01-01T00:00Z", "2027-01-01T18:15Z"),
        ("in the gap: after it", "30 2 * * *", "Europe/Berlin", "2027-03-28T00:00Z", "2027-03-28T01:30Z"),
        ("in the overlap: the first", "30 2 * * *", "Europe/Berlin", "2027-10-30T23:00Z", "2027-10-31T00:30Z"),
        ("not again in the second", "30 2 * * *", "Europe/Berlin", "2027-10-31T00:30Z", "2027-11-01T01:30Z"),
        ("hourly goes through both", "0 * * * *", "Europe/Berlin", "2027-10-31T00:00Z", "2027-10-31T01:00Z"),
        ("leap day", "0 0 29 2 *", "UTC", "2025-01-01T00:00Z", "2028-02-29T00:00Z"),
    ],
)
def test_by_hand(name: str, expression: str, zone: str, after: str, following: str) -> None:
    assert cron.next_after(expression, zone, datetime.fromisoformat(after)) == datetime.fromisoformat(following)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields; allowed are 5"),
        ("* * * * * * *", "7 fields"),
        ("60 * * * *", "field minute: '60' is not allowed; allowed: 0 to 59"),
        ("* 24 * * *", "field hour"),
        ("* * 0 * *", "field day of month"),
        ("* * * 13 *", "field month"),
        ("* * * * 8", "field day of week"),
        ("* * * * frx", "field day of week: 'frx'"),
        ("5-1 * * * *", "the smaller first"),
        ("*/0 * * * *", "a step of 1 or more"),
        ("1,1 * * * *", "each value once"),
        ("H * * * *", "Node draws H anew"),
        ("* * * * L", "5L"),
        ("* * 5L * *", "L alone"),
        ("* * * * 1#6", "5#3"),
        ("* * 15W * *", "day of month"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9 *", "never comes"),
        ("@never", "no nickname.*@yearly"),
        ("* " * 600, "longer than 1024"),
    ],
)
def test_what_people_write_is_refused_with_the_reason(expression: str, says: str) -> None:
    with pytest.raises(CronInvalid, match=says):
        cron.validate(expression)


def test_never_is_none_and_the_search_ends() -> None:
    assert cron.next_after("0 0 30 2 *", "UTC", EPOCH) is None
    assert cron.next_after("* * * * *", "UTC", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)) is None


@pytest.mark.parametrize("zone", ["Mars/Base", "", "Europe", "../etc/passwd"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(CronInvalid, match="IANA names"):
        cron.next_after("* * * * *", zone, EPOCH)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        cron.next_after("* * * * *", "UTC", datetime(2027, 1, 1))  # noqa: DTZ001


@given(st.integers(0, 2**41), st.sampled_from(["Europe/Berlin", "America/New_York", "Pacific/Chatham"]))
def test_a_run_is_always_later_and_within_the_minute(after_ms: int, zone: str) -> None:
    after = EPOCH + timedelta(milliseconds=after_ms)
    following = cron.next_after("* * * * *", zone, after)
    assert following is not None
    assert timedelta(0) < following - after <= timedelta(minutes=1)


@pytest.mark.parametrize(
    ("every", "after", "offset", "following"),
    [(5_000, 0, 0, 5_000), (5_000, 4_999, 0, 5_000), (5_000, 5_000, 0, 10_000), (5_000, 5_000, 700, 5_700)],
)
def test_intervals_lie_on_a_grid(every: int, after: int, offset: int, following: int) -> None:
    assert cron.next_interval_ms(every, after, offset_ms=offset) == following
