"""Which windows are open at a moment."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bullpen import cron
from bullpen.scaling.policy import Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


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
        from_ms = now_ms - window.duration_ms
        opens = cron.next_after(window.schedule, window.time_zone, _EPOCH + from_ms * _MS)
        if opens is None:
            continue
        opens_ms = (opens - _EPOCH) // _MS
        if opens_ms <= now_ms:
            names.append(window.name)
            min_replicas = max(min_replicas, window.min_replicas)
            changes.append(opens_ms + window.duration_ms)
        else:
            changes.append(opens_ms)
    return OpenWindows(tuple(names), min_replicas, min(changes, default=None))
