"""A moment and its reading on a wall clock of a time zone, with the sums that cron-parser does on it.

Moments are milliseconds since 1970. A wall-clock reading that does not exist, or exists twice, becomes a moment as
Luxon's does, which cron-parser computes with: the offset in force before the sum is tried first; a reading in a gap
moves on by the gap's length. https://github.com/moment/luxon/blob/master/src/datetime.js
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Self

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WALL = datetime(1970, 1, 1)  # noqa: DTZ001 - the wall clock's zero, on purpose without a zone
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Wall:
    """A moment in a zone. Raises `OverflowError` beyond the year 9999."""

    at_ms: int
    zone: tzinfo

    @cached_property
    def reading(self) -> datetime:
        """What the wall clock shows, without a zone."""
        return (_EPOCH + self.at_ms * _MS).astimezone(self.zone).replace(tzinfo=None)

    @cached_property
    def offset_ms(self) -> int:
        """How far the wall clock is ahead of UTC."""
        return (self.reading - _EPOCH_WALL) // _MS - self.at_ms

    @property
    def day_of_week(self) -> int:
        """0 for Sunday to 6."""
        return self.reading.isoweekday() % 7

    def month_length(self) -> int:
        """Give the number of days of this month."""
        start = self.reading.replace(day=1)
        return ((start + timedelta(days=32)).replace(day=1) - start).days

    def set(
        self,
        *,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
    ) -> Self:
        """Turn the hands that are given."""
        now = self.reading
        return self._at(
            now.replace(
                hour=now.hour if hour is None else hour,
                minute=now.minute if minute is None else minute,
                second=now.second if second is None else second,
                microsecond=now.microsecond if microsecond is None else microsecond,
            )
        )

    def start_of_month(self) -> Self:
        """Turn back to the first midnight of the month."""
        return self._at(self.reading.replace(day=1, hour=0, minute=0, second=0, microsecond=0))

    def start_of_day(self) -> Self:
        """Turn back to midnight."""
        return self.set(hour=0, minute=0, second=0, microsecond=0)

    def next_month(self) -> Self:
        """Give the first midnight of the next month."""
        first = (self.reading.replace(day=1) + timedelta(days=32)).replace(day=1)
        # Through the reading one month on, and back to its start: the offset in force there decides.
        length = ((first + timedelta(days=32)).replace(day=1) - first).days
        there = self._at(first.replace(day=min(self.reading.day, length)))
        return there.start_of_month()

    def next_day(self) -> Self:
        """Give the next day's midnight."""
        return self._at(self.reading + timedelta(days=1)).start_of_day()

    def next_hour(self) -> Self:
        """Give the start of the hour that the clock shows an hour later."""
        return replace(self, at_ms=self.at_ms + 3_600_000).set(minute=0, second=0, microsecond=0)

    def next_minute(self) -> Self:
        """Give the start of the minute that the clock shows a minute later."""
        return replace(self, at_ms=self.at_ms + 60_000).set(second=0, microsecond=0)

    def next_second(self) -> Self:
        """Give the moment a second later."""
        return replace(self, at_ms=self.at_ms + 1_000)

    def changes_today(self) -> bool:
        """Say whether the clock is changed between this day's first moment and its last."""
        last = replace(self, at_ms=self.next_day().at_ms - 1)
        return self.start_of_day().offset_ms != last.offset_ms

    def _at(self, reading: datetime) -> Self:
        wanted = (reading - _EPOCH_WALL) // _MS
        guess = replace(self, at_ms=wanted - self.offset_ms)
        if guess.offset_ms == self.offset_ms:
            return guess
        second = replace(self, at_ms=wanted - guess.offset_ms)
        if second.offset_ms == guess.offset_ms:
            return second
        return replace(self, at_ms=wanted - min(guess.offset_ms, second.offset_ms))
