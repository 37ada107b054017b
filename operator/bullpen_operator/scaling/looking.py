"""What the scaler asks of Redis: to look at a queue, to give orders, to remember what was learned."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.lua import Script
from bullpen.queue.observation import Reading, UnreadableQueue
from bullpen.queue.operations.base import Call, Command, Eval, QueueOperation, Reply
from bullpen_operator.scaling.crew import PROTOCOL, Roll

LEASE_MS: Final = 30_000
"""How long an order to retire holds without a renewal."""
MOST_WORKERS: Final = 2_000
"""Of more workers, or orders, nothing is read: no fleet of one queue is so large."""
ROOM_BYTES: Final = 8 << 20
"""What workers and orders of all queues that are read in one go may take together: half of what a reply may."""
MEMORY_LIVES_MS: Final = 24 * 3_600_000
NOTHING_YET: Final = b"0-0"
"""The id before all events of a stream, also of one that is not there."""


class Sight(NamedTuple):
    """One queue at one instant."""

    last_event: bytes
    """Read before the counts: what happens after them is behind it."""
    reading: Reading
    roll: Roll | None
    """None where it was not asked for, or cannot be read."""
    remembered: bytes
    crew_bytes: int = 0
    """What workers and orders take; -1 where there was no room for them."""
    owned: bool = True
    """Whether it stands there whose the queue is: else its settings are gone."""


@functools.cache
def look_script() -> Script:
    """Our script that reads a queue for the scaler: the core's observation inside of it, to the letter."""
    observe = f"local function observe(KEYS, ARGV)\n{lua.ours('observe-1').source}\nend\n"
    return lua.script("look", observe + _source("look"), 1)


@functools.cache
def order_script() -> Script:
    """Our script behind orders to retire."""
    return lua.script("order", _source("order"), 1)


@dataclass(frozen=True, slots=True)
class Look(QueueOperation[Sight]):
    """Read one queue. `horizon_ms` says how far ahead a delayed job counts as due."""

    keys: QueueKeys
    horizon_ms: int
    crew: bool
    """Whether to read the workers and the orders to them."""
    memory: bool = False
    """Whether to read what was remembered."""
    room_bytes: int = ROOM_BYTES
    """What workers and orders may take."""

    def commands(self) -> Sequence[Call]:
        """Give the one script."""
        most = MOST_WORKERS if self.crew else 0
        args = (self.keys.base, self.horizon_ms, most, int(self.memory), self.room_bytes)
        return [Eval(look_script(), (self.keys.meta,), args)]

    def read(self, replies: Sequence[Reply]) -> Sight:
        """Give what the script found. Raises `UnreadableQueue`."""
        reply = replies[0]
        if not isinstance(reply, list) or len(reply) != 7:
            msg = f"the queue cannot be read: a reply of seven parts was expected, not {type(reply).__name__}"
            raise UnreadableQueue(msg)
        last, counts, workers, orders, remembered, taken, owned = reply
        reading = Reading.parse(counts)
        return Sight(
            last if isinstance(last, bytes) else NOTHING_YET,
            reading,
            Roll.parse(reading.at_ms, workers, orders) if self.crew else None,
            remembered if isinstance(remembered, bytes) else b"",
            taken if isinstance(taken, int) else -1,
            owned != 0,
        )


class Retiree(NamedTuple):
    """Whom an order is for: by pod and start of its container, so that it is clear whom it meant."""

    pod_uid: str
    start_ms: int


@dataclass(frozen=True, slots=True)
class GiveOrders(QueueOperation[int]):
    """Give, renew and lift orders to retire; how many of them were news comes back. Repeating it does no harm."""

    keys: QueueKeys
    retire: Mapping[str, Retiree] = field(default_factory=dict)
    lift: Sequence[str] = ()

    def commands(self) -> Sequence[Call]:
        """Give the one script."""
        entries: list[str] = []
        for name, retiree in self.retire.items():
            entry = {"v": PROTOCOL, "pod": retiree.pod_uid, "start": retiree.start_ms}
            entries += [name, json.dumps(entry, separators=(",", ":"))]
        args: tuple[str | int, ...] = (self.keys.nudge, LEASE_MS, len(self.retire), *entries, *self.lift)
        return [Eval(order_script(), (self.keys.retiring,), args)]

    def read(self, replies: Sequence[Reply]) -> int:
        """Read the count."""
        reply = replies[0]
        return reply if isinstance(reply, int) else 0


@dataclass(frozen=True, slots=True)
class Remember(QueueOperation[None]):
    """Keep what was learned, for the operator that comes after this one."""

    keys: QueueKeys
    memory: str

    def commands(self) -> Sequence[Call]:
        """Give the one command."""
        return [Command(("SET", self.keys.scaling, self.memory, "PX", MEMORY_LIVES_MS))]

    def read(self, replies: Sequence[Reply]) -> None:
        """Nothing."""


def _source(name: str) -> str:
    return (Path(__file__).with_name("scripts") / f"{name}.lua").read_text(encoding="utf-8")
