"""A cron expression, read into the values that each field allows.

Five fields are minute, hour, day of month, month, day of week; six begin with the second. `parse` takes all that
cron-parser takes (with seconds and stars in place of fields that are missing on the left), since a Node producer may
have stored it. `validate` is for what people write anew, and refuses besides what is legal by accident.
"""

import re
from dataclasses import dataclass

from bullpen.errors import BullpenError


class CronInvalid(BullpenError, ValueError):
    """The cron expression or time zone cannot be read; the message names the field, what was found, what is allowed."""


@dataclass(frozen=True)
class _Field:
    name: str
    least: int
    most: int
    allowed: str = "?,*0-9/-"


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY_OF_MONTH = _Field("day of month", 1, 31, "?,*0-9L/-")
_MONTH = _Field("month", 1, 12)
_DAY_OF_WEEK = _Field("day of week", 0, 7, "?,*0-9L#/-")

_NICKNAMES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
    "@minutely": "0 * * * * *",
    "@secondly": "* * * * * *",
    "@weekdays": "0 0 0 * * 1-5",
    "@weekends": "0 0 0 * * 0,6",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {name: str(number) for number, name in [*enumerate(_MONTHS, start=1), *enumerate(_WEEKDAYS)]}
_MONTH_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MOST_CHARACTERS = 1024
_DEFAULTS = ("0", "*", "*", "*", "*", "*")


@dataclass(frozen=True)
class Expression:
    """What each field allows, in ascending order. Days of the week count from 0, Sunday, to 6."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    days_of_month: frozenset[int]
    days_of_week: frozenset[int]
    last_day_of_month: bool
    """``L`` in the day of month."""
    last_days_of_week: frozenset[int]
    """Weekdays that match in the last seven days of a month: ``5L``."""
    nth_day_of_week: int
    """Which one of the month, 1 to 5, ``days_of_week`` means: ``5#3``; 0 for each."""
    any_day_of_month: bool
    any_day_of_week: bool

    def matches_day(self, *, day: int, month_length: int, day_of_week: int) -> bool:
        """Say whether a day of an allowed month matches: either day field does when both are restricted."""
        by_month = day in self.days_of_month or (self.last_day_of_month and day == month_length)
        nth_fits = not self.nth_day_of_week or -(-day // 7) == self.nth_day_of_week
        is_last = day > month_length - 7 and day_of_week in self.last_days_of_week
        by_week = (day_of_week in self.days_of_week and nth_fits) or is_last
        if self.any_day_of_week:
            return by_month
        return by_week if self.any_day_of_month else by_month or by_week


def parse(text: str) -> Expression:
    """Read an expression or nickname (``@daily``). Raises `CronInvalid`."""
    if len(text) > _MOST_CHARACTERS:
        raise CronInvalid(f"the cron expression is longer than {_MOST_CHARACTERS} characters")
    if text.startswith("@") and text not in _NICKNAMES:
        raise CronInvalid(f"{text!r} is no nickname of a cron expression; allowed: {', '.join(_NICKNAMES)}")
    fields = _NICKNAMES.get(text, text).split()
    if not fields or len(fields) > len(_DEFAULTS):
        raise CronInvalid(
            f"{text!r} has {len(fields)} fields; allowed are 5 (minute, hour, day of month, month, day of week),"
            " 6 (second first), or a nickname such as @daily"
        )
    second, minute, hour, day_of_month, month, day_of_week = (*_DEFAULTS[: len(_DEFAULTS) - len(fields)], *fields)
    weekday, nth = _nth(day_of_week)
    months = _once(_MONTH, month, _values(_MONTH, month))
    days = _once(_DAY_OF_MONTH, day_of_month, _days_of(months, _values(_DAY_OF_MONTH, day_of_month)))
    weekdays = _once(_DAY_OF_WEEK, day_of_week, _values(_DAY_OF_WEEK, weekday))
    if "L" in weekdays:
        raise _refused(_DAY_OF_WEEK, day_of_week, 'L with a day before it, such as "5L" for the last Friday')
    return Expression(
        seconds=_numbers(_once(_SECOND, second, _values(_SECOND, second))),
        minutes=_numbers(_once(_MINUTE, minute, _values(_MINUTE, minute))),
        hours=_numbers(_once(_HOUR, hour, _values(_HOUR, hour))),
        months=frozenset(_numbers(months)),
        days_of_month=frozenset(_numbers(days)),
        days_of_week=frozenset(number % 7 for number in _numbers(weekdays)),
        last_day_of_month="L" in day_of_month,
        last_days_of_week=frozenset(int(str(value)[0]) % 7 for value in weekdays)
        if "L" in day_of_week
        else frozenset(),
        nth_day_of_week=nth,
        any_day_of_month=day_of_month in {"*", "?"},
        any_day_of_week=day_of_week in {"*", "?"},
    )


def validate(text: str) -> Expression:
    """Read an expression that a person writes now. Raises `CronInvalid`.

    Besides what `parse` refuses: fewer than five fields, a number before L in the day of month, and days that no
    calendar has, such as February 30th.
    """
    expression = parse(text)
    fields = text.split()
    if not text.startswith("@"):
        if len(fields) < 5:
            raise CronInvalid(
                f"{text!r} has {len(fields)} fields; allowed are 5 (minute, hour, day of month, month, day of week)"
                " or 6 (second first)"
            )
        if re.search(r"[0-9]L", fields[-3]):
            raise _refused(_DAY_OF_MONTH, fields[-3], "L alone, for the last day of the month")
    if not _ever(expression):
        raise CronInvalid(f"{text!r} never comes: no month that it names has such a day")
    return expression


def _ever(expression: Expression) -> bool:
    has_weekdays = not expression.any_day_of_week and (expression.days_of_week or expression.last_days_of_week)
    return bool(
        has_weekdays
        or expression.last_day_of_month
        or any(min(expression.days_of_month, default=32) <= _MONTH_LENGTHS[month - 1] for month in expression.months)
    )


def _nth(day_of_week: str) -> tuple[str, int]:
    day, *rest = day_of_week.split("#")
    if not rest:
        return day, 0
    if re.search(r"[,\-/]", day_of_week) or len(rest) > 1 or not re.fullmatch(r"0*[1-5]", rest[0]):
        raise _refused(_DAY_OF_WEEK, day_of_week, 'one day, "#" and 1 to 5, such as "5#3" for the third Friday')
    return day, int(rest[0])


def _values(field: _Field, text: str) -> list[int | str]:
    """Expand a field; strings are those with an ``L``."""
    written = text
    if field in {_MONTH, _DAY_OF_WEEK}:
        text = re.sub(r"[a-zA-Z]{3}", lambda name: _NAMES.get(name[0].lower(), name[0]), text)
    if "H" in text:
        raise _refused(field, written, "a fixed value: Node draws H anew each time, so that no two readers agree")
    if not re.fullmatch(f"[{field.allowed}]+", text):
        raise _refused(field, written, f"{field.least} to {field.most}, names, and * ? , - /")
    text = re.sub(r"[*?]", f"{field.least}-{field.most}", text)
    return [value for atom in text.split(",") for value in _expand(field, written, atom)]


def _days_of(months: list[int | str], days: list[int | str]) -> list[int | str]:
    """Leave out what the only month does not have, if that leaves any: cron-parser does so before it counts twice."""
    if len(months) != 1:
        return days
    in_month = [day for day in days if isinstance(day, str) or day <= _MONTH_LENGTHS[int(months[0]) - 1]]
    return in_month or days


def _once(field: _Field, written: str, values: list[int | str]) -> list[int | str]:
    if len(set(values)) < len(values):
        raise _refused(field, written, "each value once")
    return values


def _expand(field: _Field, written: str, atom: str) -> list[int | str]:
    span, *steps = atom.split("/")
    if not atom or len(steps) > 1:
        raise _refused(field, written, 'a value, a range "1-5", or either with a step "/2"')
    if steps and "-" not in span:
        span = f"{span}-{field.most}"
    if "-" in span:
        return _range(field, written, span, steps[0] if steps else "1")
    if "L" in span:
        if not re.fullmatch(r"[0-9]{0,2}L", span):
            raise _refused(field, written, "L with at most a number before it")
        return [span]
    if not field.least <= int(span) <= field.most:
        raise _refused(field, written, f"{field.least} to {field.most}")
    return [int(span) % 7 if field is _DAY_OF_WEEK else int(span)]


def _range(field: _Field, written: str, span: str, step_text: str) -> list[int | str]:
    first, last, *_ = (_leading_number(part) for part in span.split("-"))
    step = _leading_number(step_text)
    if first is None or last is None or not field.least <= first <= last <= field.most:
        raise _refused(field, written, f"a range within {field.least} to {field.most}, the smaller first")
    if not step:
        raise _refused(field, written, "a step of 1 or more")
    values: list[int | str] = list(range(first, last + 1, step))
    ends_on_sunday = field is _DAY_OF_WEEK and last % 7 == 0 and (last - first) % step == 0
    return [0, *values] if ends_on_sunday and 0 not in values else values


def _leading_number(text: str) -> int | None:
    digits = re.match(r"[0-9]+", text)
    return int(digits[0]) if digits else None


def _numbers(values: list[int | str]) -> tuple[int, ...]:
    return tuple(sorted(value for value in values if isinstance(value, int)))


def _refused(field: _Field, found: str, allowed: str) -> CronInvalid:
    return CronInvalid(f"cron field {field.name}: {found!r} is not allowed; allowed: {allowed}")
