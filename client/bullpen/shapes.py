"""The three shapes of a payload: nothing, one value, or parameters by name. Which one it is, `bullpen.handling.signatures` says."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from pydantic import ConfigDict, JsonValue, TypeAdapter

from bullpen import serialization
from bullpen.errors import ConfigurationError
from bullpen.serialization import Codec

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
"""What a handler is called with, after its context: positional and by name."""

_WIRE: Final = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", allow_inf_nan=False)
_NOTHING: Final[Arguments] = ((), {})


class PayloadShape(Protocol):
    """Arguments of a call to payload and back. Both methods raise `Misfit`."""

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Write the arguments of ``.job(...)`` as the payload. Raises `TypeError` for arguments that do not fit."""
        ...

    def decode(self, data: str | bytes) -> Arguments:
        """Read the payload into the arguments of the handler."""
        ...


class Nothing:
    """No parameters: an empty object."""

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Write ``{}``."""
        if args or kwargs:
            msg = "this job takes no arguments"
            raise TypeError(msg)
        return "{}"

    def decode(self, data: str | bytes) -> Arguments:
        """Pass over whatever came."""
        del data
        return _NOTHING


class Whole:
    """One parameter, which is the payload. Without one, as in a contract, the argument has no name."""

    def __init__(self, codec: Codec[Any], parameter: inspect.Parameter | None = None) -> None:
        self._encode = codec.encode
        self._decode = codec.decode
        self._parameter = parameter
        self._name = None
        if parameter is not None and parameter.kind is parameter.KEYWORD_ONLY:
            self._name = parameter.name

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Write the one argument."""
        is_plain = len(args) == 1 and not kwargs and self._name is None
        value = args[0] if is_plain else self._bind(args, kwargs)
        return self._encode(value)

    def decode(self, data: str | bytes) -> Arguments:
        """Read the one argument."""
        value = self._decode(data)
        return ((value,), {}) if self._name is None else ((), {self._name: value})

    def _bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        parameter = self._parameter or inspect.Parameter("data", inspect.Parameter.POSITIONAL_ONLY)
        bound = inspect.Signature([parameter]).bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[parameter.name]


class Named:
    """Parameters by name, in an object."""

    def __init__(self, parameters: list[inspect.Parameter], hints: Mapping[str, Any]) -> None:
        self._signature = inspect.Signature(parameters)
        # A dataclass, because its fields may have any name that a parameter may have ("copy", "_id", "model_x").
        self._fields = dataclasses.make_dataclass(
            "Arguments", [_field(parameter, hints.get(parameter.name, JsonValue)) for parameter in parameters], eq=False
        )
        setattr(self._fields, "__pydantic_config__", _WIRE)  # noqa: B010 - no checker knows it on a class made here
        codec = self._codec(parameters, hints)
        self._encode = codec.encode
        self._decode = codec.decode

    def _codec(self, parameters: list[inspect.Parameter], hints: Mapping[str, Any]) -> Codec[Any]:
        try:
            return serialization.codec(cast("type[Any]", self._fields))
        except ConfigurationError as error:
            for parameter in parameters:
                try:
                    serialization.adapter(hints.get(parameter.name, JsonValue))
                except ConfigurationError as guilty:
                    msg = f"its parameter {parameter.name}: {guilty}"
                    raise ConfigurationError(msg) from error
            raise

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Write the arguments by name, defaults included."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        fields: object = object.__new__(self._fields)
        vars(fields).update(bound.arguments)
        return self._encode(fields)

    def decode(self, data: str | bytes) -> Arguments:
        """Read the arguments by name."""
        return (), vars(self._decode(data))


def _field(parameter: inspect.Parameter, annotation: Any) -> tuple[str, Any, Any]:
    if parameter.default is parameter.empty:
        return parameter.name, annotation, dataclasses.field(kw_only=True)
    default = parameter.default
    # A factory, because dataclasses refuse a list as a default, which functions allow.
    return parameter.name, annotation, dataclasses.field(kw_only=True, default_factory=lambda: default)


def of_contract(data: "type[Any] | TypeAdapter[Any]") -> PayloadShape:
    """Give the payload of a `JobType`: the one argument, of the declared type."""
    return Whole(serialization.codec(data))
