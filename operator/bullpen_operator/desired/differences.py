"""Whether an object in the cluster is as it is to be, so that nothing is written where nothing differs. Pure.

Server-side apply of what stands already writes nothing, but costs a request, and shows in the audit log as a write. Three
things tell that it is needed: the object is not there; the mark that we left on it (a hash of what we applied last) is
not that of what we want now, which finds fields that we no longer want; or a field of ours has another value than ours.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from bullpen_operator.desired.templates import MERGE_KEYS, identity, is_named
from bullpen_operator.kube.kinds import Object

MARK: Final = "bullpen.dev/applied"
"""Annotation with the hash of what was applied."""

_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(n|u|m|k|[MGTPE]|[KMGTPE]i)?")
_FACTORS = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal("1e3"),
} | {unit: Decimal(f"1e{3 * power}") for power, unit in enumerate("MGTPE", start=2)}
_FACTORS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)}


def marked(obj: Object) -> Object:
    """Give the object with the mark of what it says."""
    metadata = obj["metadata"]
    annotations = {**(metadata.get("annotations") or {}), MARK: fingerprint(obj)}
    return {**obj, "metadata": {**metadata, "annotations": annotations}}


def fingerprint(obj: Object) -> str:
    """Give a hash of all that stands in an object, the same for the same content in any order of keys."""
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:16]


def mark_of(obj: Object) -> str:
    """Give the mark that we left on an object; empty where there is none."""
    return str((obj["metadata"].get("annotations") or {}).get(MARK, ""))


def differs(wanted: Object, live: Object | None) -> str:
    """Say in what way the live object is not as wanted (which is `marked`): where it is, an empty text."""
    if live is None:
        return "missing"
    if mark_of(wanted) != mark_of(live):
        return "wanted otherwise"
    metadata = wanted["metadata"]
    for name in ("labels", "annotations"):
        if path := _differs(f"metadata.{name}", metadata.get(name) or {}, live["metadata"].get(name) or {}):
            return path
    ours = {name: value for name, value in wanted.items() if name not in {"metadata", "apiVersion", "kind"}}
    theirs = {name: live.get(name) for name in ours}
    return _differs("", ours, theirs)


def _differs(path: str, wanted: Any, live: Any) -> str:
    """Give the path of the first value that is wanted and not there; empty where all is."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return path if any(value not in ("", None, [], {}) for value in wanted.values()) else ""
        for name, value in wanted.items():
            if found := _differs(f"{path}.{name}".lstrip("."), value, live.get(name)):
                return found
        return ""
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return _differs_list(path, wanted, live if isinstance(live, list) else [])
    return "" if _alike(wanted, live) else path


def _differs_list(path: str, wanted: Sequence[Any], live: Sequence[Any]) -> str:
    key = MERGE_KEYS.get(path.rpartition(".")[2])
    if key is not None and all(is_named(item, key) for item in wanted):
        # Others may have items of their own between ours.
        by_key = {identity(item, key): item for item in live if is_named(item, key)}
        for item in wanted:
            if found := _differs(f"{path}[{item[key]}]", item, by_key.get(identity(item, key), {})):
                return found
        return ""
    if len(wanted) != len(live):
        return path
    for index, (ours, theirs) in enumerate(zip(wanted, live, strict=True)):
        if found := _differs(f"{path}[{index}]", ours, theirs):
            return found
    return ""


def _alike(wanted: Any, live: Any) -> bool:
    if wanted == live:
        return True
    if wanted in ("", None, False, 0) and live is None:  # the API server leaves out what is empty
        return True
    ours, theirs = quantity(wanted), quantity(live)
    return ours is not None and ours == theirs


def quantity(value: Any) -> Decimal | None:
    """Read an amount as Kubernetes writes it (``500m``, ``1Gi``, 2); None where it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        return None
    try:
        return Decimal(match[1]) * _FACTORS[match[2] or ""]
    except InvalidOperation:
        return None
