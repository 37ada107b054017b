"""A set whose members have scores: what Redis calls a sorted set, as far as queues need one."""

import bisect
from collections.abc import Iterator


class ScoredSet:
    """Members in the order of their scores; equal ones in that of their names, as in Redis."""

    def __init__(self) -> None:
        self._scores: dict[str, int] = {}
        self._order: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return iter([member for _, member in self._order])

    def __contains__(self, member: str) -> bool:
        return member in self._scores

    def add(self, member: str, score: int) -> None:
        """Add the member, or give it another score."""
        self.remove(member)
        self._scores[member] = score
        bisect.insort(self._order, (score, member))

    def remove(self, member: str) -> bool:
        """Remove the member; says whether it was there."""
        score = self._scores.pop(member, None)
        if score is None:
            return False
        del self._order[bisect.bisect_left(self._order, (score, member))]
        return True

    def pop_first(self) -> str | None:
        """Remove the member of the lowest score and give it."""
        if not self._order:
            return None
        _, member = self._order.pop(0)
        del self._scores[member]
        return member

    def first_score(self) -> int | None:
        """Give the lowest score."""
        return self._order[0][0] if self._order else None

    def up_to(self, score: int) -> list[str]:
        """Give the members of this score and below, the lowest first."""
        return [member for _, member in self._order[: self._end(score)]]

    def between(self, least: int, most: int) -> list[tuple[int, str]]:
        """Give scores and members from `least` to `most`, both included."""
        return self._order[self._end(least - 1) : self._end(most)]

    def but_the_last(self, count: int) -> list[str]:
        """Give all members but the `count` of the highest scores."""
        return [member for _, member in self._order[: max(len(self._order) - count, 0)]]

    def _end(self, score: int) -> int:
        return bisect.bisect_left(self._order, score + 1, key=lambda entry: entry[0])
