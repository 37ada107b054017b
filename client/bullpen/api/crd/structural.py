"""pydantic's JSON Schema as what a CRD may hold: a structural schema.

The API server takes a part of OpenAPI 3.0 only: no references, no `null`, no `const`, no defaults in a list's entries (they
would be filled in behind the back of whoever owns the list), every node with a type. All that is known here is converted;
anything else raises `CrdError`, so that a new construct in a model is looked at before it reaches a cluster.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from bullpen import durations
from bullpen.api import explain
from bullpen.errors import BullpenError

Path = tuple[str | int, ...]

_KEPT = frozenset({
    "type", "format", "description", "enum", "default", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems",
    "maxItems", "minProperties", "maxProperties", "required", "x-kubernetes-int-or-string", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
})  # fmt: skip
_CONVERTED = frozenset({"properties", "items", "additionalProperties", "patternProperties", "propertyNames", "const"})
_DROPPED = frozenset({"title"})
_TYPES = frozenset({"object", "array", "string", "integer", "boolean"})
_FORMATS = frozenset({"date-time"})
_ORDER = (
    "description", "type", "format", "enum", "default", "pattern", "minLength", "maxLength", "minimum", "maximum", "required",
    "properties", "minProperties", "maxProperties", "additionalProperties", "items", "minItems", "maxItems",
)  # fmt: skip


class CrdError(BullpenError):
    """A model holds what no CRD can say."""


def schema_of(kind: type[BaseModel], field: str) -> JsonSchemaValue:
    """Give the structural schema of a kind's `spec` or `status`.

    Descriptions say, beside the field's own text, what it takes and what its default is: `kubectl explain` shows nothing
    else. Raises `CrdError` for what cannot be said.
    """
    whole = kind.model_json_schema(schema_generator=_Generator)
    definitions = whole.get("$defs", {})
    is_required = field in whole.get("required", ())
    return _Converter(kind, definitions).field(whole["properties"][field], (field,), (), is_required=is_required)


class _Generator(GenerateJsonSchema):
    """Writes defaults as YAML has them."""

    def encode_default(self, dft: object) -> JsonValue:
        """Give a default as JSON: a length of time as text."""
        if isinstance(dft, timedelta):
            return durations.format_ms(durations.parse_ms(dft))
        encoded: JsonValue = super().encode_default(dft)
        return encoded


@dataclass(frozen=True, slots=True)
class _Converter:
    kind: type[BaseModel]
    definitions: Mapping[str, JsonSchemaValue]

    def field(
        self, given: JsonSchemaValue, path: Path, above: tuple[str, ...], *, is_required: bool
    ) -> JsonSchemaValue:
        """Give a field; an object that is always there is filled in with its fields' defaults."""
        made = self.convert(given, path, above)
        is_always_there = not is_required and "anyOf" not in given and not _is_in_a_list(path)
        if made.get("type") == "object" and is_always_there:
            # in full, and not as `{}` which the API server would fill in: rules are checked on it as it stands here
            defaults = {name: each["default"] for name, each in made.get("properties", {}).items() if "default" in each}
            if defaults:
                made = _ordered(made | {"default": defaults})
        return made

    def convert(self, given: JsonSchemaValue, path: Path, above: tuple[str, ...] = ()) -> JsonSchemaValue:
        """Give one node and all below it. Each node is seen once, so what a conversion makes is not converted again."""
        node, above = self._resolved(given, path, above)
        unknown = node.keys() - _KEPT - _CONVERTED - _DROPPED
        if unknown:
            raise _error(path, f"has {', '.join(sorted(unknown))}, which no CRD can hold")
        made = {key: value for key, value in node.items() if key in _KEPT}
        if "const" in node:
            made["enum"] = [node["const"]]
        match made.get("type"):
            case "object":
                self._object(made, node, path, above)
            case "array":
                self._array(made, node, path, above)
            case None if not made.get("x-kubernetes-int-or-string"):
                raise _error(path, "has no type")
            case None | "string" | "integer" | "boolean":
                pass
            case other:
                raise _error(path, f"has the type {other}; a CRD of Bullpen's has {', '.join(sorted(_TYPES))}")
        if made.get("format", "date-time") not in _FORMATS:
            raise _error(path, f"has the format {made['format']}")
        self._describe(made, path)
        return _ordered(made)

    def _resolved(
        self, given: JsonSchemaValue, path: Path, above: tuple[str, ...]
    ) -> tuple[JsonSchemaValue, tuple[str, ...]]:
        """Take away `null` and references; what stands beside a reference wins over what it refers to."""
        node = dict(given)
        is_optional = False
        while "anyOf" in node or "$ref" in node:
            if "anyOf" in node:
                choices = [each for each in node.pop("anyOf") if each != {"type": "null"}]
                if len(choices) != 1:
                    raise _error(path, "is one of several types")
                node = {**choices[0], **node}
                is_optional = True
            if "$ref" in node:
                name = node.pop("$ref").removeprefix("#/$defs/")
                if name in above:
                    raise _error(path, f"contains itself ({name})")
                above = (*above, name)
                node = {**self.definitions[name], **node}
        if node.get("default", 0) in (None, [], {}):
            del node["default"]  # absent and empty mean the same, and null is nothing to an API server
        elif "default" in node and _is_in_a_list(path):
            raise _error(path, "has a default inside of a list's entries")
        if is_optional and node.get("default") is not None:
            raise _error(path, "may be absent and has a default")
        return node, above

    def _object(self, made: JsonSchemaValue, node: JsonSchemaValue, path: Path, above: tuple[str, ...]) -> None:
        more = node.get("additionalProperties")
        if "properties" in node:
            if more not in (None, True, False):
                raise _error(path, "has both named fields and a type for all others")
            required = node.get("required", ())
            made["properties"] = {
                name: self.field(child, (*path, name), above, is_required=name in required)
                for name, child in node["properties"].items()
            }
            if more is True:
                made["x-kubernetes-preserve-unknown-fields"] = True
        elif "patternProperties" in node:
            [(pattern, child)] = node["patternProperties"].items()
            made["additionalProperties"] = self.convert(child, (*path, "*"), above)
            made["x-kubernetes-validations"] = [_keys(pattern, node.get("propertyNames", {}))]
        elif isinstance(more, dict):
            made["additionalProperties"] = self.convert(more, (*path, "*"), above)
        elif not made.get("x-kubernetes-preserve-unknown-fields"):
            raise _error(path, "is a mapping of anything; a `Passthrough` says so on purpose")

    def _array(self, made: JsonSchemaValue, node: JsonSchemaValue, path: Path, above: tuple[str, ...]) -> None:
        if not isinstance(node.get("items"), dict):
            raise _error(path, "is a list of anything")
        made["items"] = self.convert(node["items"], (*path, 0), above)
        made.setdefault("x-kubernetes-list-type", "atomic")

    def _describe(self, made: JsonSchemaValue, path: Path) -> None:
        parts = [str(made.get("description", ""))]
        is_plain = made.get("type") in {"integer", "string", "array", None} and "enum" not in made
        if (
            is_plain
            and path[-1] not in {0, "*"}
            and path[0] == "spec"
            and "object" not in _types(made.get("items", {}))
        ):
            takes = explain.allowed_at(self.kind, path)
            parts.append(f"Takes {takes}.")
        if "default" in made:
            parts.append(f"Default: {_shown(made['default'])}.")
        if text := " ".join(filter(None, parts)):
            made["description"] = text


def _keys(pattern: str, names: JsonSchemaValue) -> JsonSchemaValue:
    """Give the CEL rule for the keys of a mapping, of which a structural schema knows nothing."""
    low, high = names.get("minLength", 0), names.get("maxLength")
    rule = f"self.all(key, size(key) >= {low} && size(key) <= {high} && key.matches({_quoted(pattern)}))"
    return {"rule": rule, "message": f"a key has {low} to {high} characters and matches {pattern}"}


def _quoted(text: str) -> str:
    if "'" in text or "\\" in text:
        msg = f"this pattern of a key cannot be written in CEL as it is: {text}"
        raise CrdError(msg)
    return f"'{text}'"


def _shown(default: JsonValue) -> str:
    """Write a default as one writes it in YAML: text in quotes only where it would be read as something else."""
    return default if isinstance(default, str) and default and not default.isdecimal() else json.dumps(default)


def _types(node: JsonSchemaValue) -> set[str]:
    return {str(node.get("type"))}


def _is_in_a_list(path: Path) -> bool:
    return 0 in path


def _ordered(node: JsonSchemaValue) -> JsonSchemaValue:
    rest = sorted(node.keys() - set(_ORDER))
    return {key: node[key] for key in (*_ORDER, *rest) if key in node}


def _error(path: Path, what: str) -> CrdError:
    field = ".".join(str(part) for part in path).replace(".0", "[]")
    return CrdError(f"no CRD can be made: {field} {what}")
