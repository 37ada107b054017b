"""Python values to JSON text and back, by their declared type.

A `Codec` is compiled once for a type; its two functions are on the hot path of every job. JSON types (``JsonValue``,
``dict[str, JsonValue]``, None) go past pydantic.

Values may be secrets: an error names the field and the types, never the value. (What a validator of the application's
own says is its author's words, and is passed on, cut to a line.)
"""

import functools
import json
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast, get_args, get_origin

import pydantic_core
from pydantic import (
    BaseModel,
    JsonValue,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticSerializationError

from bullpen.errors import ConfigurationError

T = TypeVar("T")

MOST_LEVELS: Final = 200
"""How deep JSON may be nested: pydantic's reader, by which a worker reads it, goes no deeper."""

_MAX_PROBLEMS: Final = 5
_MAX_WORDS: Final = 200
_MAX_PATH: Final = 120

_to_text: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
# pydantic's own `dump_json` would write NaN as null.


class Misfit(ValueError):
    """A value does not fit its type, or JSON. The message names fields and types, and has no value in it."""


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How values of one type are written as JSON text and read again. Both functions raise `Misfit`."""

    encode: Callable[[T], str]
    decode: Callable[[str | bytes], T]


def codec(declared: "type[T] | TypeAdapter[T] | None") -> Codec[T]:
    """Give the codec of a type, or of a `TypeAdapter`.

    Raises `ConfigurationError` when pydantic cannot make a schema of the type.
    """
    if isinstance(declared, TypeAdapter):
        return _of_adapter(declared)
    if declared is None or declared is types.NoneType:
        return cast("Codec[T]", Codec(_encode_none, _decode_none))
    if is_json(declared):
        return cast("Codec[T]", Codec(encode_json, decode_json))
    if is_json_object(declared):
        return cast("Codec[T]", Codec(_encode_object, decode_object))
    return _of_adapter(adapter(declared))


def adapter(declared: type[T]) -> "TypeAdapter[T]":
    """Give pydantic's adapter of a type. Raises `ConfigurationError` when there is no schema for it."""
    try:
        return TypeAdapter(declared)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        problem = str(error).partition("\n")[0].partition(". ")[0]
        msg = f"{type_name(declared)} cannot be written as JSON: {problem}"
        raise ConfigurationError(msg) from error


def is_json(declared: object) -> bool:
    """Whether the declared type says "any JSON": ``JsonValue``, ``Any``, ``object``."""
    return declared is JsonValue or declared is Any or declared is object


def is_json_object(declared: object) -> bool:
    """Whether the declared type says "a JSON object as it is": ``dict[str, JsonValue]``, ``dict``, a Mapping."""
    if declared is dict or declared is Mapping:
        return True
    if get_origin(declared) not in {dict, Mapping}:
        return False
    key, value = get_args(declared)
    return key is str and is_json(value)


def type_name(declared: object) -> str:
    """Give a type's name as one would write it."""
    return declared.__qualname__ if isinstance(declared, type) and not get_args(declared) else str(declared)


# -- JSON as it is -----------------------------------------------------------


_CONTAINERS: Final = (dict, list, tuple)
_END: Final = object()


def encode_json(value: object) -> str:
    """Write a JSON value, compact. Tuples are arrays.

    Raises `Misfit` that says where what is no JSON, and for what is nested deeper than `MOST_LEVELS`.
    """
    if value is None:
        return "null"
    try:
        text = _to_text(value)
    except (ValueError, TypeError, RecursionError):
        raise Misfit(_why_no_json(value)) from None
    if not text.isascii() and not _is_unicode(text):
        raise Misfit(_why_no_json(value))
    if isinstance(value, dict | list | tuple) and not _can_be_read(value, MOST_LEVELS):
        raise Misfit(_why_no_json(value))
    return text


def decode_json(text: str | bytes) -> JsonValue:
    """Read any JSON. Raises `Misfit`; NaN and infinity are no JSON."""
    try:
        value: JsonValue = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        msg = f"not JSON: {error}"
        raise Misfit(msg) from None
    return value


def decode_object(text: str | bytes) -> dict[str, JsonValue]:
    """Read a JSON object. Raises `Misfit` for other JSON too."""
    value = decode_json(text)
    if type(value) is not dict:
        msg = f"a JSON object is needed, not {_json_kind(value)}"
        raise Misfit(msg)
    return value


def encode_object(value: object) -> str:
    """Write what an enqueue by name was given: a mapping, a model, a dataclass. Raises `Misfit` for anything else."""
    if isinstance(value, BaseModel) or hasattr(type(value), "__dataclass_fields__"):
        return _codec_of_class(cast("Hashable", type(value))).encode(value)
    if isinstance(value, Mapping):
        return _encode_object(value if isinstance(value, dict) else dict(value))
    msg = f"a payload is a JSON object, a model or a dataclass, not {type_name(type(value))}"
    raise Misfit(msg)


def _encode_object(value: object) -> str:
    if not isinstance(value, dict):
        if not isinstance(value, Mapping):
            msg = f"a JSON object is needed, not {type_name(type(value))}"
            raise Misfit(msg)
        value = dict(value)
    return encode_json(value)


def _encode_none(value: object) -> str:
    if value is not None:
        msg = f"nothing (None) was declared, not {type_name(type(value))}"
        raise Misfit(msg)
    return "null"


def _decode_none(text: str | bytes) -> None:
    value = decode_json(text)
    if value is not None:
        msg = f"null is needed, not {_json_kind(value)}"
        raise Misfit(msg)


def _json_kind(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "a boolean"
    kinds: dict[type, str] = {
        dict: "an object",
        list: "an array",
        str: "a string",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), "null")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: it cannot be sent
        return False
    return True


def _can_be_read(value: object, levels: int) -> bool:
    """Whether keys are text (json.dumps writes {1: 2} as {"1": 2}, silently), and no more levels deep."""
    if not levels:
        return False
    items: Iterable[object] = ()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return False
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    # Loops, not generators: every payload and every result comes here.
    for item in items:  # noqa: SIM110
        if isinstance(item, _CONTAINERS) and not _can_be_read(item, levels - 1):
            return False
    return True


def _why_no_json(value: object) -> str:
    """Look for it from the top, without recursion: who calls may be deep in a stack of its own."""
    pending = [iter([("", value)])]
    above: list[int] = []
    while pending:
        path, item = next(pending[-1], ("", _END))
        if item is _END:
            pending.pop()
            if above:
                above.pop()
            continue
        where = f"{_short(path, _MAX_PATH)}: " if path else ""
        if not isinstance(item, _CONTAINERS):
            if found := _why_no_scalar(item, where):
                return found
            continue
        if id(item) in above:
            return f"{where}it contains itself"
        if len(above) >= MOST_LEVELS:
            return f"it is nested deeper than {MOST_LEVELS} levels"
        if bad := [key for key in item if not isinstance(key, str)][:1] if isinstance(item, dict) else ():
            return f"{where}keys must be text, not {type_name(type(bad[0]))}"
        above.append(id(item))
        pending.append(_items(item, path))
    return "it is no JSON"


def _items(
    container: "dict[str, object] | list[object] | tuple[object, ...]", path: str
) -> Iterator[tuple[str, object]]:
    if isinstance(container, dict):
        return ((f"{path}.{key}".strip("."), item) for key, item in container.items())
    return ((f"{path}[{index}]", item) for index, item in enumerate(container))


def _why_no_scalar(value: object, where: str) -> str | None:
    try:
        _to_text(value)
    except TypeError:
        return f"{where}{type_name(type(value))} is not a JSON type"
    except ValueError:
        return f"{where}NaN, infinity and numbers of thousands of digits are not JSON"
    if isinstance(value, str) and not _is_unicode(value):
        return f"{where}the text has half of a surrogate pair in it"
    return None


# -- by pydantic -------------------------------------------------------------


def _of_adapter(adapter: "TypeAdapter[T]") -> Codec[T]:
    dump = adapter.serializer.to_python
    validate = adapter.validator.validate_json

    def encode(value: T) -> str:
        try:
            text = encode_json(dump(value, mode="json", by_alias=True, warnings="error"))
            # What the reader would refuse is refused here. pydantic writes an unrelated model, or a TypedDict that lacks a
            # key, without a warning.
            validate(text)
        except PydanticSerializationError as error:
            raise Misfit(_why_not_serialized(str(error))) from None
        except UnicodeDecodeError:
            raise Misfit(_why_bytes(value)) from None
        except Misfit:
            raise
        except ValidationError as error:
            raise Misfit(why_invalid(error)) from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            # Of pydantic ("Circular reference"), or of a serializer of the application's own.
            raise Misfit(_short(str(error), _MAX_WORDS)) from None
        return text

    def decode(text: str | bytes) -> T:
        try:
            return cast("T", validate(text))
        except ValidationError as error:
            raise Misfit(why_invalid(error)) from None

    return Codec(encode, decode)


@functools.lru_cache(maxsize=256)
def _codec_of_class(declared: Hashable) -> Codec[object]:  # compiling one takes a tenth of a millisecond
    return codec(cast("type[object]", declared))


def why_invalid(error: ValidationError) -> str:
    """Say what pydantic found, field by field, without the values."""
    found = error.errors(include_url=False, include_input=False)
    words = [_problem(each) for each in found[:_MAX_PROBLEMS]]
    if len(found) > _MAX_PROBLEMS:
        words.append(f"and {len(found) - _MAX_PROBLEMS} more")
    return "; ".join(words)


def _problem(found: Any) -> str:  # pydantic_core.ErrorDetails, which is a TypedDict of Any
    path = ".".join(str(part) for part in found["loc"])
    message = found["msg"]
    if found["type"] == "union_tag_invalid":  # pydantic repeats the tag, which is a value
        context = found.get("ctx", {})
        message = f"{context.get('discriminator', 'the tag')} is none of {context.get('expected_tags', '')}"
    message = message[:1].lower() + message[1:]
    return f"{_short(path, _MAX_PATH)}: {_short(message, _MAX_WORDS)}" if path else _short(message, _MAX_WORDS)


def _why_not_serialized(text: str) -> str:
    # Such as: "...UnexpectedValue(Expected `int` - ... [field_name='x', input_value='secret', input_type=str])"
    head = text.partition("input_value=")[0]
    given = text.rpartition("input_type=")[2].partition("]")[0]
    field = head.partition("field_name='")[2].partition("'")[0]
    expected = head.partition("Expected `")[2].partition("`")[0]
    if not expected or not given.isidentifier():
        # Not a sentence known to be without values: "Unable to serialize unknown type: <class 'Socket'>", or an error
        # of a serializer of the application's own.
        return "it does not fit its declared type" if "input_value" in text else _short(text, _MAX_WORDS)
    words = f"{expected} was declared, not {given}"
    return f"{field}: {words}" if field else words


def _why_bytes(value: object) -> str:
    words = (
        "bytes that are not UTF-8 need base64: use bullpen.Payload, or ser_json_bytes='base64' in the model's config"
    )
    path = _path_of_bytes(value, "", 0)
    return f"{_short(path, _MAX_PATH)}: {words}" if path else words


def _path_of_bytes(value: object, path: str, depth: int) -> str | None:
    if depth > 20:
        return None
    if isinstance(value, bytes):
        return None if _is_utf8(value) else path
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        items = enumerate(value)
    elif hasattr(value, "__dict__"):
        items = vars(value).items()
    found = (_path_of_bytes(item, f"{path}.{key}".strip("."), depth + 1) for key, item in items)
    return next((each for each in found if each is not None), None)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
