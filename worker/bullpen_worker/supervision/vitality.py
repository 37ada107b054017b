"""Whether a worker is alive and ready, judged from what its children last showed. Pure; times are in milliseconds.

A child whose event loop stands still is not dead when a handler in it holds the GIL within its time: the supervisor ends it
when that time is over. What kills silently is a child that is connected, has free slots, and does not fetch; the supervisor ends
one that stays so, since outside of Kubernetes nobody else would.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bullpen_worker.reports.probes import Verdict

START_MS: Final = 300_000
"""A child that has not loaded its handlers and entered their lifespans by then, while Redis is there, is stuck."""

BEAT_MS: Final = 15_000
"""A loop that has not turned for so long stands still."""

FETCH_MS: Final = 60_000
"""A child with free slots that has not heard from Redis about jobs for so long, while Redis is there, is deaf.
Longer than any wait of its own: for a marker (10 s), for the end of a rate limit (30 s)."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one child shows. `fetch_ms` counts from its readiness where it has not fetched yet."""

    serial: int
    ready: bool
    age_ms: int
    beat_ms: int
    fetch_ms: int
    slots: int
    busy: int
    in_time: bool
    """Whether it runs a job that is within its timeout and the grace on top of that."""


def health(children: Iterable[Vitals], *, redis_up_ms: int | None, holds: bool) -> Verdict:
    """Judge liveness. `redis_up_ms` is for how long Redis has been there, `holds` that no job is wanted at all."""
    for child in children:
        if not child.ready:
            if redis_up_ms is not None and min(redis_up_ms, child.age_ms) > START_MS:
                return Verdict(ok=False, text=f"child {child.serial} has not started within {START_MS // 1000} s")
            continue
        if child.beat_ms > BEAT_MS and not child.in_time:
            return Verdict(
                ok=False, text=f"the event loop of child {child.serial} has stood still for {child.beat_ms // 1000} s"
            )
        if is_deaf(child, redis_up_ms=redis_up_ms, holds=holds):
            return Verdict(
                ok=False, text=f"child {child.serial} has free slots and has not fetched for {child.fetch_ms // 1000} s"
            )
    return Verdict(ok=True, text="alive")


def is_deaf(child: Vitals, *, redis_up_ms: int | None, holds: bool) -> bool:
    """Say whether the child should be fetching, could be, and is not."""
    wants = child.ready and not holds and child.busy < child.slots and child.beat_ms <= BEAT_MS
    return wants and redis_up_ms is not None and min(redis_up_ms, child.fetch_ms) > FETCH_MS


def readiness(*, started: bool, connected: bool, stopping: bool, retiring: bool, busy: int) -> Verdict:
    """Judge readiness. A retiring worker is ready while it has jobs: the first pods to be removed are those not ready."""
    if stopping:
        return Verdict(ok=False, text="stopping")
    if not started:
        return Verdict(ok=False, text="starting")
    if not connected:
        return Verdict(ok=False, text="Redis has not answered yet")
    if retiring and busy == 0:
        return Verdict(ok=False, text="retired")
    return Verdict(ok=True, text="retiring" if retiring else "ready")
