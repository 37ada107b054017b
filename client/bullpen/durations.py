"""Lengths of time: `timedelta` in Python, ``"1h30m"`` in YAML and arguments, whole milliseconds on the wire.

The text form is Gateway API's (GEP-2257): up to four parts of up to five digits, each with a unit ``h``, ``m``, ``s``
or ``ms``. A bare number is refused everywhere: it is milliseconds in BullMQ and seconds in Celery.
"""

import re
from datetime import timedelta

Duration = timedelta | str
"""A length of time as an argument: a `timedelta`, or text such as ``"5m"`` or ``"1h30m"``."""

PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
_WHOLE = re.compile(PATTERN.strip("^$"))  # "$" alone would let a line end through
_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_MS_PER_UNIT = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


def parse_ms(value: Duration) -> int:
    """Give the duration in whole milliseconds, rounded down.

    Raises `ValueError` for text of another form and for a negative `timedelta`; `TypeError` for anything else, a bare
    number included.
    """
    return _parse_ms(value)


def parse(value: Duration) -> timedelta:
    """Give the duration as a `timedelta`. Raises as `parse_ms` does."""
    return timedelta(milliseconds=parse_ms(value))


def format_ms(ms: int) -> str:
    """Write milliseconds in the text form, in the largest units that fit: ``90000`` is ``"1m30s"``.

    Raises `ValueError` for a negative number, and for one beyond 99,999 hours.
    """
    if ms < 0 or ms // _MS_PER_UNIT["h"] > 99_999:
        msg = f"not a duration that can be written: {ms} ms"
        raise ValueError(msg)
    parts = []
    for unit, size in _MS_PER_UNIT.items():
        number, ms = divmod(ms, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def _parse_ms(value: object) -> int:  # of anything: what the caller's types promise is not checked at run time
    if isinstance(value, timedelta):
        ms = value // timedelta(milliseconds=1)
        if ms < 0:
            msg = f"a duration cannot be negative: {value!r}"
            raise ValueError(msg)
        return ms
    if isinstance(value, str):
        if not _WHOLE.fullmatch(value):
            msg = f'{value!r} is not a duration: write it like "500ms", "30s", "5m" or "1h30m"'
            raise ValueError(msg)
        return sum(int(number) * _MS_PER_UNIT[unit] for number, unit in _PART.findall(value))
    msg = f'a duration is a timedelta or text like "5m", not {value!r} (a bare number has no unit)'
    raise TypeError(msg)
