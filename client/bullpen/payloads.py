"""What jobs carry: a base for payload models, and the types of JSON."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
    """Anything that JSON can say, as an argument. What comes back untyped is pydantic's `JsonValue`."""
    JsonObject = Mapping[str, Json]
    """A JSON object, as an argument."""
else:  # at run time the types that pydantic knows: handlers may be annotated with them
    Json = JsonValue
    JsonObject = Mapping[str, JsonValue]


class Payload(BaseModel):
    """A base for payloads and results, set for the wire; any BaseModel, dataclass or TypedDict does as well.

    - Fields have camelCase names in Redis (``user_id`` is ``userId``); both spellings are read.
    - Instances are frozen.
    - bytes travel as URL-safe base64.
    - NaN and infinity are refused.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        allow_inf_nan=False,
    )


def _plain_int(value: object) -> object:
    return int(value) if type(value) is str and value.removeprefix("-").isdecimal() and len(value) <= 4_000 else value


BigInt = Annotated[
    int,
    BeforeValidator(_plain_int),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^-?[0-9]+$"}),
]
"""An int that travels as a string, because Node rounds numbers beyond 2^53. A JSON number is read too."""
