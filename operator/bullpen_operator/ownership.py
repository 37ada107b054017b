"""Whose a queue in Redis is: read, taken back from the dead, let go with a note.

The core's `declare` takes a queue that is free, released, or its own. What this adds: an owner of our own cluster that is
no more (its JobQueue was deleted while no operator ran) frees its queue; and a JobQueue may be annotated with the very
owner that it takes the queue from (`bullpen adopt`), which counts for that owner and no later one.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bullpen.queue.declaration import Owner
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, QueueOperation, Reply, text
from bullpen_operator.kube.kinds import Object

ADOPT_ANNOTATION: Final = "bullpen.dev/adopt"
"""On a JobQueue: the owner (cluster/namespace/name) that its queue is taken from."""

_PARTS: Final = 3


@dataclass(frozen=True)
class ReadOwner(QueueOperation[str]):
    """Whose the queue is: cluster/namespace/name; empty where it is nobody's."""

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """One command."""
        return (Command(("HGET", self.keys.owner, "id")),)

    def read(self, replies: Sequence[Reply]) -> str:
        """Read the id."""
        return text(replies[0])


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


def may_take(jobqueue: Object, found: str, owner: Owner, is_gone: Callable[[str, str], bool]) -> bool:
    """Say whether a queue that `found` owns may be taken for this JobQueue.

    `is_gone(namespace, name)` says for sure that a JobQueue of this cluster is no more, or has its queue elsewhere now.
    """
    if not found:
        return True
    if (jobqueue["metadata"].get("annotations") or {}).get(ADOPT_ANNOTATION) == found:
        return True
    parts = found.split("/")
    if len(parts) != _PARTS or parts[0] != owner.cluster:
        return False
    return is_gone(parts[1], parts[2])
