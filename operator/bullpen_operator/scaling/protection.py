"""Which pods are marked as busy for those who drain nodes, and when that is written. Pure.

A mark is a write to the API server, and busy changes with every job. So a pod is marked as soon as it is seen busy, but
the mark goes only after the pod has been idle for a while, and no more than so many are written in a second over all
queues: what is left over comes next time, the busy before the idle.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bullpen_operator.scaling.pods import PROTECTIONS
from bullpen_operator.scaling.retire import Member

IDLE_MS: Final = 30_000
"""A mark goes when its pod has been idle for so long."""
WRITES_PER_SECOND: Final = 5.0
BURST: Final = 10.0


@dataclass(frozen=True, slots=True)
class Marks:
    """What is remembered of one queue's pods: since when each that is marked has been idle, by uid."""

    idle_since_ms: Mapping[str, int] = field(default_factory=dict)

    def after(self, members: Iterable[Member], now_ms: int) -> "Marks":
        """Take what is seen now."""
        idle = {
            member.pod.uid: min(self.idle_since_ms.get(member.pod.uid, now_ms), now_ms)
            for member in members
            if member.pod.protected and not member.busy
        }
        return Marks(idle)

    def wanted(self, members: Iterable[Member], now_ms: int, *, protect: bool) -> dict[str, bool]:
        """Say which pods' marks are to change, by name, and to what; those to be marked come first."""
        changes: list[tuple[str, bool]] = []
        for member in members:
            pod = member.pod
            if pod.protected and not protect:
                changes.append((pod.name, False))
            elif protect and member.busy and not pod.protected:
                changes.append((pod.name, True))
            elif pod.protected and now_ms - self.idle_since_ms.get(pod.uid, now_ms) >= IDLE_MS:
                changes.append((pod.name, False))
        return dict(sorted(changes, key=lambda change: not change[1]))


def annotations(*, busy: bool) -> dict[str, str | None]:
    """Give what to write on a pod."""
    return {name: value if busy else None for name, value in PROTECTIONS.items()}


class Pace:
    """How many writes there may be now: so many a second, and a burst. Times in seconds of a clock that never jumps."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        passed = max(0.0, now - self._at)
        self._left = min(self._burst, self._left + passed * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
