"""YAML text as values with positions, read so that nobody is surprised and nothing explodes.

Scalars are read as YAML 1.2's core schema and Kubernetes' reader (YAML 1.1 in part) both do. Where the two differ
(``no``, ``010``, ``1_000``) the value is a finding that asks for quotes: a file must not mean one thing here and another
in a cluster. ``12:30`` is text in both. Anchors, aliases and merge keys work; what they expand to is bounded, as are
the size, the depth and the number of nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from bullpen.api import yamlnodes
from bullpen.api.findings import MOST_PER_DOCUMENT, Finding, Path, dotted
from bullpen.api.yamlnodes import MAX_DEPTH, MAX_NODES, Node, Position, Refused


@dataclass(frozen=True, slots=True)
class TextDocument:
    """One document of a file: its value, where each part of it stands, and what is wrong with how it is written."""

    index: int
    start: Position
    value: JsonValue
    positions: Mapping[Path, Position]
    findings: tuple[Finding, ...]

    def position_of(self, path: Path) -> Position:
        """Give where the field stands, or else the nearest one that it is part of."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, self.start)


def read(data: bytes | str, *, file: str) -> tuple[list[TextDocument], list[Finding]]:
    """Read all documents of a text.

    A text that breaks off (syntax, size, depth) gives the documents before the place, and a finding.
    """
    documents: list[TextDocument] = []
    try:
        for root in yamlnodes.roots(yamlnodes.decoded(data)):
            index = len(documents) + 1
            reader = _Expansion()
            value = reader.value_of(root, (), 0)
            findings = tuple(
                each.at(file=file, line=position.line, document=index) for position, each in reader.findings
            )
            documents.append(TextDocument(index, root.position, value, reader.positions, findings))
    except Refused as refused:
        place = f"column {refused.position.column}: " if refused.position.line else ""
        message = f"{place}{refused.message}"
        finding = Finding("error", "", message, file=file, line=refused.position.line, document=len(documents) + 1)
        return documents, [finding]
    return documents, []


@dataclass(slots=True)
class _Expansion:
    """Turns one document's nodes into plain values; aliases count as often as they are used."""

    positions: dict[Path, Position] = field(default_factory=dict)
    findings: list[tuple[Position, Finding]] = field(default_factory=list)
    nodes: int = 0

    def value_of(self, node: Node, path: Path, depth: int) -> JsonValue:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise Refused(node.position, f"expands to more than {MAX_NODES} nodes (aliases?)")
        if depth > MAX_DEPTH:
            raise Refused(node.position, f"is nested deeper than {MAX_DEPTH} levels (aliases?)")
        self.positions.setdefault(path, node.position)
        if node.doubt:
            self.report(node.position, path, node.doubt)
        if node.items is not None:
            return [self.value_of(item, (*path, index), depth + 1) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            return self.mapping_of(node, path, depth)
        return node.scalar

    def mapping_of(self, node: Node, path: Path, depth: int) -> JsonValue:
        pairs = node.pairs or []
        inherited: dict[str, JsonValue] = {}
        for source in reversed([each for key, value in pairs if key.merges for each in self.merged_from(value, path)]):
            more = self.value_of(source, path, depth + 1)
            inherited |= more if isinstance(more, dict) else {}
        own: dict[str, JsonValue] = {}
        for key, value in pairs:
            name = None if key.merges else self.key_of(key, path)
            if name is None:
                continue
            if name in own:
                first = self.positions[*path, name].line
                self.report(key.position, (*path, name), f"stands twice in this mapping (first in line {first})")
                continue
            self.positions[*path, name] = key.position
            own[name] = self.value_of(value, (*path, name), depth + 1)
        return inherited | own

    def merged_from(self, value: Node, path: Path) -> list[Node]:
        sources = value.items if value.items is not None else [value]
        if any(source.pairs is None for source in sources):
            self.report(value.position, path, "<< takes a mapping or a list of mappings")
            return []
        return list(sources)

    def key_of(self, key: Node, path: Path) -> str | None:
        if key.text is None:
            self.report(key.position, path, "a key is a mapping or a list; keys are text")
            return None
        if key.plain and key.scalar is None:
            self.report(key.position, path, "a key is empty")
            return None
        if key.doubt:
            self.report(key.position, (*path, key.text), f"as a key, {key.doubt}")
        return key.text

    def report(self, position: Position, path: Path, message: str) -> None:
        if len(self.findings) < MOST_PER_DOCUMENT:
            self.findings.append((position, Finding("error", dotted(path), message)))
