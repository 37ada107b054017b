"""pydantic's errors as findings: the field by its YAML name, what stands there, what may stand there."""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bullpen.api.findings import Finding, Path, did_you_mean, dotted, of_value, shown
from bullpen.api.v1alpha1.base import RULE_ERROR, Allowed
from bullpen.api.v1alpha1.rules import Violation

KEY_MARK = "[key]"
"""How pydantic marks, at the end of a location, that a mapping's key is meant."""


def findings(model: type[BaseModel], error: ValidationError) -> Iterator[tuple[Path, Finding]]:
    """Give each error of a validation with the path to look at."""
    errors = error.errors(include_url=False)
    broken = {details["loc"][:length] for details in errors for length in range(len(details["loc"]))}
    for details in errors:
        # pydantic counts only the entries that are valid: a list of one broken entry is "too short" for it
        if details["type"] == "too_short" and details["loc"] in broken:
            continue
        yield from _explained(model, details)


def _explained(model: type[BaseModel], details: ErrorDetails) -> Iterator[tuple[Path, Finding]]:
    path: Path = details["loc"]
    found: JsonValue = details["input"]
    match details["type"]:
        case kind if kind == RULE_ERROR:
            for violation in details["ctx"]["violations"]:
                yield of_violation(violation, path)
        case "extra_forbidden":
            names = fields(model, path[:-1])
            hint = _deeper(model, path) or did_you_mean(str(path[-1]), names)
            allowed = ", ".join(names)
            text = f"unknown field{hint or f'; allowed: {allowed}'}"
            yield path, Finding("error", dotted(path), text, None, allowed)
        case "missing":
            allowed = allowed_at(model, path)
            yield path[:-1], Finding("error", dotted(path), f"is missing; allowed: {allowed}", None, allowed)
        case _ if path and path[-1] == KEY_MARK:
            path = path[:-1]
            allowed = f"as a key, {allowed_at(model, path, key=True)}"
            name = shown(str(path[-1]))
            yield path, Finding("error", dotted(path[:-1]), f"found the key {name}; allowed: {allowed}", name, allowed)
        case "too_long" | "too_short" if isinstance(found, dict | list):
            allowed = allowed_at(model, path)
            count = f"{len(found)} {'entry' if len(found) == 1 else 'entries'}"
            yield path, Finding("error", dotted(path), f"found {count}; allowed: {allowed}", count, allowed)
        case kind:
            hint = (
                did_you_mean(found, _choices(model, path)) if kind == "literal_error" and isinstance(found, str) else ""
            )
            yield path, of_value("error", path, found, allowed_at(model, path), hint=hint)


def of_violation(violation: Violation, path: Path = ()) -> tuple[Path, Finding]:
    """Give the finding for a rule that does not hold, stated by the model at that path."""
    path = (*path, *violation.at)
    found = None if violation.found is None else shown(violation.found, path)
    text = violation.message if found is None else f"found {found}: {violation.message}"
    return path, Finding("error", dotted(path), text, found)


# -- what the model allows at a path -----------------------------------------

Slot = tuple[Any, tuple[Any, ...]]  # an annotation, and the metadata that stood around it


def allowed_at(model: type[BaseModel], path: Path, *, key: bool = False) -> str:
    """Say in words what may stand at a path."""
    slot = _slot(model, path[:-1] if key else path)
    if slot is None:
        return "nothing"
    if key:
        annotation, _ = _bare(slot)
        return _words((get_args(annotation)[0], ()))
    return _words(slot)


def fields(model: type[BaseModel], path: Path) -> list[str]:
    """Give the YAML names of the fields of the mapping at a path."""
    slot = _slot(model, path)
    annotation = _bare(slot)[0] if slot else None
    return [_alias(name, info) for name, info in _model_fields(annotation).items()]


def _deeper(model: type[BaseModel], path: Path) -> str:
    """Give a hint where the field is one of a mapping that belongs here: `maxReplicas` is `scaling.maxReplicas`."""
    for name in fields(model, path[:-1]):
        if path[-1] in fields(model, (*path[:-1], name)):
            return f'; did you mean "{name}.{path[-1]}"?'
    return ""


def _choices(model: type[BaseModel], path: Path) -> list[str]:
    slot = _slot(model, path)
    return [str(each) for each in get_args(_bare(slot)[0])] if slot else []


def _slot(model: type[BaseModel], path: Path) -> Slot | None:
    slot: Slot = (model, ())
    for part in path:
        annotation, _ = _bare(slot)
        inner = _model_fields(annotation)
        if inner:
            info = next((info for name, info in inner.items() if _alias(name, info) == part), None)
            if info is None:
                return None
            slot = (info.annotation, tuple(info.metadata))
        elif _origin(annotation) in {tuple, list}:
            slot = (get_args(annotation)[0], ())
        elif _origin(annotation) is dict:
            slot = (get_args(annotation)[1], ())
        else:
            return None
    return slot


def _model_fields(annotation: object) -> dict[str, FieldInfo]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields
    return {}


def _origin(annotation: object) -> object:
    return get_origin(annotation)


def _alias(name: str, info: FieldInfo) -> str:
    return info.alias or name


def _bare(slot: Slot) -> Slot:
    """Take away `Annotated`, aliases and `| None`, collecting the metadata."""
    annotation, metadata = slot
    while True:
        if _origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata = (*metadata, *more)
        elif _origin(annotation) in {Union, types.UnionType} and types.NoneType in get_args(annotation):
            rest = [each for each in get_args(annotation) if each is not types.NoneType]
            if len(rest) != 1:
                return annotation, metadata
            annotation = rest[0]
        else:
            return annotation, metadata


def _words(slot: Slot) -> str:
    annotation, metadata = _bare(slot)
    metadata = tuple(_flat(metadata))
    for each in metadata:
        if isinstance(each, Allowed):
            return each.text
    if _origin(annotation) is not None:
        return _generic_words(annotation, metadata)
    if inner := _model_fields(annotation):
        return f"a mapping with {', '.join(_alias(name, info) for name, info in inner.items())}"
    if annotation is bool:
        return "true or false"
    low, high = _bound(metadata, "ge"), _bound(metadata, "le")
    if annotation is int:
        return "an integer" + _range(low, high, "from {} to {}", "from {} on", "up to {}")
    return "text" + _length(metadata, "characters")


def _generic_words(annotation: object, metadata: Sequence[Any]) -> str:
    arguments = get_args(annotation)
    if _origin(annotation) is Literal:
        return _one_of([str(each) for each in arguments])
    count = _length(metadata, "entries")
    if _origin(annotation) is dict:
        return f"a mapping{count}; keys: {_words((arguments[0], ()))}; values: {_words((arguments[1], ()))}"
    return f"a list{count}, each {_words((arguments[0], ()))}"


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    for each in metadata:
        yield each
        if isinstance(each, FieldInfo):
            yield from each.metadata


def _bound(metadata: Sequence[Any], name: str) -> int | None:
    for each in metadata:
        bound = getattr(each, name, None)
        if isinstance(bound, int):
            return bound
    return None


def _range(low: int | None, high: int | None, both: str, lower: str, upper: str) -> str:
    if low is not None and high is not None:
        return " " + both.format(low, high)
    if low is not None:
        return " " + lower.format(low)
    return "" if high is None else " " + upper.format(high)


def _length(metadata: Sequence[Any], what: str) -> str:
    shortest, longest = _bound(metadata, "min_length"), _bound(metadata, "max_length")
    return _range(shortest, longest, f"of {{}} to {{}} {what}", f"of at least {{}} {what}", f"of at most {{}} {what}")


def _one_of(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
