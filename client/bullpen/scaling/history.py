"""What a scaling decision needs to remember from the ones before: an immutable value that its caller carries.

It goes through JSON, so that a restarted operator resumes where the last one stopped. Time in which nobody looked does
not count: after a gap, during an outage, or when the clock was put back, all that is remembered moves along with the
clock, so nothing runs out unseen.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from pydantic import JsonValue

from bullpen.scaling.observation import Observation

VERSION = 1
LONGEST_GAP_MS = 60_000
"""A longer time between two decisions is one in which nobody looked."""

_LARGEST = 2.0**53
"""What was stored and is no less is damaged. Not every number of JSON's is one that can be reckoned with: 10**400 is no float."""
_RATE_MEMORY_MS = 30_000
_RUN_WEIGHT = 0.2  # of a mean that somebody else took
_RUN_MEMORY = 200  # jobs, of our own


@dataclass(frozen=True)
class Mark:
    """A number of replicas at a time: a recommendation, or (signed) a change."""

    at_ms: int
    replicas: int


@dataclass(frozen=True, kw_only=True)
class History:
    """What is remembered; empty at first. Bounded: by the windows and periods of the policy it is used with."""

    decided_ms: int | None = None
    """When the last decision was made."""
    read_ms: int | None = None
    """The time of the last reading that was known."""
    replicas: int | None = None
    """The number of replicas last seen."""
    highs: tuple[Mark, ...] = ()
    """Recommendations that no later one reached: older is higher."""
    lows: tuple[Mark, ...] = ()
    """Recommendations that no later one went below: older is lower."""
    changes: tuple[Mark, ...] = ()
    """Changes of the number of replicas that were seen, whoever made them."""
    wanted_ms: int | None = None
    """When there last was something to do."""
    idle_readings: int = 0
    """Fresh readings in a row of nothing to do."""
    run_ms: float | None = None
    """Learned: mean run time of a job."""
    run_jobs: int = 0
    """How many jobs it was learned from, as far as they still count."""
    active: int = 0
    """Jobs that ran at the last reading; none at the first one after a pause, which was made because a job came."""
    mean_active: float | None = None
    """Learned: jobs that run at a time."""
    unended_ms: float = 0.0
    """Time that jobs have run, taken together, since one of them last ended."""
    running_since_ms: int | None = None
    """Since when there has been a job that runs at every reading."""
    none_ended_since_ms: int | None = None
    """Since when none has ended of the jobs that run."""
    arrivals_per_ms: float | None = None
    """Learned: jobs added in a millisecond."""
    added_total: int | None = None
    finished_total: int | None = None
    age_step_ms: int | None = None
    """When the oldest job's age last added a step."""
    age_floor: int = 0
    """What the age asks to be kept while it lasts."""

    def resumed(self, now_ms: int, *, is_known: bool = True) -> Self:
        """Move all along with a clock that jumped, or over a time in which nobody looked or nothing was seen."""
        if self.decided_ms is None:
            return self
        passed = now_ms - self.decided_ms
        if is_known and 0 <= passed <= LONGEST_GAP_MS:
            return self

        def moved(at_ms: int | None) -> int | None:
            return None if at_ms is None else at_ms + passed

        def all_moved(marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
            return tuple(replace(mark, at_ms=mark.at_ms + passed) for mark in marks)

        return replace(
            self,
            decided_ms=now_ms,
            highs=all_moved(self.highs),
            lows=all_moved(self.lows),
            changes=all_moved(self.changes),
            wanted_ms=moved(self.wanted_ms),
            age_step_ms=moved(self.age_step_ms),
            running_since_ms=moved(self.running_since_ms),
            none_ended_since_ms=moved(self.none_ended_since_ms),
            unended_ms=0.0,
            idle_readings=0,
            added_total=None,  # what was added meanwhile has no time to be divided by
            finished_total=None,
        )

    def with_reading(self, observation: Observation, now_ms: int) -> Self:
        """Learn from a reading: changes of the number, idle time, run time and arrivals.

        The same reading twice teaches nothing new.
        """
        # One copy in the end, and not one for each thing learned: this is done for every queue at every look.
        changes: dict[str, Any] = {"replicas": observation.replicas, "decided_ms": now_ms}
        if self.replicas is not None and observation.replicas != self.replicas:
            changes["changes"] = (*self.changes, Mark(now_ms, observation.replicas - self.replicas))
        if not observation.known:
            return replace(self, **changes, idle_readings=0, added_total=None, finished_total=None)
        is_fresh = observation.at_ms != self.read_ms
        if self.wanted_ms is None or not observation.idle:
            changes["wanted_ms"] = now_ms
        if not observation.idle:
            changes["idle_readings"] = 0
        elif is_fresh:
            changes["idle_readings"] = self.idle_readings + 1
        if not is_fresh:
            return replace(self, **changes)
        elapsed_ms = 0 if self.read_ms is None else observation.at_ms - self.read_ms
        return replace(
            self,
            **changes,
            **self._learned_runs(observation, elapsed_ms),
            read_ms=observation.at_ms,
            active=0 if self.idle_readings else observation.active,
            mean_active=_followed(self.mean_active, observation.active, elapsed_ms),
            arrivals_per_ms=self._learned_arrivals(observation, elapsed_ms),
            added_total=observation.added_total,
            finished_total=observation.finished_total,
        )

    def with_recommendation(
        self, replicas: int, now_ms: int, *, up_window_ms: int, down_window_ms: int, period_ms: int = 0
    ) -> Self:
        """Add a recommendation; forget those that have left their window or can never count again.

        Changes that are older than `period_ms`, the longest that a policy looks back to, are forgotten too.
        """
        mark = Mark(now_ms, replicas)
        highs = [old for old in self.highs if 0 <= now_ms - old.at_ms < down_window_ms and old.replicas > replicas]
        lows = [old for old in self.lows if 0 <= now_ms - old.at_ms < up_window_ms and old.replicas < replicas]
        changes = tuple(change for change in self.changes if change.at_ms > now_ms - period_ms)
        return replace(self, highs=(*highs, mark), lows=(*lows, mark), changes=changes)

    def to_json(self) -> dict[str, JsonValue]:
        """Give the history as JSON, for `from_json`."""
        values: dict[str, JsonValue] = {"v": VERSION}
        for item in fields(self):
            value = getattr(self, item.name)
            values[item.name] = [[mark.at_ms, mark.replicas] for mark in value] if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read what `to_json` gave. Of anything else (another version, damaged) an empty history."""
        if not isinstance(value, dict) or value.get("v") != VERSION:
            return cls()
        read: dict[str, object] = {}
        for item in fields(cls):
            stored = value.get(item.name)
            if isinstance(item.default, tuple):
                marks = [_mark(entry) for entry in stored] if isinstance(stored, list) else [None]
                if None in marks:
                    return cls()
                read[item.name] = tuple(marks)
            elif stored is None and item.default is None:
                read[item.name] = None
            elif isinstance(stored, bool) or not isinstance(stored, int | float) or not abs(stored) < _LARGEST:
                return cls()
            else:
                read[item.name] = stored
        return cls(**read)  # type: ignore[arg-type]  # each was checked above against its field

    def _learned_runs(self, observation: Observation, elapsed_ms: int) -> dict[str, Any]:
        """Learn how long jobs run, from how many ran and how many ended: the time spent by all over those that ended.

        Time is kept until a job ends, or slow jobs would look as short as the time between two readings. What ended cannot
        have run for longer than there has been a job at all, which is what bounds the first to end of a large burst.
        """
        at_ms, is_running = observation.at_ms, observation.active > 0
        finished = _grown(self.finished_total, observation.finished_total)
        began_ms = self.running_since_ms if self.running_since_ms is not None else self.read_ms
        changes: dict[str, Any] = {
            "running_since_ms": (at_ms if began_ms is None else began_ms) if is_running else None,
            "none_ended_since_ms": at_ms if is_running else None,
            "unended_ms": 0.0,
        }
        if observation.mean_run_ms is not None:
            changes |= {"run_ms": self._toward(observation.mean_run_ms, _RUN_WEIGHT), "none_ended_since_ms": None}
        elif finished is not None and elapsed_ms > 0:
            ran_ms = self.unended_ms + (self.active + observation.active) / 2 * elapsed_ms
            if finished:
                longest_ms = elapsed_ms if began_ms is None else at_ms - began_ms
                weight = finished / (finished + self.run_jobs)
                changes["run_ms"] = self._toward(min(ran_ms / finished, longest_ms), weight)
                changes["run_jobs"] = min(self.run_jobs + finished, _RUN_MEMORY)
            else:
                changes["unended_ms"] = ran_ms
                since_ms = began_ms if self.none_ended_since_ms is None else self.none_ended_since_ms
                changes["none_ended_since_ms"] = since_ms if is_running else None
        return changes

    def _toward(self, sample_ms: float, weight: float) -> float | None:
        if sample_ms < 0 or not math.isfinite(sample_ms):
            return self.run_ms
        if self.run_ms is None:
            return sample_ms or None
        return self.run_ms + weight * (sample_ms - self.run_ms)

    def _learned_arrivals(self, observation: Observation, elapsed_ms: int) -> float | None:
        if observation.added_total is None:
            return None
        added = _grown(self.added_total, observation.added_total)
        if added is None or elapsed_ms <= 0:
            return self.arrivals_per_ms
        sample = added / elapsed_ms
        return _followed(self.arrivals_per_ms, sample, elapsed_ms)


def _followed(mean: float | None, sample: float, elapsed_ms: int) -> float:
    """Give a mean that forgets, after another sample."""
    if mean is None:
        return sample
    return mean + (1 - math.exp(-max(elapsed_ms, 0) / _RATE_MEMORY_MS)) * (sample - mean)


def _grown(before: int | None, now: int | None) -> int | None:
    """Give how far a counter went; None when unknown, or when it started anew."""
    return None if before is None or now is None or now < before else now - before


def _mark(entry: JsonValue) -> Mark | None:
    match entry:
        case [int(at_ms), int(replicas)] if abs(at_ms) < _LARGEST and abs(replicas) < _LARGEST:
            return Mark(at_ms, replicas)
        case _:
            return None
