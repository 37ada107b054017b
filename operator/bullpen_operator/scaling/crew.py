"""What a queue's workers say of themselves in Redis, and the orders to retire that stand there. Pure.

What others wrote is read with care: an entry that cannot be read counts as not there, and a worker that is not there
takes no part in a decision to take it away.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

PROTOCOL: Final = 1
"""Of entries and orders, as this operator knows it. Two versions back and any forth are read as far as they can be."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One start of a worker: in a pod, `host` is the pod's name. Times in ms since 1970."""

    name: str
    host: str
    started_ms: int
    """By the worker's own clock, which is its node's."""
    at_ms: int
    """When it was heard of, by Redis' clock."""
    slots: int
    busy: int
    state: str
    """`working`, `retiring` or `stopping`."""
    protocol: int = PROTOCOL
    version: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """An order to retire; it counts until its deadline, by Redis' clock."""

    deadline_ms: int
    pod: str = ""
    start_ms: int = 0


@dataclass(frozen=True, slots=True)
class Roll:
    """The workers of a queue and the orders to them, by the worker's full name, at one instant."""

    at_ms: int
    workers: Mapping[str, Worker] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)

    @classmethod
    def parse(cls, at_ms: int, workers: object, orders: object) -> Self | None:
        """Read the lists of the script; None where they were not asked for or are too many to be true."""
        if not isinstance(workers, list) or not isinstance(orders, list):
            return None
        return cls(
            at_ms,
            {name: worker for name, raw in _pairs(workers) if (worker := _worker(name, raw))},
            {name: _order(raw) for name, raw in _pairs(orders)},
        )

    def by_host(self) -> Mapping[str, Worker]:
        """Give the worker that runs on each host now: the latest to start there."""
        found: dict[str, Worker] = {}
        for worker in self.workers.values():
            known = found.get(worker.host)
            if known is None or worker.started_ms > known.started_ms:
                found[worker.host] = worker
        return found


def _pairs(flat: Sequence[object]) -> list[tuple[str, bytes]]:
    pairs = iter(flat)
    return [
        (name.decode(errors="replace"), entry)
        for name, entry in zip(pairs, pairs, strict=False)
        if isinstance(name, bytes) and isinstance(entry, bytes)
    ]


def _worker(name: str, raw: bytes) -> Worker | None:
    entry = _read(raw)
    host, state = entry.get("host"), entry.get("state")
    versions = entry.get("versions")
    version = versions.get("bullpen") if isinstance(versions, dict) else None
    if not isinstance(host, str):
        return None
    return Worker(
        name=name,
        host=host,
        started_ms=_number(entry.get("started")),
        at_ms=_number(entry.get("at")),
        slots=_number(entry.get("slots")),
        busy=_number(entry.get("busy")),
        state=state if isinstance(state, str) else "working",
        protocol=_number(entry.get("protocol")),
        version=version if isinstance(version, str) else "",
    )


def _order(raw: bytes) -> Order:
    entry = _read(raw)
    pod = entry.get("pod")
    return Order(_number(entry.get("deadline")), pod if isinstance(pod, str) else "", _number(entry.get("start")))


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 else 0


def _read(raw: bytes) -> dict[str, object]:
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
