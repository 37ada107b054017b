"""Whose a queue in Redis is: taken back from the dead, taken on request, let go with a note.

The core's `declare` takes a queue that is free, released, or its own. What this adds: an owner of our own cluster that is
no more (its JobQueue was deleted while no operator ran) frees its queue; and a JobQueue may be annotated with the very
owner that it takes the queue from (`bullpen adopt`), which counts for that owner, once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bullpen.queue.declaration import Owner
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, QueueOperation, Reply
from bullpen_operator.kube.kinds import Object

ADOPT_ANNOTATION: Final = "bullpen.dev/adopt"
"""On a JobQueue: the owner (cluster/namespace/name) that its queue is taken from."""

_PARTS: Final = 3


@dataclass(frozen=True)
class WriteTombstone(QueueOperation[None]):
    """Note beside the owner that its JobQueue was deleted and what its policy asks for was not done, or not all of it."""

    keys: QueueKeys
    policy: str
    why: str
    at_ms: int

    def commands(self) -> Sequence[Call]:
        """One command."""
        note = json.dumps({"v": 1, "policy": self.policy, "why": self.why, "at": self.at_ms}, separators=(",", ":"))
        return (Command(("HSET", self.keys.owner, "tombstone", note)),)

    def read(self, replies: Sequence[Reply]) -> None:
        """Nothing."""


Standing = Literal["gone", "lives", "unknown"]
"""Of a JobQueue that is said to own a queue: no more (or its queue is another now), or there, or not ours to know."""


def owner_here(found: str, owner: Owner) -> tuple[str, str] | None:
    """Give namespace and name of the owner that was found, where it is a JobQueue of this one's cluster."""
    parts = found.rsplit("/", _PARTS - 1)  # what tells a cluster from others may have slashes in it
    return (parts[1], parts[2]) if len(parts) == _PARTS and parts[0] == owner.cluster else None


def is_asked_to_take(jobqueue: Object, found: str) -> bool:
    """Whether the JobQueue is annotated to take its queue from this very owner."""
    return bool(found) and (jobqueue["metadata"].get("annotations") or {}).get(ADOPT_ANNOTATION) == found


def may_take(jobqueue: Object, found: str, owner: Owner, standing: Standing) -> bool:
    """Say whether a queue that `found` owns may be taken for this JobQueue; `standing` is that of the one found.

    From a JobQueue of another namespace that lives, none is taken: who may annotate in this one need not have any right in
    that one.
    """
    if not found:
        return True
    here = owner_here(found, owner)
    if here is not None and standing == "gone":
        return True
    if here is not None and here[0] != owner.namespace and standing == "lives":
        return False
    return is_asked_to_take(jobqueue, found)
