"""How a function's parameters and a job's payload are the same thing.

The payload of a function, after its context, is

- nothing, when it has no other parameter: ``{}`` is written, whatever comes is passed over;
- the one parameter itself, whatever its name, when it is a *model* (a BaseModel, a dataclass, a TypedDict, or a union of
  these), *any JSON* (``JsonValue``, ``object``, ``Any``) or *a JSON object as it is* (``dict[str, JsonValue]``,
  ``JsonObject``, ``dict``, a ``Mapping``);
- else an object with the parameters by name: ``def digest(user_id: int, *, since: str = "24h")`` is
  ``{"user_id": 7, "since": "24h"}``, defaults included when written, optional when read. So is a single parameter of
  another type, ``def thumbnail(path: str)``, and each of several models.

A context is recognised by its annotation, as the first parameter only. ``*args``, ``**kwargs`` and positional-only
parameters have no place in an object with names and are refused.
"""

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Never, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue

from bullpen import serialization, shapes
from bullpen.errors import ConfigurationError
from bullpen.handling import contexts
from bullpen.serialization import Codec
from bullpen.shapes import PayloadShape

ContextKind = Literal["async", "sync", "any"]


@dataclass(frozen=True)
class Signature:
    """What a handler function takes and gives."""

    context: ContextKind | None
    """Which context it takes as its first argument, if any; "any" where it is annotated as a `BaseContext`."""
    payload: PayloadShape
    payload_type: object
    """The type of the one parameter that is the payload itself; None when there is no such parameter."""
    result: Codec[Any]


def read(function: Callable[..., object], where: str) -> Signature:
    """Read a handler function's signature, resolving its annotations.

    `where` begins the messages: which handler, and where it stands. Raises `ConfigurationError`.
    """
    hints = _hints(function, where)
    parameters = list(inspect.signature(function).parameters.values())
    context = None
    if parameters:
        context = _context_kind(hints.get(parameters[0].name))
        if context is None and parameters[0].name == "ctx" and "ctx" not in hints:
            _refuse(where, "annotate ctx as Context[...] in an async def, or SyncContext[...] in a def")
    rest = parameters if context is None else parameters[1:]
    for parameter in rest:
        _check(parameter, hints.get(parameter.name), where)
    payload_type = None
    payload: PayloadShape
    try:
        if not rest:
            payload = shapes.Nothing()
        elif len(rest) == 1 and is_payload(hints.get(rest[0].name)):
            payload_type = hints[rest[0].name]
            payload = shapes.Whole(serialization.codec(payload_type), rest[0])
        else:
            payload = shapes.Named(rest, hints)
        declared = hints.get("return", JsonValue)
        result = serialization.codec(None if declared is NoReturn or declared is Never else declared)
    except ConfigurationError as error:
        _refuse(where, str(error))
    return Signature(context, payload, payload_type, result)


def is_payload(declared: object) -> bool:
    """Whether a handler's only parameter, so annotated, is the payload itself and not a field of it."""
    if declared is None:  # not annotated
        return False
    if serialization.is_json(declared) or serialization.is_json_object(declared):
        return True
    origin = get_origin(declared)
    if origin is Annotated:
        return is_payload(get_args(declared)[0])
    if origin in {Union, types.UnionType}:
        return all(_is_model(member) for member in get_args(declared))
    return _is_model(declared)


def _is_model(declared: object) -> bool:
    if get_origin(declared) is Annotated:
        return _is_model(get_args(declared)[0])
    declared = get_origin(declared) or declared  # Page[str] is a Page
    if not isinstance(declared, type):
        return False
    return issubclass(declared, BaseModel) or dataclasses.is_dataclass(declared) or _is_typed_dict(declared)


def _is_typed_dict(declared: type) -> bool:  # of typing, or of typing_extensions
    return issubclass(declared, dict) and hasattr(declared, "__total__") and hasattr(declared, "__required_keys__")


# -- reading annotations -----------------------------------------------------


def _hints(function: Callable[..., object], where: str) -> Mapping[str, Any]:
    target = inspect.unwrap(function)
    if not inspect.isroutine(target):  # an object with __call__, a functools.partial
        target = getattr(target, "func", None) or type(target).__call__
    try:
        return typing.get_type_hints(target, localns=_closure(target), include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        _refuse(where, f"its annotations cannot be resolved: {error}; is the type imported outside of TYPE_CHECKING?")


def _closure(target: object) -> dict[str, Any]:
    """Give the enclosing function's names that it uses and that have a value yet."""
    found = {}
    if inspect.isfunction(target):
        for name, cell in zip(target.__code__.co_freevars, target.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # nothing is assigned to it yet
                found[name] = cell.cell_contents
    return found


def _context_kind(annotation: object) -> ContextKind | None:
    declared = get_origin(annotation) or annotation
    if not isinstance(declared, type) or not issubclass(declared, contexts.BaseContext):
        return None
    if issubclass(declared, contexts.SyncContext):
        return "sync"
    return "async" if issubclass(declared, contexts.Context) else "any"


def _check(parameter: inspect.Parameter, annotation: object, where: str) -> None:
    if _context_kind(annotation) is not None:
        _refuse(where, f"the context must be the first parameter, not {parameter.name}")
    if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
        _refuse(where, f"*{parameter.name} has no place in a payload by name; declare each parameter")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        _refuse(where, f"{parameter.name} is positional-only, and a payload has names; leave out the /")


def _refuse(where: str, problem: str) -> NoReturn:
    msg = f"{where}: {problem}"
    raise ConfigurationError(msg)
