"""What the operator knows of the cluster: objects as the informers saw them last, and who wants to hear of changes.

Belongs to one event loop. Objects are read-only: whoever wants to change one writes it to the API server. What we write
ourselves is put here at once (`put` with the API server's answer), so that a decision is never taken on what was before
our own write; an informer's older news of it is then passed over.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key, Kind, Object

T = TypeVar("T")

REPLICA_MANAGERS: Final = "replicaManagers"
"""Where an object in the cache has, in place of `managedFields`, the names of the managers of `spec.replicas`."""

_SHORT: Final = 64
_DEEPEST: Final = 100
"""Deeper than this nothing is looked at."""
_GONE: Final = 10_000
"""Of so many objects it is remembered that they went, and when."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object that came, became another, or went. `old` is what the cache held before."""

    what: Literal["put", "removed"]
    key: Key
    new: Object | None
    old: Object | None


Subscriber = Callable[[Change], None]
"""Told each change, at once, in the order of events. Must not block or raise, nor change the cache."""


class Cache:
    """The objects by kind, namespace and name; pods by JobQueue, and RedisConnections by namespace, too."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._pods: dict[tuple[str, str], dict[str, Object]] = {}
        self._connections: dict[str, dict[str, Object]] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have it told of each change from now on."""
        self._subscribers.append(subscriber)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give one object, if it is known."""
        return self._objects.get(kind, {}).get((namespace, name))

    def find(self, key: Key) -> Object | None:
        """Give the object of this key, if it is known."""
        return self.get(*key)

    def all(self, kind: Kind) -> Iterable[Object]:
        """Give all objects of a kind: a copy of the list, so that the cache may change meanwhile."""
        return tuple(self._objects.get(kind, {}).values())

    def count(self, kind: Kind) -> int:
        """Give how many objects of a kind are known."""
        return len(self._objects.get(kind, {}))

    def pods_of(self, namespace: str, jobqueue: str) -> Iterable[Object]:
        """Give the pods that carry the JobQueue's label."""
        return tuple(self._pods.get((namespace, jobqueue), {}).values())

    def connections_of(self, namespace: str) -> Iterable[Object]:
        """Give the RedisConnections of a namespace."""
        return tuple(self._connections.get(namespace, {}).values())

    # -- writing: the informers', and whoever has the API server's answer to a write of its own -------------------

    def put(self, kind: Kind, obj: Object, as_of: int = -1) -> bool:
        """Take an object as the API server gave it, unless newer is known of it: another, or that it went.

        Lists, and answers to writes of ours, may come after the news that the object has gone. Gives whether it was taken.
        `as_of`: it is the latest there is at that version, so that what is known of a version up to it and is newer than the
        object comes from a history that is no more (a backup of etcd was restored).
        """
        key = kinds.key_of(kind, obj)
        place = (key.namespace, key.name)
        known = self._objects.setdefault(kind, {})
        old = known.get(place)
        if old is not None and not _newer(obj, old) and (_same(obj, old) or version_number(old) > as_of):
            return False
        if version_number(obj) <= (went := self._gone.get(obj["metadata"].get("uid", ""), -1)) and went > as_of:
            return False
        new = _slim(obj)
        known[place] = new
        self._index(key, new, old)
        self._tell(Change("put", key, new, old))
        return True

    def remove(self, key: Key, uid: str = "", version: str = "") -> bool:
        """Forget an object; where a uid is given, only the one that has it. Gives whether it was known.

        `version` is the resource version at which it went.
        """
        known = self._objects.get(key.kind, {})
        old = known.get((key.namespace, key.name))
        is_it = old is not None and (not uid or old["metadata"].get("uid") == uid)
        went = max(_number(version), version_number(old) if old is not None and is_it else 0)
        if uid := uid or (old["metadata"].get("uid", "") if old is not None else ""):
            self._gone[uid] = went
            self._gone.move_to_end(uid)
            while len(self._gone) > _GONE:
                self._gone.popitem(last=False)
        if old is None or not is_it:
            return False
        del known[key.namespace, key.name]
        self._index(key, None, old)
        self._tell(Change("removed", key, None, old))
        return True

    def replace_all(
        self, kind: Kind, objects: Iterable[Object], version: str, matches: Callable[[Object], bool] = lambda _: True
    ) -> int:
        """Take a list of all objects of a kind that match, of the resource version `version`. Gives how many changed.

        What is known and not in the list is gone, unless it is newer than the list.
        """
        changed = 0
        listed = set()
        for obj in objects:
            key = kinds.key_of(kind, obj)
            listed.add((key.namespace, key.name))
            changed += self.put(kind, obj, _number(version))
        for place, obj in list(self._objects.get(kind, {}).items()):
            if place not in listed and matches(obj) and version_number(obj) <= _number(version):
                changed += self.remove(Key(kind, *place), version=version)
        return changed

    def distrust(self, kind: Kind, matches: Callable[[Object], bool] = lambda _: True) -> None:
        """Take whatever comes next of these objects for newer than what is known: the versions of the API server went back."""
        self._gone.clear()
        for obj in self._objects.get(kind, {}).values():
            if matches(obj):
                obj["metadata"]["resourceVersion"] = "0"

    def _index(self, key: Key, new: Object | None, old: Object | None) -> None:
        if key.kind == kinds.REDIS_CONNECTION:
            _move(self._connections, key.namespace, key.namespace, key.name, new)
        elif key.kind == kinds.POD:
            _move(self._pods, _jobqueue_of(key, old), _jobqueue_of(key, new), key.name, new)

    def _tell(self, change: Change) -> None:
        for subscriber in self._subscribers:
            subscriber(change)


def replica_managers(obj: Object) -> frozenset[str]:
    """Give the field managers that own `spec.replicas`, of an object of the cache or of the API server."""
    metadata = obj.get("metadata", {})
    if REPLICA_MANAGERS in metadata:
        return frozenset(metadata[REPLICA_MANAGERS])
    return frozenset(
        str(entry.get("manager", ""))
        for entry in metadata.get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    )


def version_number(obj: Object) -> int:
    """Give an object's resource version as a number; 0 where it has none that is one."""
    return _number(obj.get("metadata", {}).get("resourceVersion", ""))


def _jobqueue_of(key: Key, pod: Object | None) -> tuple[str, str] | None:
    queue = None if pod is None else kinds.labels_of(pod).get(kinds.LABEL_JOBQUEUE)
    return (key.namespace, queue) if queue else None


def _move(index: dict[T, dict[str, Object]], before: T | None, now: T | None, name: str, new: Object | None) -> None:
    """Take an object from its place in an index to where it belongs now."""
    if before is not None and (there := index.get(before)) is not None:
        there.pop(name, None)
        if not there:
            del index[before]
    if now is not None and new is not None:
        index.setdefault(now, {})[name] = new


def _slim(obj: Object) -> Object:
    """Leave out what takes half of an object's memory and nobody here reads, and share what thousands of objects repeat."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    if managers := replica_managers(obj):
        metadata[REPLICA_MANAGERS] = sorted(managers)
    slim: Object = _shared({**obj, "metadata": metadata})
    return slim


def _shared(value: Any, depth: int = 0) -> Any:
    """Give the same value with one copy of each short text: a decoder shares them within one document at most."""
    if depth > _DEEPEST:
        return value
    if isinstance(value, dict):
        return {sys.intern(name): _shared(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_shared(each, depth + 1) for each in value]
    if isinstance(value, str) and len(value) <= _SHORT:
        return sys.intern(value)
    return value


def _newer(obj: Object, old: Object) -> bool:
    if obj["metadata"].get("uid") != old["metadata"].get("uid"):
        return version_number(obj) >= version_number(old)
    return version_number(obj) > version_number(old)


def _same(obj: Object, old: Object) -> bool:
    return bool(obj["metadata"].get("uid") == old["metadata"].get("uid")) and version_number(obj) == version_number(old)


def _number(version: str) -> int:
    # An opaque text by the letter; a number in every API server there is, and since 1.35 by promise.
    return int(version) if version.isdecimal() else 0
