"""The walk from a moment to the next that an expression allows.

The walk goes from unit to unit, the largest first, as cron-parser's does, since what it makes of a changed clock
depends on the way taken:

- Clock put forward: where whole hours are skipped and the expression names one of them, it runs in the hour after the
  gap, at the expression's own minute. A gap at midnight that the walk crosses by whole days is not seen: such a run
  falls out that day.
- Clock put back: an expression that names hours runs in the first of two equal hours, one for every hour in both.

https://github.com/harrisiirak/cron-parser/blob/master/src/CronExpression.ts
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from bullpen.cron.expression import CronInvalid, Expression, parse
from bullpen.cron.wall import Wall

_MOST_STEPS = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def time_zone_of(name: str) -> ZoneInfo:
    """Give the time zone of that IANA name. Raises `CronInvalid` where the system knows none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder of the database, such as "Europe"
        raise CronInvalid(
            f'time zone {name!r} is not known here; allowed are IANA names such as "Europe/Berlin" and "UTC"'
        ) from None


def next_after(
    expression: str | Expression,
    time_zone: str,
    after: datetime,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> datetime | None:
    """Give the first run later than `after` and `start`, in UTC; None when there is none up to `end`.

    Like Node's, a run exactly at `start` is not counted, one exactly at `end` is, and parts of a millisecond in
    `after` are dropped. None also when cron-parser gives up its search: for a day that never comes, and for
    expressions that are decades apart. Raises `CronInvalid` for an expression or time zone that cannot be read, and
    `ValueError` for a time without a zone.
    """
    for moment in (after, start, end):
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"a time needs a time zone: {moment!r}")
    allowed = parse(expression) if isinstance(expression, str) else expression
    begin = after if start is None else max(after, start)
    walk = _Walk(allowed, Wall((begin - _EPOCH) // _MS, time_zone_of(time_zone)))
    last_ms = None if end is None else (end - _EPOCH) // _MS
    try:
        found = walk.next_ms(last_ms)
    except OverflowError:  # the year 10000
        return None
    return None if found is None else _EPOCH + found * _MS


def next_interval_ms(every_ms: int, after_ms: int, *, offset_ms: int = 0) -> int:
    """Give the first multiple of `every_ms` since 1970, moved by `offset_ms`, that is later than `after_ms`."""
    return (after_ms - offset_ms) // every_ms * every_ms + every_ms + offset_ms


@dataclass
class _Gap:
    """Hours that the clock skipped: the first of them, and the one after them."""

    skipped: int
    landing: int


class _Walk:
    """One search: where it stands, and what changes of the clock it has met on the way."""

    def __init__(self, expression: Expression, begin: Wall) -> None:
        self.expression = expression
        self.begin = begin
        self.at = begin
        self.gap: _Gap | None = None
        self.repeated_hour: int | None = None

    def next_ms(self, last_ms: int | None) -> int | None:
        if self.at.reading.microsecond:
            self.at = self.at.set(microsecond=0)
            self._step(self.at.next_second())
        for _ in range(_MOST_STEPS - 1):
            if last_ms is not None and self.at.at_ms > last_ms:
                return None
            if self._stands_on_a_run():
                return self.at.at_ms
        return None

    def _stands_on_a_run(self) -> bool:
        """Say whether this moment is the answer, else move on to the next that could be."""
        allowed, now = self.expression, self.at.reading
        if now.month not in allowed.months:
            self.at = self.at.next_month()
        elif not allowed.matches_day(day=now.day, month_length=self.at.month_length(), day_of_week=self.at.day_of_week):
            self.at = self.at.next_day()
        elif not self._hour_fits(now.hour):
            pass  # it has moved on
        elif now.minute not in allowed.minutes:
            self._to_next_minute(now.minute)
        elif now.second not in allowed.seconds:
            self._to_next_second(now.second)
        elif self.at.at_ms == self.begin.at_ms:
            self._step(self.at.next_second())
        else:
            return True
        return False

    def _hour_fits(self, hour: int) -> bool:
        hours = self.expression.hours
        gap = self.gap
        if gap is not None and gap.landing == hour:
            skipped = gap.skipped
            while skipped != hour:
                if skipped in hours:
                    return True
                skipped = (skipped + 1) % 24
        if self.repeated_hour == hour:
            self.repeated_hour = None
            self._step(self.at.next_hour())
            return False
        if hour in hours:
            return True
        self._to_next_hour(hour)
        return False

    def _to_next_hour(self, hour: int) -> None:
        self.gap = None
        later = next((allowed for allowed in self.expression.hours if allowed > hour), None)
        if later is None:
            self.at = self.at.next_day()
            return
        if self.at.changes_today():  # hour by hour, so that the change is met
            for _ in range(later - hour):
                self._step(self.at.next_hour())
                if self.at.reading.hour >= later:
                    break
        else:
            self.at = self.at.set(hour=later)
        self._to_first(minute=True)

    def _to_next_minute(self, minute: int) -> None:
        later = next((allowed for allowed in self.expression.minutes if allowed > minute), None)
        if later is None:
            self._step(self.at.next_hour())
            self._to_first(minute=True)
        else:
            self.at = self.at.set(minute=later)
            self._to_first(minute=False)

    def _to_next_second(self, second: int) -> None:
        later = next((allowed for allowed in self.expression.seconds if allowed > second), None)
        if later is None:
            self._step(self.at.next_minute())
            self._to_first(minute=False)
        else:
            self.at = self.at.set(second=later)

    def _to_first(self, *, minute: bool) -> None:
        if minute:
            self.at = self.at.set(minute=self.expression.minutes[0])
        self.at = self.at.set(second=self.expression.seconds[0])

    def _step(self, to: Wall) -> None:
        """Move by an hour or less, and note a gap or a repeated hour that the step crosses."""
        before, self.at = self.at, to
        if len(self.expression.hours) == 24:
            return
        hour = to.reading.hour
        advance = (hour - before.reading.hour) % 24
        if to.offset_ms > before.offset_ms and advance >= 2:
            self.gap = _Gap(skipped=(before.reading.hour + 1) % 24, landing=hour)
        elif advance == 0 and to.reading.minute == 0 and to.reading.second == 0:
            self.repeated_hour = hour
