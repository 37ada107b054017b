"""How the starting of children goes: how long to wait before the next, and when it has failed too often. Pure."""

from typing import Final

from bullpen_worker.supervision.children import End

MOST: Final = 3
"""So many children in a row may fail before they were ready, or by our own code; then the worker gives up."""

SETTLED_S: Final = 10.0
"""A child that lived so long was started well: what ends it has nothing to do with its start."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0


def next_pause(before_s: float) -> float:
    """Give how long to wait before the next start, longer than the last time."""
    return min(max(2 * before_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)


class Starts:
    """Counts the starts of one worker's children that failed in a row."""

    def __init__(self) -> None:
        self._failed = 0
        self._broken = 0

    def ready(self) -> None:
        """Note that a child is ready."""
        self._failed = 0

    def failed(self) -> str:
        """Note that a child ended before it was ready, or could not be started. Gives why to give up, else nothing."""
        self._failed += 1
        return (
            f"{MOST} children in a row ended before they were ready: see their output above"
            if self._failed >= MOST
            else ""
        )

    def ended(self, end: End, *, ready_for_s: float | None) -> str:
        """Note the end of a child, ready for so long or never. Gives why to give up, else nothing.

        A worker whose own code fails again and again must not look alive, and do nothing.
        """
        soon = ready_for_s is None or ready_for_s < SETTLED_S
        self._broken = self._broken + 1 if end is End.BROKEN and soon else 0
        return f"{MOST} children in a row could not go on: see their errors above" if self._broken >= MOST else ""
