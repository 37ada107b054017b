"""The names of a queue's keys in Redis: BullMQ's own, and ours beside them.

The table of all keys, with their types and who writes them, is docs/reference/redis-keys.md.
"""

import base64
from dataclasses import dataclass, field
from typing import Literal, get_args

from bullpen.errors import ConfigurationError

Ours = Literal["policy", "owner", "owned", "workers", "retiring", "cancelled", "scaling"]
"""What may stand behind ``bullpen:`` in a key: never a name of BullMQ's own, its tools would take it for theirs."""

OURS: tuple[Ours, ...] = get_args(Ours)


@dataclass(frozen=True)
class QueueKeys:
    """Every key of one queue. `base` is ``<prefix>:<queue>:``, the others are whole keys.

    Raises `ConfigurationError` for a queue name that BullMQ refuses (empty, or with a colon) and for an empty prefix.
    """

    prefix: str
    queue: str

    base: str = field(init=False, repr=False, compare=False)
    wait: str = field(init=False, repr=False, compare=False)
    paused: str = field(init=False, repr=False, compare=False)
    active: str = field(init=False, repr=False, compare=False)
    prioritized: str = field(init=False, repr=False, compare=False)
    delayed: str = field(init=False, repr=False, compare=False)
    waiting_children: str = field(init=False, repr=False, compare=False)
    completed: str = field(init=False, repr=False, compare=False)
    failed: str = field(init=False, repr=False, compare=False)
    marker: str = field(init=False, repr=False, compare=False)
    meta: str = field(init=False, repr=False, compare=False)
    id: str = field(init=False, repr=False, compare=False)
    priority_counter: str = field(init=False, repr=False, compare=False)
    limiter: str = field(init=False, repr=False, compare=False)
    stalled: str = field(init=False, repr=False, compare=False)
    stalled_check: str = field(init=False, repr=False, compare=False)
    events: str = field(init=False, repr=False, compare=False)
    repeat: str = field(init=False, repr=False, compare=False)
    metrics_completed: str = field(init=False, repr=False, compare=False)
    metrics_failed: str = field(init=False, repr=False, compare=False)
    policy: str = field(init=False, repr=False, compare=False)
    owner: str = field(init=False, repr=False, compare=False)
    owned: str = field(init=False, repr=False, compare=False)
    workers: str = field(init=False, repr=False, compare=False)
    retiring: str = field(init=False, repr=False, compare=False)
    cancelled: str = field(init=False, repr=False, compare=False)
    scaling: str = field(init=False, repr=False, compare=False)
    nudge: str = field(init=False, repr=False, compare=False)
    """The pub/sub channel by which workers are told to read `policy`, `retiring` and `cancelled` anew. Not a key."""

    def __post_init__(self) -> None:
        if not self.queue or ":" in self.queue:
            msg = f"{self.queue!r} is no queue name: it is text without a colon, as BullMQ demands"
            raise ConfigurationError(msg)
        if not self.prefix:
            msg = "the prefix of the keys is empty; BullMQ's own default is 'bull'"
            raise ConfigurationError(msg)
        base = f"{self.prefix}:{self.queue}:"
        object.__setattr__(self, "base", base)
        for name, suffix in _BULLMQ.items():
            object.__setattr__(self, name, base + suffix)
        for what in (*OURS, "nudge"):
            object.__setattr__(self, what, f"{base}bullpen:{what}")

    def job(self, job_id: str) -> str:
        """Give the key of a job's hash."""
        return self.base + job_id

    def lock(self, job_id: str) -> str:
        """Give the key of a running job's lock: a string with its worker's token."""
        return f"{self.base}{job_id}:lock"

    def logs(self, job_id: str) -> str:
        """Give the key of a job's log lines: a list."""
        return f"{self.base}{job_id}:logs"

    def deduplication(self, deduplication_id: str) -> str:
        """Give the key that holds the id of the job which counts for this deduplication id."""
        return f"{self.base}de:{deduplication_id}"

    def scheduler(self, scheduler_id: str) -> str:
        """Give the key of a job scheduler's hash."""
        return f"{self.repeat}:{scheduler_id}"

    def client_name(self, suffix: str = "") -> str:
        """Give the name that a connection takes (``CLIENT SETNAME``), as Node writes it: the queue in base64.

        BullMQ's tools find workers by it: their suffix is ``:w:<worker name>``, that of an event reader ``:qe``.
        """
        return f"{self.prefix}:{base64.b64encode(self.queue.encode()).decode()}{suffix}"


_BULLMQ = {
    name: name
    for name in (
        "wait",
        "paused",
        "active",
        "prioritized",
        "delayed",
        "completed",
        "failed",
        "marker",
        "meta",
        "id",
        "limiter",
        "stalled",
        "events",
        "repeat",
    )
} | {
    "waiting_children": "waiting-children",
    "priority_counter": "pc",
    "stalled_check": "stalled-check",
    "metrics_completed": "metrics:completed",
    "metrics_failed": "metrics:failed",
}
