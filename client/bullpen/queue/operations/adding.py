"""Adding jobs: what a job to add is, and the operation that adds one or many.

The wire format is that of BullMQ's add scripts; what is sent is packed by hand where it is the same for many jobs, since
this is the path that a producer walks a thousand times a second.
"""

import functools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal, NamedTuple

import msgpack
from pydantic import JsonValue

from bullpen.queue import lua, records
from bullpen.queue.keys import QueueKeys
from bullpen.queue.lua import AddKind
from bullpen.queue.operations import packing
from bullpen.queue.operations.base import Arg, Call, Eval, QueueOperation, Reply, items, number, text
from bullpen.queue.records import Opts

BATCH = 500
"""How many jobs one `AddJobs` carries at most: Redis serves nobody else while it adds them (some 10 ms)."""

_MINTED_ID_LENGTH = 36
_UNSIGNED_64 = struct.Struct(">Q")
_KIND_LETTER: Mapping[AddKind, bytes] = {
    "addStandardJob-9": b"s",
    "addDelayedJob-6": b"d",
    "addPrioritizedJob-9": b"p",
}


class Refusal(IntEnum):
    """Why nothing was added."""

    STALE_POLICY = -101
    """The queue's policy is not the one that the jobs were made by."""
    FULL = -103
    """The queue has as many waiting jobs as its policy allows."""


@dataclass(frozen=True)
class JobShape:
    """What jobs have in common that were enqueued alike: everything but id, payload and time.

    `opts` are the options as they are to lie in the job, under BullMQ's long names.
    """

    keys: QueueKeys
    name: str
    opts: Opts
    delay_ms: int = 0
    priority: int = 0
    lifo: bool = False
    deduplication: Mapping[str, JsonValue] | None = None

    @functools.cached_property
    def kind(self) -> AddKind:
        """The script of BullMQ that adds it, chosen as Node chooses."""
        if self.delay_ms:
            return "addDelayedJob-6"
        return "addPrioritizedJob-9" if self.priority else "addStandardJob-9"

    @property
    def waits(self) -> bool:
        """Whether the job counts as waiting at once."""
        return not self.delay_ms

    @functools.cached_property
    def packed_opts(self) -> bytes:
        """The options as the script takes them."""
        return _pack(records.wire_opts(self.opts))

    @functools.cached_property
    def _frame(self) -> tuple[bytes, bytes, bytes]:
        # The packed arguments around a minted id and the time: [base, id, name, time, three of a flow's parent, the
        # scheduler, the key of deduplication].
        deduplication = None
        if self.deduplication is not None:
            deduplication = self.keys.deduplication(str(self.deduplication["id"]))
        head = b"\x99" + _pack(self.keys.base) + b"\xd9" + bytes([_MINTED_ID_LENGTH])
        return head, _pack(self.name) + b"\xcf", b"\xc0\xc0\xc0\xc0" + _pack(deduplication)

    @functools.cached_property
    def templates(self) -> dict[str, "Template"]:
        """How one such job is sent, by the revision of the policy."""
        return {}

    def template(self, policy_rev: str) -> "Template":
        """Give how one such job with a minted id is sent to a queue without a limit of waiting jobs."""
        found = self.templates.get(policy_rev)
        if found is None:
            found = self.templates[policy_rev] = self._make_template(policy_rev)
        return found

    def _make_template(self, policy_rev: str) -> "Template":
        # Packed by the long way with marks for id, time and payload, and cut there.
        job_id, data = "0" * _MINTED_ID_LENGTH, b"<payload>"
        args = self.packed_args(job_id, 0)
        call = AddJobs(self.keys, (NewJob(self, job_id, data, 0),), policy_rev).commands()[0]
        whole = packing.pack(call)
        at = whole.index(args) + len(self._frame[0])
        end = whole.index(b"$%d\r\n%b\r\n" % (len(data), data), at)
        after_id = at + _MINTED_ID_LENGTH
        middle = self._frame[1]
        return Template(
            whole[:at],
            middle,
            whole[after_id + len(middle) + _UNSIGNED_64.size : end + 1],
            whole[end + 1 + len(b"%d\r\n%b" % (len(data), data)) :],
        )

    def packed_args(self, job_id: str, timestamp_ms: int) -> bytes:
        """Give the script's array of arguments for one job."""
        head, middle, tail = self._frame
        raw = job_id.encode()
        if len(raw) != _MINTED_ID_LENGTH:
            head = head[:-2] + _pack(job_id)
            raw = b""
        return b"%b%b%b%b%b" % (head, raw, middle, _UNSIGNED_64.pack(timestamp_ms), tail)


class Template(NamedTuple):
    """The bytes of an add that are the same for all jobs of a shape: between them come id, time, size and payload."""

    before_id: bytes
    before_time: bytes
    before_size: bytes
    after_data: bytes


class NewJob(NamedTuple):
    """A job to add. `data` is its payload as JSON in UTF-8, `timestamp_ms` when it was enqueued."""

    shape: JobShape
    id: str
    data: bytes
    timestamp_ms: int


@dataclass(frozen=True)
class AddJobs(QueueOperation["tuple[str, ...] | Refusal"]):
    """Add jobs to one queue: all, or none where it gives a `Refusal`.

    The ids that it gives are in the jobs' order. One is another than was asked for where the job was a duplicate by
    `Deduplication`; where a job with this id was there already, its own is given and nothing was added.

    It is never sent twice: a job that has ended and gone meanwhile would be added again.
    """

    keys: QueueKeys
    jobs: tuple[NewJob, ...]
    policy_rev: str = ""
    """The policy by which the jobs were made; another one in Redis refuses them."""
    waiting_limit: int | None = None
    on_full: Literal["Reject", "DropOldest"] = "Reject"

    repeatable: ClassVar[bool] = False

    @property
    def coming(self) -> int:
        """How many of the jobs count as waiting at once."""
        return sum(job.shape.waits for job in self.jobs)

    def packed(self) -> bytes | None:
        """The short way for one job with a minted id, which is most."""
        if len(self.jobs) != 1 or self.waiting_limit is not None:
            return None
        shape, job_id, data, timestamp_ms = self.jobs[0]
        raw = job_id.encode()
        if len(raw) != _MINTED_ID_LENGTH:
            return None
        start, middle, size, end = shape.template(self.policy_rev)
        time = _UNSIGNED_64.pack(timestamp_ms)
        return b"%b%b%b%b%b%d\r\n%b%b" % (start, raw, middle, time, size, len(data), data, end)

    def commands(self) -> Sequence[Call]:
        """One script: that of BullMQ for a single job, ours around BullMQ's for many."""
        keys = self.keys
        limited = False
        guard: tuple[Arg, ...] = (self.policy_rev,)
        if self.waiting_limit is not None and (coming := self.coming):
            limited = True
            drop = "1" if self.on_full == "DropOldest" else ""
            guard = (self.policy_rev, self.waiting_limit, coming, drop, keys.base)
        if len(self.jobs) == 1:
            job = self.jobs[0]
            shape = job.shape
            script = lua.guarded_add(shape.kind, limited=limited)
            args = (shape.packed_args(job.id, job.timestamp_ms), job.data, shape.packed_opts)
            return (Eval(script, _add_keys(keys, shape.kind, limited), args, shared_keys=True, more_args=guard),)
        many = [*guard]
        for job in self.jobs:
            shape = job.shape
            many += (
                _KIND_LETTER[shape.kind],
                shape.packed_args(job.id, job.timestamp_ms),
                job.data,
                shape.packed_opts,
            )
        return (Eval(lua.guarded_bulk(limited=limited), _bulk_keys(keys, limited), tuple(many), shared_keys=True),)

    def read(self, replies: Sequence[Reply]) -> "tuple[str, ...] | Refusal":
        """Read the ids, or why there are none."""
        reply = replies[0]
        if isinstance(reply, int):
            return Refusal(reply)
        if len(self.jobs) == 1:
            return (text(reply),)
        ids = tuple(text(item) for item in items(reply))
        if len(ids) != len(self.jobs):
            msg = f"Redis answered {number(len(ids))} ids for {len(self.jobs)} jobs"
            raise ValueError(msg)
        return ids

    def settles(self, result: object) -> bool:
        """A batch that was added is done: however many follow, each has the client's timeout."""
        return not isinstance(result, Refusal)


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


@functools.lru_cache(maxsize=1024)
def _add_keys(keys: QueueKeys, kind: AddKind, limited: bool) -> tuple[str, ...]:  # noqa: FBT001 - part of the cache's key
    guard = _guard_keys(keys, limited=limited)
    match kind:
        case "addStandardJob-9":
            return (*_standard_keys(keys), *guard)
        case "addDelayedJob-6":
            return (keys.marker, keys.meta, keys.id, keys.delayed, keys.completed, keys.events, *guard)
        case "addPrioritizedJob-9":
            return (
                keys.marker,
                keys.meta,
                keys.id,
                keys.prioritized,
                keys.delayed,
                keys.completed,
                keys.active,
                keys.events,
                keys.priority_counter,
                *guard,
            )


@functools.lru_cache(maxsize=1024)
def _bulk_keys(keys: QueueKeys, limited: bool) -> tuple[str, ...]:  # noqa: FBT001 - part of the cache's key
    return (*_standard_keys(keys), keys.prioritized, keys.priority_counter, *_guard_keys(keys, limited=limited))


def _guard_keys(keys: QueueKeys, *, limited: bool) -> tuple[str, ...]:
    return (keys.policy, keys.wait, keys.paused, keys.prioritized) if limited else (keys.policy,)


def _standard_keys(keys: QueueKeys) -> tuple[str, ...]:
    return (
        keys.wait,
        keys.paused,
        keys.meta,
        keys.id,
        keys.completed,
        keys.delayed,
        keys.active,
        keys.events,
        keys.marker,
    )
