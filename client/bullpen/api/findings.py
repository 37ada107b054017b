"""What a look at YAML finds: where, which field, what stands there, what may stand there.

Values that may hold a secret are never shown (`shown`).
"""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

from pydantic import JsonValue

Severity = Literal["error", "warning"]
Path = tuple[str | int, ...]
"""The way to a field in YAML's own names: ``("spec", "jobs", 0, "timeout")``."""

_SECRET_BELOW = frozenset({"auth", "data", "env", "envFrom", "podTemplate"})
_SECRET_NAME = re.compile(r"passw|secret|token|credential", re.IGNORECASE)
_LONGEST_SHOWN = 60

MOST_PER_DOCUMENT = 100
"""A document with more findings than this is not looked at further: it is something else, or hostile."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (`error`) or worth knowing (`warning`).

    `message` alone says it; `found` and `allowed` are its parts where there are such. `line` counts from 1 and is 0
    where the object did not come from a file; so does `document`, the place among the documents of its file.
    """

    severity: Severity
    field: str
    message: str
    found: str | None = None
    allowed: str | None = None
    file: str = ""
    line: int = 0
    document: int = 0

    def at(self, *, file: str, line: int, document: int) -> Self:
        """Give the same finding with its place."""
        return replace(self, file=file, line=line, document=document)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.field, self.message) if part)


def of_value(severity: Severity, path: Path, value: JsonValue, allowed: str, *, hint: str = "") -> Finding:
    """Give the finding for a value that is not one of those allowed."""
    found = shown(value, path)
    return Finding(severity, dotted(path), f"found {found}; allowed: {allowed}{hint}", found, allowed)


def dotted(path: Path) -> str:
    """Write a path as people do: ``spec.jobs[0].timeout``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_$-]{1,64}", part):
            text += f".{part}" if text else part
        else:
            text += f"[{_short(json.dumps(part, ensure_ascii=False))}]"
    return text


def shown(value: JsonValue, path: Path = ()) -> str:
    """Give a value as it may be shown: short, and not at all where it may hold a secret."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return f"a list of {len(value)}"
        case bool() | int() | float():
            pass
        case str():
            value = _without_userinfo(value)
    names = [part for part in path if isinstance(part, str)]
    if any(name in _SECRET_BELOW or _SECRET_NAME.search(name) for name in names):
        return "a value (not shown)"
    if "endpoints" in names and isinstance(value, str) and set(value) & set("@?#"):
        return "a URL with more than host, port and database (not shown)"
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _without_userinfo(text: str) -> str:
    begin, end = text.find("//"), text.rfind("@")
    return f"{text[: begin + 2]}***{text[end:]}" if 0 <= begin < end else text


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Give ``; did you mean "…"?`` where one of the words is close, else nothing."""
    if len(word) > _LONGEST_SHOWN:
        return ""
    by_lower = {each.replace("_", "").lower(): each for each in words}
    close = difflib.get_close_matches(word.replace("_", "").lower(), by_lower, n=1, cutoff=0.7)
    return f'; did you mean "{by_lower[close[0]]}"?' if close else ""
