"""A set whose members have scores: what Redis calls a sorted set, as far as queues need one.

Members of one score stand in the order in which they came. Redis has them in that of their names, which matters only where
things happen in the same millisecond: the exception there, the rule where the clock stands still.
"""

import bisect
import itertools
from collections.abc import Iterator


class ScoredSet:
    """Members in the order of their scores."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._order: list[tuple[int, int, str]] = []
        self._coming = itertools.count()

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return iter([member for _, _, member in self._order])

    def __contains__(self, member: object) -> bool:
        return member in self._places

    def add(self, member: str, score: int) -> None:
        """Add the member, or give it another score."""
        self.remove(member)
        place = self._places[member] = (score, next(self._coming))
        bisect.insort(self._order, (*place, member))

    def remove(self, member: str) -> bool:
        """Remove the member; says whether it was there."""
        place = self._places.pop(member, None)
        if place is None:
            return False
        del self._order[bisect.bisect_left(self._order, (*place, member))]
        return True

    def pop_first(self) -> str | None:
        """Remove the member of the lowest score and give it."""
        if not self._order:
            return None
        _, _, member = self._order.pop(0)
        del self._places[member]
        return member

    def first_score(self) -> int | None:
        """Give the lowest score."""
        return self._order[0][0] if self._order else None

    def up_to(self, score: int) -> list[str]:
        """Give the members of this score and below, the lowest first."""
        return [member for _, _, member in self._order[: self._end(score)]]

    def highest(self, least: int, most: int) -> int | None:
        """Give the highest score from `least` to `most`, both included."""
        end = self._end(most)
        score = self._order[end - 1][0] if end else least - 1
        return score if score >= least else None

    def but_the_last(self, count: int) -> list[str]:
        """Give all members but the `count` of the highest scores."""
        return [member for _, _, member in self._order[: max(len(self._order) - count, 0)]]

    def _end(self, score: int) -> int:
        return bisect.bisect_left(self._order, (score + 1,))
