"""What a worker says of itself in Redis, and what it is told in return: one script, one round trip. Pure.

The entry in `workers` is JSON ``{v, at, host, pid, started, slots, busy, processes, state, names, versions, protocol}``;
`at` is set by Redis' own clock, so that no two clocks are compared when it is asked how long ago a worker was heard of.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import msgpack

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.lua import Script

BEAT_MS: Final = 5_000
"""How often a worker beats when nothing calls for it sooner."""

STALE_MS: Final = 60_000
"""An entry that was not rewritten for so long is a dead worker's, and removed by any other."""

LIVES_MS: Final = 3_600_000
"""How long `workers` outlives the last beat of all."""

NAMES_LENGTH: Final = 4_096
"""Of job names, in characters of JSON. Who counts workers passes over entries beyond 8 KiB: such a worker could not be told to retire."""

PROTOCOL: Final = 1

_LONGEST_REASON: Final = 2_048  # as of failures; an order is anybody's text

WorkState = Literal["working", "retiring", "stopping"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A worker as others see it. `started_ms` is Unix time."""

    host: str
    pid: int
    started_ms: int
    slots: int
    busy: int
    processes: int
    state: WorkState
    names: Sequence[str]
    version: str

    def to_json(self) -> str:
        """Write it without `v` and `at`, which the script adds."""
        return json.dumps(
            {
                "host": self.host,
                "pid": self.pid,
                "started": self.started_ms,
                "slots": self.slots,
                "busy": self.busy,
                "processes": self.processes,
                "state": self.state,
                "names": _first(self.names, NAMES_LENGTH),
                "versions": {"bullpen": self.version},
                "protocol": PROTOCOL,
            },
            separators=(",", ":"),
        )


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Somebody asks for this job to be cancelled."""

    job_id: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to a beat. `retire_ms` is how much longer the order to retire holds, None where there is none.

    `limited_ms` is for how long nothing of the queue is to start because a handler met somebody's limit, 0 for no such. `policy` is the document of the policy when it is another than the one known (empty: there is none any more).
    """

    rev: str
    policy: str | None
    retire_ms: int | None
    cancelled: tuple[Cancellation, ...]
    limited_ms: int = 0

    @classmethod
    def read(cls, reply: object, known_rev: str) -> "Told":
        """Read the script's reply. What others wrote and cannot be read counts as not there."""
        now_ms, order, raw_rev, doc, flat, limited_ms = cast("tuple[int, bytes, bytes, bytes, list[bytes], int]", reply)
        rev = raw_rev.decode(errors="replace")
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return cls(
            rev=rev,
            policy=None if rev == known_rev else doc.decode(errors="replace"),
            retire_ms=_lease(order, now_ms),
            cancelled=tuple(Cancellation(job_id, _reason(entry)) for job_id, entry in pairs),
            limited_ms=limited_ms,
        )


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat of the worker `name`. Without an entry it says goodbye."""

    name: str
    entry: Entry | None
    known_rev: str = ""
    running: Sequence[bytes] = ()
    lost: Sequence[bytes] = ()
    """Jobs whose locks were lost lately: a death that others noted of us is taken back."""
    obeyed: Sequence[bytes] = ()
    """Jobs whose attempts were to be cancelled and are over: the orders go with those of them that have ended."""
    sweeps: bool = False
    """Whether to remove the entries of workers that are no more."""

    def words(self, keys: QueueKeys) -> tuple[list[str], list[str | bytes | int]]:
        """Give the keys and arguments of the script."""
        args: list[str | bytes | int] = [
            keys.base,
            self.name,
            "" if self.entry is None else self.entry.to_json(),
            LIVES_MS,
            STALE_MS if self.sweeps else 0,
            self.known_rev,
            _pack(self.running),
            _pack(self.lost),
            _pack(self.obeyed),
        ]
        return [keys.workers, keys.retiring, keys.cancelled, keys.policy, keys.limiter], args


def script() -> Script:
    """Our script behind a beat."""
    return lua.ours("beat-5")


def _first(names: Iterable[str], length: int) -> list[str]:
    """Give the first of them that take no more than so many characters of JSON."""
    found: list[str] = []
    for name in names:
        length -= len(json.dumps(name)) + 1
        if length < 0:
            break
        found.append(name)
    return found


def _pack(ids: Iterable[bytes]) -> bytes:
    packed: bytes = msgpack.packb(list(ids), use_bin_type=False)
    return packed


def _lease(order: bytes, now_ms: int) -> int | None:
    deadline = _field(order, "deadline")
    if not isinstance(deadline, int | float) or isinstance(deadline, bool):
        return None
    try:
        left_ms = int(deadline) - now_ms
    except (ValueError, OverflowError):  # JSON of Python's knows NaN and Infinity
        return None
    return left_ms if left_ms > 0 else None


def cancellation(entry: bytes, timestamp: bytes) -> str | None:
    """Give why the job that was enqueued then is to be cancelled; None where the order is none, or for another job of its id."""
    if not entry:
        return None
    since = _field(entry, "timestamp")
    return None if since is not None and str(since).encode() != timestamp else _reason(entry)


def _reason(entry: bytes) -> str:
    reason = _field(entry, "reason")
    return reason[:_LONGEST_REASON] if isinstance(reason, str) else ""


def _field(raw: bytes, name: str) -> object:
    try:
        value = json.loads(raw or b"null")
    except (ValueError, RecursionError):
        return None
    return value.get(name) if isinstance(value, dict) else None
