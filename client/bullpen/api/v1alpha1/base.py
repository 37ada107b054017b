"""What every model stands on: the base class, the scalar types, rules across fields.

A CRD is generated from these models, so they stay within what a structural schema can say: no unions but
int-or-string, no defaults inside list items, every string, list and map bounded, patterns that RE2 and Rust's regex
read alike. What spans several fields is a rule (`bullpen.api.v1alpha1.rules`), in Python and in CEL.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Protocol, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic.types import Strict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from bullpen import durations
from bullpen.api.v1alpha1.rules import Violation, rules_of

RULE_ERROR = "bullpen_rule"
"""The type of the pydantic error that carries broken `Violation`s, under `violations` in its context."""

_LONGEST = timedelta(hours=99_999)
_ZERO = timedelta()
_DURATION_SCHEMA: JsonSchemaValue = {
    "type": "string",
    "pattern": durations.PATTERN,
    "maxLength": 32,
    "x-kubernetes-validations": [{"rule": "duration(self) <= duration('99999h')", "message": "is longer than 99999h"}],
}
_POSITIVE_SCHEMA: JsonSchemaValue = _DURATION_SCHEMA | {
    "x-kubernetes-validations": [
        *_DURATION_SCHEMA["x-kubernetes-validations"],
        {"rule": "duration(self) > duration('0s')", "message": "must not be zero"},
    ]
}


@dataclass(frozen=True, slots=True)
class Allowed:
    """Goes into `Annotated`: what a value may be, in words for the person whose value was refused."""

    text: str


class Model(BaseModel):
    """Base of all models: camelCase in YAML, snake_case in Python (both are read), frozen, unknown fields refused.

    Values are not coerced (`"5"` is no integer), as the API server does not. To read objects that a newer version
    wrote, validate with ``extra="ignore"``.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )

    def violations(self) -> Iterator[Violation]:
        """Give the rules across fields that do not hold; the fields are each valid by themselves."""
        for stated in rules_of(type(self)):
            if not stated.is_transition:
                yield from stated.breaches(self)

    def refused_changes(self, old: Self) -> Iterator[Violation]:
        """Give the rules that the change from `old` to this breaks; the API server asks, a file has no past."""
        for stated in rules_of(type(self)):
            if stated.is_transition:
                yield from stated.breaches(self, old)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Give the schema with the model's rules in CEL, as the API server wants them."""
        given = handler(core)
        if rules := [stated.as_validation() for stated in rules_of(cls)]:
            handler.resolve_ref_schema(given)["x-kubernetes-validations"] = rules
        return given

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = tuple(self.violations())
        if broken:
            raise violated(*broken)
        return self

    def to_dict(self) -> dict[str, JsonValue]:
        """Give the object as YAML and JSON have it: camelCase, durations as text, defaults filled in, no nulls."""
        dumped: dict[str, JsonValue] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped


def violated(*broken: Violation) -> PydanticCustomError:
    """Give the error for these broken rules; `violations` in its context are the rules themselves."""
    text = "; ".join(violation.message for violation in broken)
    return PydanticCustomError(RULE_ERROR, "{text}", {"text": text, "violations": broken})


# -- durations ---------------------------------------------------------------


def _duration(value: object) -> timedelta:
    if not isinstance(value, str | timedelta):
        raise PydanticCustomError("duration", "is not a duration")
    try:
        parsed = durations.parse(value)
    except ValueError:
        raise PydanticCustomError("duration", "is not a duration") from None
    if parsed > _LONGEST:
        raise PydanticCustomError("duration", "is longer than 99999h")
    return parsed


def _positive_duration(value: object) -> timedelta:
    parsed = _duration(value)
    if parsed == _ZERO:
        raise PydanticCustomError("duration", "must not be zero")
    return parsed


def _at_least(least: str) -> BeforeValidator:
    shortest = durations.parse(least)

    def check(value: object) -> timedelta:
        parsed = _duration(value)
        if parsed < shortest:
            raise PydanticCustomError("duration", "is shorter than {least}", {"least": least})
        return parsed

    return BeforeValidator(check)


def _schema_at_least(least: str) -> WithJsonSchema:
    rule: JsonSchemaValue = {"rule": f"duration(self) >= duration('{least}')", "message": f"is shorter than {least}"}
    rules = [*_DURATION_SCHEMA["x-kubernetes-validations"], rule]
    return WithJsonSchema(_DURATION_SCHEMA | {"x-kubernetes-validations": rules})


def _duration_text(value: timedelta) -> str:
    return durations.format_ms(durations.parse_ms(value))


Duration = Annotated[
    timedelta,
    BeforeValidator(_positive_duration),
    PlainSerializer(_duration_text, return_type=str, when_used="json"),
    WithJsonSchema(_POSITIVE_SCHEMA),
    Allowed('a duration above zero, such as "500ms", "30s", "5m" or "1h30m"'),
]
"""A length of time above zero, up to 99,999 hours, in whole milliseconds."""

LockDuration = Annotated[
    timedelta,
    _at_least("1s"),
    PlainSerializer(_duration_text, return_type=str, when_used="json"),
    _schema_at_least("1s"),
    Allowed('a duration from "1s", such as "10s" or "1m"'),
]
"""How long a lock lasts: long enough that a pause of the network, or a busy machine, costs none."""

CheckInterval = Annotated[
    timedelta,
    _at_least("100ms"),
    PlainSerializer(_duration_text, return_type=str, when_used="json"),
    _schema_at_least("100ms"),
    Allowed('a duration from "100ms", such as "500ms" or "3s"'),
]
"""How often all workers of a queue look at something in Redis."""

DurationOrZero = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(_duration_text, return_type=str, when_used="json"),
    WithJsonSchema(_DURATION_SCHEMA),
    Allowed('a duration such as "0s", "500ms", "30s", "5m" or "1h30m"'),
]
"""A length of time, zero included."""


# -- numbers as text ---------------------------------------------------------

PERCENT_PATTERN = r"^(100|[1-9]?[0-9])%$"

Percent = Annotated[
    str,
    StringConstraints(pattern=PERCENT_PATTERN, max_length=4),
    Allowed('a percentage from "0%" to "100%", in whole percent'),
]
"""A share in whole percent, as text; `ratio` gives it as a number."""

Factor = Annotated[
    str,
    StringConstraints(pattern=r"^(100|[1-9][0-9]?(\.[0-9]{1,3})?)$", max_length=6),
    Allowed('a decimal number from "1" to "100" as text, in quotes, such as "2" or "1.5"'),
]
"""A decimal number from 1 to 100, as text."""


def ratio(percent: str) -> float:
    """Give a `Percent` as a number from 0 to 1."""
    return int(percent.removesuffix("%")) / 100


def _count_or_percent(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10_000:
        return value
    if isinstance(value, str) and re.fullmatch(PERCENT_PATTERN.strip("^$"), value):
        return value
    raise PydanticCustomError("count_or_percent", "is neither a number of pods nor a percentage")


CountOrPercent = Annotated[
    int | str,
    BeforeValidator(_count_or_percent),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maximum": 10_000,
            "pattern": PERCENT_PATTERN,
            "maxLength": 4,
        }
    ),
    Allowed('a number of pods from 0 to 10000, or a percentage such as "25%"'),
]
"""A number of pods, or a share of them, as a Deployment's strategy takes it."""


# -- names -------------------------------------------------------------------

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

JobQueueName = Annotated[
    str,
    StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=45),
    Allowed("a DNS label of at most 45 characters: a-z, 0-9 and -, beginning and ending with a letter or digit"),
]
"""The name of a JobQueue: what is made for it appends to the name and must fit into 63 characters."""

DnsLabel = Annotated[
    str,
    StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63),
    Allowed("a DNS label of at most 63 characters: a-z, 0-9 and -, beginning and ending with a letter or digit"),
]

ObjectName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253),
    Allowed("the name of a Kubernetes object: a-z, 0-9, - and ., at most 253 characters"),
]

ObjectNameOrEmpty = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253),
    Allowed('the name of a Kubernetes object: a-z, 0-9, - and ., at most 253 characters; or ""'),
]

DataKey = Annotated[
    str,
    StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253),
    Allowed("a key of a Secret or ConfigMap: letters, digits, -, _ and ., at most 253 characters"),
]

QueueName = Annotated[
    str,
    StringConstraints(pattern=r"^[^:\x00-\x1f\x7f]+$", min_length=1, max_length=200),
    Allowed("a BullMQ queue name: 1 to 200 characters, no colon and no control characters"),
]

JobName = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=200),
    Allowed("a job name: 1 to 200 characters, no control characters"),
]

ItemName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", min_length=1, max_length=63),
    Allowed(
        "a name of at most 63 characters: letters, digits, -, _ and ., beginning and ending with a letter or digit"
    ),
]

TimeZone = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_+/-]+$", min_length=1, max_length=64),
    Allowed('an IANA time zone such as "UTC" or "Europe/Berlin"'),
]

Cron = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9@*?/,# -]+$", min_length=6, max_length=200),
    Allowed('a cron expression of five fields, or six with seconds first, such as "0 8 * * 1-5"'),
]


# -- collections and what passes through -------------------------------------


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class ByName:
    """Goes into `Annotated`: a list of objects that is a map by `name`, so names are unique in it."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the names after the items."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say to the API server that the list is a map."""
        return handler(schema) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}

    @staticmethod
    def _check(items: tuple[_Named, ...]) -> tuple[_Named, ...]:
        seen: set[str] = set()
        broken = []
        for index, item in enumerate(items):
            if item.name in seen:
                broken.append(Violation((index, "name"), "the name stands twice in this list", item.name))
            seen.add(item.name)
        if broken:
            raise violated(*broken)
        return items


T = TypeVar("T")

Items = Annotated[tuple[T, ...], Strict(strict=False)]
"""A list in YAML, a tuple here; it takes its bound from `Field(max_length=…)`."""

NamedItems = Annotated[tuple[T, ...], Strict(strict=False), ByName()]
"""A list of objects in YAML that is a map by `name`."""

Passthrough = Annotated[
    dict[str, JsonValue],
    Field(max_length=256),
    WithJsonSchema({"type": "object", "maxProperties": 256, "x-kubernetes-preserve-unknown-fields": True}),
    Allowed("a mapping"),
]
"""A Kubernetes object or JSON that is somebody else's to judge: taken as it is."""

Labels = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=262_144)]],
    Field(max_length=256),
    Allowed("a mapping of text to text (quote numbers and true or false)"),
]

Replicas = Annotated[int, Field(ge=0, le=10_000)]
