"""When to read a queue, and when to decide on it: the rhythm of one queue, as a value. Pure.

A *quiet* queue, in which nothing waits or runs, is watched on its event stream and read only now and then. When it
wakes it *settles*: it is read every few milliseconds until its count stands still (`bullpen.scaling.Settle`), so that
one burst is one write; a burst that is longer gets one decision on its way and another at its end. From then on it is
*busy*: polled, and left out of what is watched, since a stream that never rests would cost Redis and us a wake-up for
each job. It is quiet again when two polls in a row found nothing to do.

Times are milliseconds of a clock that never jumps.
"""

import enum
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

from bullpen.scaling import Settle

PACE_MS: Final = 4.0
"""How far apart a settling queue is read."""
FOLLOW_MS: Final = 1_000.0
"""At the latest so long after its first decision a burst that goes on gets its second."""
AFTERMATH_MS: Final = (10.0, 20.0, 40.0, 80.0)
"""How far apart a queue is read after it has settled; a count that moved by then settles anew."""
CALM_POLLS: Final = 2
"""So many polls in a row must find nothing to do before a queue that was busy is quiet."""
RESYNC_MS: Final = 30_000.0
"""At the latest so long after a reading a quiet queue is read again."""
RESYNC_GRID_MS: Final = 5_000.0
"""Quiet queues are read together, at multiples of this, so that a thousand of them are few round trips."""
POLL_GRID_MS: Final = 50.0
"""Busy queues, too."""
SHORTEST_POLL_MS: Final = 200.0
LONGEST_POLL_MS: Final = 2_000.0
_READS_PER_SECOND: Final = 200.0
"""What all busy queues of a Redis get together, as long as each gets at least one read in `LONGEST_POLL_MS`."""
UNREADABLE_MS: Final = 2_000.0
"""How soon a queue that could not be read is tried again."""


class Phase(enum.Enum):
    """How a queue is followed."""

    QUIET = "quiet"
    SETTLING = "settling"
    BUSY = "busy"


class Seen(NamedTuple):
    """What became of a reading: the rhythm after it, and whether to decide now."""

    rhythm: "Rhythm"
    decide: bool


def poll_ms(polled: int) -> float:
    """Give how far apart each of so many queues that are polled is read."""
    return min(max(polled * 1_000 / _READS_PER_SECOND, SHORTEST_POLL_MS), LONGEST_POLL_MS)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How one queue is followed at the moment."""

    phase: Phase
    read_at_ms: float
    """When to read it next."""
    settle: Settle | None = None
    woken_ms: float | None = None
    """When it woke, until the first decision after that: what the reaction is measured from."""
    follows: bool = False
    """Whether the burst has had its first decision."""
    calm: int = 0
    """Polls in a row that found nothing to do."""
    aftermath: int = 0
    """How many of the looks after a burst are left."""
    count: int = 0
    """What it was decided on, while there are some left."""

    @classmethod
    def begin(cls, now_ms: float) -> Self:
        """Start with a queue of which nothing is known: read it at once."""
        return cls(Phase.BUSY, now_ms, calm=CALM_POLLS)

    @property
    def watchable(self) -> bool:
        """Whether the event stream is to be watched."""
        return self.phase is Phase.QUIET

    def woken(self, now_ms: float) -> "Rhythm":
        """Hear of an event in a quiet queue. In any other it is no news."""
        if self.phase is not Phase.QUIET:
            return self
        return Rhythm(Phase.SETTLING, now_ms, woken_ms=now_ms)

    def nudged(self, now_ms: float) -> "Rhythm":
        """Read it at once: something about it has changed that its stream does not tell."""
        return replace(self, read_at_ms=min(self.read_at_ms, now_ms))

    def unreadable(self, now_ms: float) -> "Rhythm":
        """Take it that the queue could not be read. What settled has lost its count: it is polled until it can be."""
        return Rhythm(Phase.BUSY, now_ms + UNREADABLE_MS)

    def seen(self, count: int, now_ms: float, *, idle: bool, poll_ms: float) -> Seen:
        """Take a reading: how many jobs there are, and whether nothing runs or could."""
        match self.phase:
            case Phase.SETTLING:
                return self._settling(count, now_ms, idle=idle, poll_ms=poll_ms)
            case Phase.QUIET if not idle:
                # Its timer was up, or a poll came before its event: a burst may be on its way.
                woken = Rhythm(Phase.SETTLING, now_ms, woken_ms=now_ms)
                return woken._settling(count, now_ms, idle=idle, poll_ms=poll_ms)
            case Phase.BUSY if self.aftermath and not idle:
                return self._after_burst(count, now_ms, poll_ms)
        calm = self.calm + 1 if idle else 0
        phase = Phase.QUIET if idle and (self.phase is Phase.QUIET or calm >= CALM_POLLS) else Phase.BUSY
        return Seen(Rhythm(phase, _next(phase, now_ms, poll_ms), calm=calm), decide=True)

    def _settling(self, count: int, now_ms: float, *, idle: bool, poll_ms: float) -> Seen:
        if self.settle is None and idle:
            # Whatever it was is over, or it was no job at all; a poll will tell whether more comes.
            return Seen(self._polled(now_ms, poll_ms, calm=1), decide=True)
        woken_ms = now_ms if self.woken_ms is None else self.woken_ms
        settle = Settle(woken_ms, now_ms, count) if self.settle is None else self.settle.seen(count, now_ms)
        if not settle.is_over(now_ms):
            read_at_ms = min(now_ms + PACE_MS, settle.decide_at_ms)
            return Seen(replace(self, settle=settle, read_at_ms=read_at_ms), decide=False)
        if now_ms >= settle.still_at_ms:
            looks = Rhythm(Phase.BUSY, now_ms + AFTERMATH_MS[0], aftermath=len(AFTERMATH_MS), count=count)
            return Seen(looks, decide=True)
        if self.follows:
            return Seen(self._polled(now_ms, poll_ms, calm=0), decide=True)
        follow = Settle(now_ms, settle.changed_ms, count, longest_ms=FOLLOW_MS)
        return Seen(Rhythm(Phase.SETTLING, now_ms + PACE_MS, settle=follow, follows=True), decide=True)

    def _after_burst(self, count: int, now_ms: float, poll_ms: float) -> Seen:
        if count != self.count:
            settle = Settle(now_ms, now_ms, count, longest_ms=FOLLOW_MS)
            return Seen(Rhythm(Phase.SETTLING, now_ms + PACE_MS, settle=settle, follows=True), decide=False)
        if self.aftermath == 1:
            return Seen(self._polled(now_ms, poll_ms, calm=0), decide=True)
        at_ms = now_ms + AFTERMATH_MS[1 - self.aftermath]
        return Seen(replace(self, read_at_ms=at_ms, aftermath=self.aftermath - 1), decide=False)

    def look_again(self, at_ms: float) -> "Rhythm":
        """Read it no later than at this time, whatever the rhythm."""
        return self if at_ms >= self.read_at_ms else replace(self, read_at_ms=at_ms)

    def _polled(self, now_ms: float, poll_ms: float, *, calm: int) -> "Rhythm":
        return Rhythm(Phase.BUSY, _next(Phase.BUSY, now_ms, poll_ms), calm=calm)


def _next(phase: Phase, now_ms: float, poll_ms: float) -> float:
    if phase is Phase.QUIET:
        return (now_ms + RESYNC_MS) // RESYNC_GRID_MS * RESYNC_GRID_MS
    return -(-(now_ms + poll_ms) // POLL_GRID_MS) * POLL_GRID_MS
