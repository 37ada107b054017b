"""Rules across fields: each is stated once, as CEL for the API server and as Python for everybody else.

A rule is a method of the model it is about, with its CEL beside it::

    @rule("!(has(self.cron) && has(self.every))", "stands beside `cron`: take one of the two", at="every")
    def _has_one_time(self) -> bool:
        return self.cron is None or self.every is None

`bullpen.api.crd` writes the CEL into the CRD, `violations` runs the Python; message and field are the same for both.
That the two agree is tested case by case on a real API server (tests/cluster).
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec, TypeVar, cast

from pydantic import BaseModel, JsonValue

Reason = Literal["Invalid", "Required", "Forbidden", "Duplicate"]
"""What the API server calls the mistake, after ``FieldValue``."""

M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")

_MARK = "__bullpen_rule__"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule across fields that does not hold.

    `at` is the path, in YAML's names, from the model that states the rule to the field to look at; `found` is that
    field's value where it helps to see it.
    """

    at: tuple[str | int, ...]
    message: str
    found: JsonValue = None


@dataclass(frozen=True, slots=True)
class Breach:
    """Where a rule does not hold, for one that knows it better than its `at`: an entry of a list, say.

    `detail` goes before the rule's message, `hint` after it: what a CEL rule's fixed text cannot know.
    """

    at: tuple[str | int, ...]
    found: JsonValue = None
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a model states: for the API server `cel`, `message`, `at` and `reason`; for Python the method it stands on."""

    cel: str
    """An expression over `self`, the model's object, that is true where the rule holds."""
    message: str
    """What is wrong, and what to do; it reads well after the field's name."""
    at: str
    """The field to look at, in YAML's names and dotted, below the model; empty: the model itself."""
    reason: Reason
    method: str
    """The name of the model's method that says the same in Python."""
    is_transition: bool
    """Whether it is about a change: `oldSelf` in CEL, the method's second argument in Python."""

    def as_validation(self) -> dict[str, JsonValue]:
        """Give the rule as an entry of ``x-kubernetes-validations``."""
        entry: dict[str, JsonValue] = {"rule": self.cel, "message": self.message}
        if self.at:
            entry["fieldPath"] = f".{self.at}"
        if self.reason != "Invalid":
            entry["reason"] = f"FieldValue{self.reason}"
        return entry

    def breaches(self, model: BaseModel, *old: BaseModel) -> Iterator[Violation]:
        """Give each place at which the rule does not hold."""
        answer: bool | Iterable[Breach] = getattr(model, self.method)(*old)
        if isinstance(answer, bool):
            answer = () if answer else (Breach(tuple(filter(None, self.at.split(".")))),)
        for breach in answer:
            yield Violation(breach.at, breach.detail + self.message + breach.hint, breach.found)


def rule(
    cel: str, message: str, *, at: str = "", reason: Reason = "Invalid"
) -> Callable[[Callable[[M], bool | Iterable[Breach]]], Callable[[M], bool | Iterable[Breach]]]:
    """Say that a method states a rule of its model: it says whether the rule holds, or gives where it does not."""

    def mark(method: Callable[[M], bool | Iterable[Breach]]) -> Callable[[M], bool | Iterable[Breach]]:
        setattr(method, _MARK, Rule(cel, message, at, reason, method.__name__, is_transition=False))
        return method

    return mark


def transition(
    cel: str, message: str, *, at: str = "", reason: Reason = "Invalid"
) -> Callable[[Callable[Concatenate[M, P], bool]], Callable[Concatenate[M, P], bool]]:
    """Say that a method states a rule about a change: it takes the object as it was, and says whether it may become so."""

    def mark(method: Callable[Concatenate[M, P], bool]) -> Callable[Concatenate[M, P], bool]:
        setattr(method, _MARK, Rule(cel, message, at, reason, method.__name__, is_transition=True))
        return method

    return mark


@functools.cache
def rules_of(model: type[BaseModel]) -> tuple[Rule, ...]:
    """Give the rules that a model states, those of its bases first, in the order in which they stand."""
    found: dict[str, Rule] = {}
    for base in reversed(model.__mro__):
        for name, value in vars(base).items():
            if hasattr(value, _MARK):
                found[name] = cast("Rule", getattr(value, _MARK))
    return tuple(found.values())
