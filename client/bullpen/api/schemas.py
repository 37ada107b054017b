"""Whether a `payloadSchema` can be relied on: JSON Schema 2020-12, complete in itself, and it ends."""

import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic import JsonValue

from bullpen.api.findings import Path

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MOST_PARTS = 10_000
"""Each payload is held against the schema: what is larger than this was not written by hand."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLES = (
    "items", "contains", "additionalProperties", "propertyNames", "if", "then", "else", "not",
    "unevaluatedItems", "unevaluatedProperties", "contentSchema",
)  # fmt: skip
_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "if", "then", "else", "not", "dependentSchemas"})
"""Keywords whose schemas look at the same value again: with `$ref`, they can go round in a circle."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a schema, and where in it."""

    path: Path
    message: str


def problems(schema: Mapping[str, JsonValue]) -> Iterator[Problem]:
    """Give what is wrong with the schema; nothing when it can be relied on."""
    dialect = schema.get("$schema", DIALECT)
    if dialect not in (DIALECT, DIALECT + "#"):
        yield Problem(("$schema",), f"must be {DIALECT}, or be left out")
        return
    if _parts(schema) > MOST_PARTS:
        yield Problem((), f"has more than {MOST_PARTS} parts")
        return
    try:
        broken = _against_the_dialect(schema)
        references = _References(schema)
    except RecursionError:
        yield Problem((), "is nested too deeply")
        return
    if broken is not None:
        yield broken
        return
    yield from references.remote
    yield from references.dangling
    if not references.remote and not references.dangling:
        yield from references.circles()


def _parts(schema: Mapping[str, JsonValue]) -> int:
    count = 0
    pending: list[Iterable[JsonValue]] = [schema.values()]
    while pending and count <= MOST_PARTS:
        for value in pending.pop():
            count += 1
            if isinstance(value, dict):
                pending.append(value.values())
            elif isinstance(value, list):
                pending.append(value)
    return count


def _against_the_dialect(schema: Mapping[str, JsonValue]) -> Problem | None:
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 (heavy, and only checks need it)

    try:
        Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as error:
        return Problem(tuple(error.absolute_path), f"is not JSON Schema 2020-12: {error.message[:200]}")
    return None


@dataclass(slots=True)
class _References:
    """All references of a schema, and all its subschemas by their place."""

    root: Mapping[str, JsonValue]
    remote: list[Problem] = field(default_factory=list)
    dangling: list[Problem] = field(default_factory=list)
    _edges: dict[Path, list[Path]] = field(default_factory=dict)
    _anchors: dict[str, Path] = field(default_factory=dict)
    _places: dict[Path, Mapping[str, JsonValue]] = field(default_factory=dict)
    _pointers: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path, schema in _subschemas(dict(self.root), ()):
            self._places[path] = schema
            self._pointers[_pointer(path)] = path
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(schema.get(keyword), str):
                    self._anchors[cast("str", schema[keyword])] = path
        for path, schema in self._places.items():
            self._edges[path] = [(*path, *below) for keyword in _IN_PLACE for below, _ in _below(schema, keyword)]
            if path and "$id" in schema:
                self.remote.append(
                    Problem((*path, "$id"), "a schema within the schema has no `$id`: give it a place in $defs")
                )
            for keyword in ("$ref", "$dynamicRef"):
                reference = schema.get(keyword)
                if isinstance(reference, str):
                    self._refer(path, keyword, reference)

    def _refer(self, path: Path, keyword: str, reference: str) -> None:
        if not reference.startswith("#"):
            self.remote.append(
                Problem((*path, keyword), 'refers outside of the schema; allowed: "#/$defs/…" and "#anchor"')
            )
            return
        target = self._target(reference[1:])
        if target is None:
            self.dangling.append(Problem((*path, keyword), "refers to no schema of this one"))
        else:
            self._edges[path].append(target)

    def _target(self, fragment: str) -> Path | None:
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment)
        return self._pointers.get(urllib.parse.unquote(fragment))

    def circles(self) -> Iterator[Problem]:
        """Give each schema that leads back to itself while it looks at one and the same value."""
        done: set[Path] = set()
        for start in self._edges:
            way: dict[Path, None] = {}
            stack = [(start, iter(self._edges[start]))] if start not in done else []
            way |= {start: None} if stack else {}
            while stack:
                target = next(stack[-1][1], None)
                if target is None:
                    stack.pop()
                    done.add(way.popitem()[0])
                elif target in way:
                    yield Problem(target, "refers to itself without end")
                    return
                elif target not in done:
                    way[target] = None
                    stack.append((target, iter(self._edges.get(target, []))))


def _pointer(path: Path) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _subschemas(schema: JsonValue, path: Path) -> Iterator[tuple[Path, Mapping[str, JsonValue]]]:
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword in (*_MAPS, *_LISTS, *_SINGLES):
        for below, child in _below(schema, keyword):
            yield from _subschemas(child, (*path, *below))


def _below(schema: Mapping[str, JsonValue], keyword: str) -> Iterator[tuple[Path, JsonValue]]:
    value = schema.get(keyword)
    if keyword in _MAPS and isinstance(value, dict):
        yield from (((keyword, name), child) for name, child in value.items())
    elif keyword in _LISTS and isinstance(value, list):
        yield from (((keyword, index), child) for index, child in enumerate(value))
    elif keyword in _SINGLES and isinstance(value, dict):
        yield (keyword,), value
