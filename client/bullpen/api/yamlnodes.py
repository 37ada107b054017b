"""YAML text as nodes with their places.

libyaml's events are put together by a loop, not by recursion, so that depth costs nothing, and counted on the way: size,
depth and number of nodes are bounded. Aliases are references to the node of their anchor; what expands them counts
again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from bullpen.api import yamlscalars

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 5 * 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 250_000


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """A scalar, a list (`items`) or a mapping (`pairs`); `text` is a scalar as it stands, `plain` one without quotes."""

    position: Position
    scalar: JsonValue = None
    text: str | None = None
    plain: bool = False
    doubt: str | None = None
    items: list["Node"] | None = None
    pairs: list[tuple["Node", "Node"]] | None = None

    @property
    def merges(self) -> bool:
        """Whether it is the merge key, ``<<``."""
        return self.plain and self.text == "<<"


class Refused(Exception):
    """The text cannot be read on from here."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


def decoded(data: bytes | str) -> str:
    """Give the text of the bytes; raises `Refused` for too many and for what is not UTF-8."""
    nowhere = Position(0, 0)
    if len(data) > MAX_BYTES:
        raise Refused(nowhere, f"is larger than {MAX_BYTES // 1024 // 1024} MiB")
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise Refused(Position(line, column), "is not UTF-8 text") from None


def roots(text: str) -> Iterator[Node]:
    """Give the root of each document; raises `Refused` where the text cannot be read on."""
    import yaml  # noqa: PLC0415 (an application that only enqueues never reads YAML)

    loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from _composed(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        problem = _syntax(error.problem or "syntax error", text, position)
        raise Refused(position, f"is not YAML: {problem}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow; `position` counts characters
        before = text[: getattr(error, "position", 0)]
        position = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise Refused(position, "is not YAML: a character that must not stand in it") from None


def _composed(events: "Iterator[yaml.Event]") -> Iterator[Node]:
    import yaml  # noqa: PLC0415 (as above)

    composer = _Composer()
    for event in events:
        position = (
            Position(event.start_mark.line + 1, event.start_mark.column + 1) if event.start_mark else Position(1, 1)
        )
        match event:
            case yaml.DocumentStartEvent():
                composer = _Composer(nodes=composer.nodes)
            case yaml.ScalarEvent():
                composer.add(_scalar(event.value, event.tag, event.style, position), event.anchor)
            case yaml.AliasEvent():
                composer.add(composer.aliased(event.anchor or "", position), None)
            case yaml.CollectionStartEvent():
                is_list = isinstance(event, yaml.SequenceStartEvent)
                composer.open(_collection(event.tag, position, is_list=is_list), event.anchor)
            case yaml.CollectionEndEvent():
                composer.close()
            case yaml.DocumentEndEvent() if composer.root is not None:
                yield composer.root
            case _:
                pass


class _Composer:
    """Puts one document together."""

    def __init__(self, nodes: int = 0) -> None:
        self.nodes = nodes
        self.root: Node | None = None
        self._open: list[tuple[Node, str | None]] = []
        self._keys: list[Node | None] = []
        self._anchors: dict[str, Node | None] = {}  # None: its node is still open

    def open(self, node: Node, anchor: str | None) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise Refused(node.position, f"is nested deeper than {MAX_DEPTH} levels")
        self._open.append((node, anchor))
        self._keys.append(None)
        if anchor:
            self._anchors[anchor] = None

    def close(self) -> None:
        node, anchor = self._open.pop()
        self._keys.pop()
        self.add(node, anchor)

    def add(self, node: Node, anchor: str | None) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise Refused(node.position, f"has more than {MAX_NODES} nodes")
        if anchor:
            self._anchors[anchor] = node
        if not self._open:
            self.root = node
            return
        parent, _ = self._open[-1]
        key = self._keys[-1]
        if parent.items is not None:
            parent.items.append(node)
        elif parent.pairs is not None and key is not None:
            parent.pairs.append((key, node))
            self._keys[-1] = None
        else:
            self._keys[-1] = node

    def aliased(self, name: str, position: Position) -> Node:
        if name not in self._anchors:
            raise Refused(position, f"alias *{name} refers to no anchor before it")
        node = self._anchors[name]
        if node is None:
            raise Refused(position, f"alias *{name} stands within what it refers to")
        return node


def _syntax(problem: str, text: str, position: Position) -> str:
    lines = text.splitlines()
    line = lines[position.line - 1] if position.line <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem:
        return "a tab; indent with spaces"
    if "{{" in line:
        return f"{problem} (a template? render it first)"
    return problem


def _collection(tag: str | None, position: Position, *, is_list: bool) -> Node:
    usual = yamlscalars.TAG + ("seq" if is_list else "map")
    doubt = None if tag in {None, "!", usual} else f"the tag {tag} is not supported"
    return Node(position, doubt=doubt, items=[] if is_list else None, pairs=None if is_list else [])


def _scalar(text: str, tag: str | None, style: str | None, position: Position) -> Node:
    if tag in {None, "!", yamlscalars.TAG + "str"} and (style or tag):
        return Node(position, text, text)
    scalar = yamlscalars.plain(text) if tag is None else yamlscalars.tagged(text, tag)
    return Node(position, scalar.value, text, tag is None, scalar.doubt)
