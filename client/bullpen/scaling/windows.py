"""The windows of a scaling policy, and which of them are open at a moment."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bullpen import cron

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_NEVER_MS = 86_400_000  # a schedule of which no time was found is searched again after so long


@dataclass(frozen=True, kw_only=True)
class Window:
    """A time in which at least `min_replicas` are kept ready."""

    name: str
    schedule: str
    duration_ms: int
    time_zone: str = "UTC"
    min_replicas: int = 0

    @functools.cached_property
    def _opening(self) -> "_Opening":
        """What is kept of the search for its times; no part of its value, and gone with it."""
        return _Opening(self.schedule, self.time_zone)

    def opens_after(self, at_ms: int) -> int | None:
        """Give the first time after a moment at which it opens; None when there is none."""
        return self._opening.after(at_ms)


@dataclass(frozen=True)
class OpenWindows:
    """The windows that are open, and when to look again; None when no window opens any more."""

    names: tuple[str, ...] = ()
    min_replicas: int = 0
    look_again_ms: int | None = None


def open_at(windows: Iterable[Window], now_ms: int) -> OpenWindows:
    """Say which windows are open: from a time of their schedule on (included) for their duration (excluded).

    `look_again_ms` is the first time at which one may open or close; a window whose schedule came again while it was
    open stays open then. Raises `bullpen.cron.CronInvalid` for a schedule or time zone that cannot be read.
    """
    names: list[str] = []
    min_replicas = 0
    changes: list[int] = []
    for window in windows:
        opens_ms = window.opens_after(now_ms - window.duration_ms)
        if opens_ms is None:
            continue
        if opens_ms <= now_ms:
            names.append(window.name)
            min_replicas = max(min_replicas, window.min_replicas)
            changes.append(opens_ms + window.duration_ms)
        else:
            changes.append(opens_ms)
    return OpenWindows(tuple(names), min_replicas, min(changes, default=None))


class _Opening:
    """The first time of a schedule after a moment, kept for as long as it is the answer for later moments, too.

    A rare schedule is a search of many milliseconds, and this is asked at each look at a queue.
    """

    def __init__(self, schedule: str, time_zone: str) -> None:
        self._schedule = schedule
        self._time_zone = time_zone
        self._from_ms = 0
        self._until_ms = 0
        self._opens_ms: int | None = None

    def after(self, at_ms: int) -> int | None:
        if not self._from_ms <= at_ms < self._until_ms:
            opens = cron.next_after(self._schedule, self._time_zone, _EPOCH + at_ms * _MS)
            self._opens_ms = None if opens is None else (opens - _EPOCH) // _MS
            self._from_ms, self._until_ms = at_ms, at_ms + _NEVER_MS if self._opens_ms is None else self._opens_ms
        return self._opens_ms
