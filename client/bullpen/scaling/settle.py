"""When to decide after a queue has woken, so that one burst is one write."""

from dataclasses import dataclass, replace
from typing import Self

STILL_MS = 10.0
"""The count has stood still for so long: the burst is over."""
LONGEST_MS = 50.0
"""At the latest so long after the wake."""


@dataclass(frozen=True)
class Settle:
    """A queue that has woken, and how its count moved since. Times are milliseconds of a clock that never jumps."""

    woken_ms: float
    changed_ms: float
    count: int
    longest_ms: float = LONGEST_MS

    @classmethod
    def begin(cls, count: int, now_ms: float) -> Self:
        """Start with the first count after the wake."""
        return cls(now_ms, now_ms, count)

    def seen(self, count: int, now_ms: float) -> Self:
        """Take the next count."""
        return self if count == self.count else replace(self, count=count, changed_ms=now_ms)

    @property
    def still_at_ms(self) -> float:
        """When the count has stood still for long enough if it does not move any more."""
        return self.changed_ms + STILL_MS

    @property
    def decide_at_ms(self) -> float:
        """When to decide if the count does not move any more."""
        return min(self.still_at_ms, self.woken_ms + self.longest_ms)

    def is_over(self, now_ms: float) -> bool:
        """Say whether it is time to decide."""
        return now_ms >= self.decide_at_ms
