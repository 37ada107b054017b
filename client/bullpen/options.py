"""The values of options: how a job is retried, kept, deduplicated and delayed.

Each value is frozen, checks itself when it is made, and knows its form on BullMQ's wire. A value that is not allowed
raises `bullpen.errors.OptionInvalid`, which names the option, what was given and what is allowed. What comes *from*
the wire was written by others: it is never refused, what cannot be read counts as "none brought".

What a Node worker understands goes where BullMQ has it. The rest goes as short text to ``opts.bullpen``: Redis encodes
options anew with cjson, where an empty list becomes an object and a long integer loses its last digits.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Self, TypedDict, TypeGuard

from pydantic import JsonValue

from bullpen import durations
from bullpen.durations import Duration
from bullpen.errors import OptionInvalid

MAX_DELAY_MS = 365 * 24 * 3_600_000
"""The longest delay that a backoff computes, in milliseconds: a year. Without an end, 2s x 2 passes the age of the
universe at the 58th attempt."""

BackoffKind = Literal["Exponential", "Linear", "Fixed", "Immediate"]
OnFailure = Literal["fail_parent", "continue_parent", "ignore", "remove"]

_KIND_OF_CODE: Mapping[str, BackoffKind] = {"e": "Exponential", "l": "Linear", "f": "Fixed", "i": "Immediate"}
_CODE_OF_KIND: Mapping[BackoffKind, str] = {kind: code for code, kind in _KIND_OF_CODE.items()}
_NODE_FACTOR = 2.0
_MAX_COUNT = 10**9
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_TEXT = re.compile(rf"([elfi]):([0-9]{{1,12}}):({_NUMBER}):([0-9]{{0,12}}):({_NUMBER})")
_PERCENT = re.compile(r"([0-9]{1,3})%")


@dataclass(frozen=True)
class Backoff:
    """How long a failed attempt waits for the next.

    Make one with `exponential`, `linear`, `fixed` or `immediate`. The wait before jitter is

    - ``Exponential``: ``delay x factor ** (attempt - 1)``, attempts counted from 1,
    - ``Linear``: ``delay x attempt``,
    - ``Fixed``: ``delay``,
    - ``Immediate``: none;

    never more than `max_delay_ms`, nor than a year (`MAX_DELAY_MS`). `jitter` is Node's: the share of the wait that is
    random. The result lies evenly between ``wait x (1 - jitter)`` and ``wait``, so jitter never makes it longer.
    """

    kind: BackoffKind
    delay_ms: int = 0
    factor: float = _NODE_FACTOR
    max_delay_ms: int | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _CODE_OF_KIND:
            raise _invalid("backoff", self.kind, "Exponential, Linear, Fixed or Immediate")
        _check_whole("backoff delay in milliseconds", self.delay_ms, least=0, most=MAX_DELAY_MS)
        if self.max_delay_ms is not None:
            _check_whole("backoff max_delay in milliseconds", self.max_delay_ms, least=1, most=MAX_DELAY_MS)
        if not _is_number(self.factor) or not 1 <= self.factor <= 100:
            raise _invalid("backoff factor", self.factor, "a number from 1 to 100")
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise _invalid("backoff jitter", self.jitter, "a number from 0 (none) to 1 (all of the delay)")

    @classmethod
    def exponential(
        cls, delay: Duration, *, factor: float = 2, max_delay: Duration | None = None, jitter: float = 0
    ) -> Self:
        """Wait `delay`, then `factor` times as long each time, up to `max_delay`. Raises `OptionInvalid`."""
        return cls(
            "Exponential",
            duration_ms("backoff delay", delay),
            factor,
            None if max_delay is None else duration_ms("backoff max_delay", max_delay),
            jitter,
        )

    @classmethod
    def linear(cls, delay: Duration, *, max_delay: Duration | None = None, jitter: float = 0) -> Self:
        """Wait `delay`, then `delay` longer each time, up to `max_delay`. Raises `OptionInvalid`."""
        return cls(
            "Linear",
            duration_ms("backoff delay", delay),
            max_delay_ms=None if max_delay is None else duration_ms("backoff max_delay", max_delay),
            jitter=jitter,
        )

    @classmethod
    def fixed(cls, delay: Duration, *, jitter: float = 0) -> Self:
        """Wait `delay` each time. Raises `OptionInvalid`."""
        return cls("Fixed", duration_ms("backoff delay", delay), jitter=jitter)

    @classmethod
    def immediate(cls) -> Self:
        """Do not wait: the next attempt starts as soon as a worker is free."""
        return cls("Immediate")

    @classmethod
    def from_spec(
        cls,
        kind: BackoffKind,
        *,
        delay: Duration = "0s",
        factor: str = "2",
        max_delay: Duration | None = None,
        jitter: str = "0%",
    ) -> Self:
        """Give what ``retry.backoff`` of a JobQueue says, where numbers are text: factor "1.5", jitter "50%".

        What the kind does not use (a factor of ``Fixed``) is left out; times beyond a year count as a year. Raises
        `OptionInvalid`.
        """
        percent = _PERCENT.fullmatch(jitter)
        if percent is None or int(percent[1]) > 100:
            raise _invalid("backoff jitter", jitter, 'a percentage from "0%" to "100%"')
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", factor):
            raise _invalid("backoff factor", factor, 'a decimal string such as "2" or "1.5"')
        share = int(percent[1]) / 100
        delay = _at_most_a_year("backoff delay", delay)
        max_delay = None if max_delay is None else _at_most_a_year("backoff maxDelay", max_delay)
        match kind:
            case "Exponential":
                return cls.exponential(delay, factor=float(factor), max_delay=max_delay, jitter=share)
            case "Linear":
                return cls.linear(delay, max_delay=max_delay, jitter=share)
            case "Fixed":
                return cls.fixed(delay, jitter=share)
            case "Immediate":
                return cls.immediate()

    def to_wire(self) -> dict[str, JsonValue]:
        """Give BullMQ's ``opts.backoff``: the nearest that a Node worker understands, ``fixed`` or ``exponential``.

        Node knows neither a factor, a maximum nor a linear backoff; see `to_text`.
        """
        kind = "exponential" if self.kind == "Exponential" else "fixed"
        wire: dict[str, JsonValue] = {"type": kind, "delay": self.delay_ms}
        if self.jitter:
            wire["jitter"] = self.jitter
        return wire

    def to_text(self) -> str | None:
        """Give ``opts.bullpen.backoff``, such as ``"e:2000:2:60000:0.5"``: kind, delay, factor, maximum, jitter.

        None where `to_wire` says it all.
        """
        if self._node_knows_all():
            return None
        maximum = "" if self.max_delay_ms is None else self.max_delay_ms
        return f"{_CODE_OF_KIND[self.kind]}:{self.delay_ms}:{_decimal(self.factor)}:{maximum}:{_decimal(self.jitter)}"

    @classmethod
    def from_wire(cls, wire: JsonValue, text: JsonValue = None) -> Self | None:
        """Read ``opts.backoff`` and ``opts.bullpen.backoff``; the text wins where it can be read.

        None when the job brings no backoff, or one that only its producer knows (a custom type): then the policy's
        holds. A bare number is ``fixed``, as in Node. A delay beyond a year counts as a year.
        """
        exact = cls._from_text(text)
        if exact is not None:
            return exact
        if _is_number(wire):
            wire = {"type": "fixed", "delay": wire}
        if not isinstance(wire, dict) or wire.get("type") not in ("fixed", "exponential"):
            return None
        delay, jitter = wire.get("delay") or 0, wire.get("jitter") or 0
        if not _is_number(delay) or delay < 0:
            return None
        return cls(
            "Exponential" if wire["type"] == "exponential" else "Fixed",
            int(min(delay, MAX_DELAY_MS)),
            jitter=min(max(float(jitter), 0.0), 1.0) if _is_number(jitter) else 0.0,
        )

    @classmethod
    def _from_text(cls, text: JsonValue) -> Self | None:
        parts = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if parts is None:
            return None
        code, delay, factor, maximum, jitter = parts.groups()
        try:
            return cls(_KIND_OF_CODE[code], int(delay), float(factor), int(maximum) if maximum else None, float(jitter))
        except OptionInvalid:  # written by another version, with other bounds
            return None

    def _node_knows_all(self) -> bool:
        match self.kind:
            case "Exponential":
                return self.factor == _NODE_FACTOR and self.max_delay_ms is None
            case "Fixed":
                return self.max_delay_ms is None
            case "Linear" | "Immediate":
                return False


@dataclass(frozen=True)
class Deduplication:
    """Which jobs count as the same, and what becomes of the later one. Make one with a constructor below."""

    id: str
    ttl_ms: int | None = None
    extend: bool = False
    replace: bool = False
    keep_last_if_active: bool = False

    def __post_init__(self) -> None:
        if not _is_text(self.id) or not 1 <= len(self.id) <= 1024:
            raise _invalid("deduplication id", self.id, "text of 1 to 1024 characters")
        if self.ttl_ms is not None:
            _check_whole("deduplication ttl in milliseconds", self.ttl_ms, least=1, most=MAX_DELAY_MS)

    @classmethod
    def simple(cls, id: str) -> Self:
        """Drop the job while one with this id has not ended. Raises `OptionInvalid`."""
        return cls(id)

    @classmethod
    def throttle(cls, id: str, ttl: Duration) -> Self:
        """Drop the job if one with this id was added within `ttl`, ended or not. Raises `OptionInvalid`."""
        return cls(id, duration_ms("deduplication ttl", ttl))

    @classmethod
    def debounce(cls, id: str, ttl: Duration) -> Self:
        """Run the last of the jobs with this id, once none has been added for `ttl`. Raises `OptionInvalid`.

        The job is delayed by `ttl`, unless the enqueue brings a delay of its own: only a delayed job can be replaced.
        """
        return cls(id, duration_ms("deduplication ttl", ttl), extend=True, replace=True)

    @classmethod
    def keep_last(cls, id: str) -> Self:
        """Drop the job while one with this id waits; while one runs, keep the last and run it afterwards.

        So at most two exist, and never two at once. Raises `OptionInvalid`.
        """
        return cls(id, keep_last_if_active=True)

    @property
    def default_delay_ms(self) -> int:
        """The delay that the job gets when its enqueue brings none: a debounced job waits its ttl."""
        return (self.ttl_ms or 0) if self.replace else 0

    def to_wire(self) -> dict[str, JsonValue]:
        """Give BullMQ's ``opts.deduplication`` (``de`` in the job's hash), without what is absent."""
        wire: dict[str, JsonValue] = {"id": self.id}
        if self.ttl_ms is not None:
            wire["ttl"] = self.ttl_ms
        flags = {"extend": self.extend, "replace": self.replace, "keepLastIfActive": self.keep_last_if_active}
        return wire | {name: True for name, is_set in flags.items() if is_set}


@dataclass(frozen=True)
class Keep:
    """How long and how many finished jobs are kept; neither given keeps all, ``Keep(count=0)`` none.

    A job goes when either limit is passed. BullMQ looks only when another job of the queue finishes, and counts the
    age in whole seconds (a part counts as one).
    """

    age: Duration | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.age is not None and duration_ms("retention age", self.age) == 0:
            raise _invalid("retention age", self.age, 'longer than nothing; keep none with "count=0"')
        if self.count is not None:
            _check_whole("retention count", self.count, least=0, most=_MAX_COUNT)

    def to_wire(self) -> dict[str, JsonValue] | bool:
        """Give BullMQ's ``opts.removeOnComplete`` or ``removeOnFail``: age in seconds, count; False keeps all."""
        wire: dict[str, JsonValue] = {}
        if self.age is not None:
            wire["age"] = -(-durations.parse_ms(self.age) // 1_000)
        if self.count is not None:
            wire["count"] = self.count
        return wire or False

    @classmethod
    def from_wire(cls, wire: JsonValue) -> Self | None:
        """Read ``opts.removeOnComplete`` or ``removeOnFail``: a boolean, a count, or age and count.

        None when the job brings none. A negative count keeps all, as in BullMQ.
        """
        if isinstance(wire, bool):
            return cls(count=0) if wire else cls()
        if _is_number(wire):
            return cls(count=int(min(wire, _MAX_COUNT))) if wire >= 0 else cls()
        if not isinstance(wire, dict):
            return None
        age, count = wire.get("age"), wire.get("count")
        seconds = min(math.ceil(age), 99_999 * 3_600) if _is_number(age) and age > 0 else None
        return cls(
            None if seconds is None else timedelta(seconds=seconds),
            int(min(count, _MAX_COUNT)) if _is_number(count) and count >= 0 else None,
        )


@dataclass(frozen=True)
class Retention:
    """How long finished jobs are kept, completed and failed ones apart; None leaves it to the queue's policy."""

    completed: Keep | None = None
    failed: Keep | None = None

    def __post_init__(self) -> None:
        for name, value in (("completed", self.completed), ("failed", self.failed)):
            if not _is_keep(value):
                raise _invalid(
                    f"retention {name}", value, 'a bullpen.Keep, such as Keep(age="24h", count=1000), or None'
                )


class JobDefaults(TypedDict, total=False):
    """What a handler or `JobType` may set for all its jobs.

    Who decides a setting, strongest first: the job's own option, the JobQueue's ``jobs`` entry of its name, these, the
    JobQueue's own, built in.
    """

    priority: int | str
    """1 is served first, up to 2,097,151; or the name of a level of the queue's ``priorities``."""

    attempts: int
    """How often the job may run, the first time included: at least 1."""

    backoff: Backoff
    """How long a failed attempt waits for the next."""

    timeout: Duration
    """How long one attempt may take. It is resolved when the attempt starts."""

    retention: Retention
    """How long the job is kept once it has ended."""


class EnqueueOptions(JobDefaults, total=False):
    """What one enqueue may set."""

    delay: Duration | datetime
    """When the job may start: after a length of time, or at an aware `datetime`; one that has passed means now."""

    job_id: str
    """The job's id in place of a minted one. No colon, and no bare integer: BullMQ mints those. While a job with this
    id is kept, the enqueue adds none and gives that one."""

    lifo: bool
    """Start the job before those that wait, in place of after them. Not with a priority."""

    deduplication: Deduplication
    """Which jobs count as the same as this one."""

    group: str
    """The tenant that the job belongs to."""

    on_failure: OnFailure
    """What this job's failure does to its parent in a flow; absent, the parent fails."""

    expires: Duration | datetime
    """A job that has not started by then fails as expired: after a length of time from now, or at an aware
    `datetime`."""


_DURATIONS: Final = 'a timedelta that is not negative, or text like "500ms", "30s", "5m" or "1h30m"'


def duration_ms(option: str, value: Duration) -> int:
    """Give an option's duration in milliseconds. Raises `OptionInvalid` for what is none, a bare number included."""
    try:
        return durations.parse_ms(value)
    except ValueError:
        raise _invalid(option, value, _DURATIONS) from None
    except TypeError:
        raise _invalid(option, value, f"{_DURATIONS}; a bare number has no unit") from None


def _at_most_a_year(option: str, value: Duration) -> Duration:
    return timedelta(milliseconds=min(duration_ms(option, value), MAX_DELAY_MS))


def _invalid(option: str, value: object, allowed: str) -> OptionInvalid:
    return OptionInvalid(f"{option}: {value!r} is not allowed; allowed: {allowed}")


def _check_whole(option: str, value: object, *, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _invalid(option, value, f"a whole number from {least} to {most}")


def _is_keep(value: object) -> bool:  # of anything, too
    return value is None or isinstance(value, Keep)


def _is_text(value: object) -> bool:  # of anything; half of a surrogate pair cannot be sent
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))


def _decimal(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
