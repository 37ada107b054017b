"""Work to do (`JobSpec`), contracts that need no code (`JobType`), and what is known of a job (`JobInfo`, `JobEvent`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from pydantic import JsonValue, TypeAdapter

from bullpen import serialization, shapes
from bullpen.errors import ConfigurationError, OptionInvalid, PayloadInvalid, ResultInvalid
from bullpen.options import (
    MAX_DELAY_MS,
    Backoff,
    Deduplication,
    EnqueueOptions,
    JobDefaults,
    Retention,
    duration_ms,
)
from bullpen.serialization import Codec, Misfit
from bullpen.shapes import PayloadShape

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)

_ANY_JSON: Final[Codec[JsonValue]] = Codec(serialization.encode_json, serialization.decode_json)
_MAX_NAME: Final = 255
_PRIORITIES: Final = 2_097_151  # BullMQ's bound: 21 bits
# A day within what a datetime can say, so that it can be said in any time zone.
_FIRST_MS: Final = int(datetime(1, 1, 2, tzinfo=UTC).timestamp()) * 1_000
_LAST_MS: Final = int(datetime(9999, 12, 30, tzinfo=UTC).timestamp()) * 1_000


@dataclass(frozen=True, slots=True)
class JobSpec(Generic[R_co]):
    """Work to do: what `.job(...)` gives and every enqueue takes. `R_co` is the type of its result.

    A value: it is not in Redis until enqueued, and may be enqueued more than once.
    """

    name: str
    queue: str | None
    """The queue of its definition; None when the enqueue must name one."""
    data_json: str
    """The payload as it will lie in Redis."""
    options: EnqueueOptions = field(default_factory=EnqueueOptions)
    """The job's own options, from `with_options`; do not change it."""
    defaults: JobDefaults = field(default_factory=JobDefaults)
    """What its definition in code says for all jobs of the name. The JobQueue's ``jobs`` entry goes before these."""
    version: int = 1
    """Of the payload."""
    result: Codec[R_co] = field(default_factory=lambda: cast("Codec[R_co]", _ANY_JSON))
    """How its result is read."""

    @classmethod
    def by_name(cls, name: str, data: object = None, *, queue: str | None = None) -> "JobSpec[JsonValue]":
        """Give the work of a job whose definition is elsewhere: `data` is a JSON object, a model or a dataclass.

        Raises `PayloadInvalid` when it is neither.
        """
        try:
            text = "{}" if data is None else serialization.encode_object(data)
        except Misfit as error:
            raise payload_invalid(name, error) from None
        return JobSpec(check_name(name), queue, text, result=_ANY_JSON)

    @property
    def data(self) -> JsonValue:
        """The payload, as a reader of Redis sees it."""
        return serialization.decode_json(self.data_json)

    def with_options(self, **options: Unpack[EnqueueOptions]) -> "JobSpec[R_co]":
        """Give the same work with these options over those it has.

        Raises `TypeError` for an unknown option, `OptionInvalid` for a value that is not allowed.
        """
        check_options(options, EnqueueOptions)
        return replace(self, options=cast("EnqueueOptions", {**self.options, **options}))

    def read_result(self, text: str | bytes) -> R_co:
        """Read a result of this job from its JSON. Raises `ResultInvalid`."""
        return _read_result(self.name, self.result, text)


class JobType(Generic[P, R]):
    """A job's contract: its name, queue, payload and result. Producers need no more than this.

    `data` and `result` are types or `pydantic.TypeAdapter`; without `result` the job gives nothing. The schemas are made at
    first use. Raises `ConfigurationError` for a name or version that is not allowed, `TypeError` for an unknown option,
    `OptionInvalid` for an option's value.
    """

    @overload
    def __init__(
        self: "JobType[[A], None]",
        name: str,
        *,
        data: "type[A] | TypeAdapter[A]",
        queue: str | None = None,
        version: int = 1,
        **defaults: Unpack[JobDefaults],
    ) -> None: ...
    @overload
    def __init__(
        self: "JobType[[A], S]",
        name: str,
        *,
        data: "type[A] | TypeAdapter[A]",
        result: "type[S] | TypeAdapter[S]",
        queue: str | None = None,
        version: int = 1,
        **defaults: Unpack[JobDefaults],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        *,
        data: Any,
        result: Any = None,
        queue: str | None = None,
        version: int = 1,
        **defaults: Unpack[JobDefaults],
    ) -> None:
        self._define(name, queue, version, defaults)
        self._data_type = data
        self._result_type = result

    def _define(self, name: str, queue: str | None, version: int, defaults: JobDefaults) -> None:
        check_options(defaults, JobDefaults)
        self._name = check_name(name)
        self._queue = None if queue is None else check_queue_name(queue)
        self._version = _check_version(name, version)
        self._defaults: JobDefaults = cast("JobDefaults", dict(defaults))

    def __repr__(self) -> str:
        queue = "" if self._queue is None else f" of queue {self._queue!r}"
        return f"<{type(self).__name__} {self._name!r}{queue}>"

    @property
    def name(self) -> str:
        """The name in Redis."""
        return self._name

    @property
    def queue(self) -> str | None:
        """The queue that its jobs go to; None when the enqueue must name one."""
        return self._queue

    @property
    def version(self) -> int:
        """The version of the payload that its jobs are written with."""
        return self._version

    @property
    def defaults(self) -> Mapping[str, object]:
        """The options that its jobs have unless the job or the JobQueue's ``jobs`` entry says otherwise."""
        return MappingProxyType(self._defaults)

    @property
    def data_type(self) -> object:
        """The declared type of its payload."""
        return self._data_type

    @cached_property
    def payload(self) -> PayloadShape:
        """How its payload is written and read; made at first use."""
        return shapes.of_contract(self._data_type)

    @cached_property
    def result_codec(self) -> "Codec[R]":
        """How its result is written and read; made at first use."""
        return cast("Codec[R]", serialization.codec(self._result_type))

    def job(self, *args: P.args, **kwargs: P.kwargs) -> JobSpec[R]:
        """Give the work of one job. Nothing is sent.

        Raises `PayloadInvalid` when the arguments do not fit their types or JSON, `TypeError` when they are too many, too
        few or have other names, `ConfigurationError` when the definition itself cannot be used.
        """
        try:
            text = self.payload.encode(args, kwargs)
        except Misfit as error:
            raise payload_invalid(self._name, error) from None
        except TypeError as error:
            msg = f"{self._name}.job(): {error}"
            raise TypeError(msg) from None
        return JobSpec(self._name, self._queue, text, {}, self._defaults, self._version, self.result_codec)

    def read_result(self, text: str | bytes) -> R:
        """Read a result of such a job from its JSON. Raises `ResultInvalid`."""
        return _read_result(self._name, self.result_codec, text)


@dataclass(frozen=True)
class JobInfo:
    """A job as it was at one moment."""

    id: str
    name: str
    queue: str
    state: str
    """``waiting``, ``prioritized``, ``delayed``, ``active``, ``completed``, ``failed``, or another of BullMQ's."""
    data: JsonValue
    attempt: int
    """Of a job that runs, the attempt's number from 1; else how many attempts are spent."""
    attempts: int
    """How often it may run in all."""
    enqueued_at: datetime
    priority: int = 0
    """1 is served first; 0 is none."""
    snoozes: int = 0
    """How often it put itself off; 1,000 are allowed."""
    progress: JsonValue = None
    error: str | None = None
    """Why it failed, or its last attempt did."""
    started_at: datetime | None = None
    """When its last attempt started."""
    finished_at: datetime | None = None
    """When it ended for good."""


@dataclass(frozen=True)
class JobEvent:
    """One change of a job."""

    type: Literal["state", "progress", "completed", "failed", "removed"]
    state: str
    """The state that the job has now."""
    progress: JsonValue
    at: datetime
    """When Redis wrote it."""


def moment(ms: int) -> datetime:
    """Give a time in ms since 1970 as an aware datetime; the nearest there is for what a foreign producer made up."""
    return datetime.fromtimestamp(min(max(ms, _FIRST_MS), _LAST_MS) / 1_000, UTC)


# -- checks ------------------------------------------------------------------


def check_name(name: str) -> str:
    """Give the name of a job back. Raises `ConfigurationError` when it is none."""
    if not _is_name(name):
        msg = f"a job's name is text of 1 to {_MAX_NAME} printable characters, not {str(name)[:80]!r}"
        raise ConfigurationError(msg)
    return name


def check_queue_name(queue: str) -> str:
    """Give the name of a queue back. Raises `ConfigurationError` when BullMQ does not allow it."""
    if not _is_name(queue) or ":" in queue:
        msg = f"a queue's name is text of 1 to {_MAX_NAME} printable characters without colon, not {str(queue)[:80]!r}"
        raise ConfigurationError(msg)
    return queue


def _is_name(value: object) -> bool:  # of anything: what the caller's types promise is not checked at run time
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()


def _check_version(name: str, version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        msg = f"job {name!r}: a version is a whole number from 1, not {version!r}"
        raise ConfigurationError(msg)
    return version


def check_options(options: Mapping[str, object], allowed: type[JobDefaults]) -> None:
    """Check options given by keyword against `JobDefaults` or `EnqueueOptions`.

    Raises `TypeError` for an unknown one, `OptionInvalid` for a value that is not allowed. What depends on the queue (the
    name of a priority) is checked by the client.
    """
    names = allowed.__annotations__ if allowed is JobDefaults else EnqueueOptions.__annotations__
    for name, value in options.items():
        if name not in names:
            msg = f"unknown option {name!r}; there are {', '.join(sorted(names))}"
            raise TypeError(msg)
        check = _CHECKS.get(name)
        if check is not None:
            check(name, value)


def _check_attempts(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise _not_allowed(name, value, "a whole number from 1 to 1000000")


def _check_priority(name: str, value: object) -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _PRIORITIES
    if not is_number and not (isinstance(value, str) and value):
        raise _not_allowed(name, value, f"a whole number from 0 (none) to {_PRIORITIES}, or the name of a level")


def _check_timeout(name: str, value: object) -> None:
    ms = duration_ms(name, cast("Any", value))
    if not 1 <= ms <= MAX_DELAY_MS:
        raise _not_allowed(name, value, "longer than nothing, and a year at most")


def _check_instance(kind: type) -> Any:
    def check(name: str, value: object) -> None:
        if not isinstance(value, kind):
            raise _not_allowed(name, value, f"a bullpen.{kind.__name__}")

    return check


def _check_moment(name: str, value: object) -> None:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _not_allowed(name, value, "a datetime with a time zone")
        return
    duration_ms(name, cast("Any", value))


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _not_allowed(name, value, "True or False")


_CHECKS: Final[Mapping[str, Any]] = {
    "priority": _check_priority,
    "attempts": _check_attempts,
    "backoff": _check_instance(Backoff),
    "timeout": _check_timeout,
    "retention": _check_instance(Retention),
    "delay": _check_moment,
    "expires": _check_moment,
    "lifo": _check_bool,
    "deduplication": _check_instance(Deduplication),
}


def _not_allowed(option: str, value: object, allowed: str) -> OptionInvalid:
    return OptionInvalid(f"{option}: {value!r} is not allowed; allowed: {allowed}")


def payload_invalid(name: str, problem: object) -> PayloadInvalid:
    """Give the error that says what is wrong with a job's payload."""
    return PayloadInvalid(f"the payload of job {name!r} does not fit: {problem}")


def result_invalid(name: str, problem: object) -> ResultInvalid:
    """Give the error that says what is wrong with a job's result."""
    return ResultInvalid(f"the result of job {name!r} does not fit: {problem}")


def _read_result(name: str, codec: Codec[R], text: str | bytes) -> R:
    try:
        return codec.decode(text)
    except Misfit as error:
        raise result_invalid(name, error) from None
