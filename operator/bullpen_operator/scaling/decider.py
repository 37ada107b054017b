"""Joins what is seen of a queue with what is seen of its workers, and decides: `bullpen.scaling.decide` with memory. Pure.

Decisions go by Redis' clock: the readings do, and so a clock of ours that is wrong, or jumps, delays nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from bullpen.queue.observation import Reading
from bullpen.scaling import Decision, History, Observation, ScalingPolicy, decide
from bullpen.scaling.history import Mark
from bullpen_operator.scaling.pods import PodView
from bullpen_operator.scaling.retire import Fleet
from bullpen_operator.scaling.targets import TargetView
from bullpen_operator.scaling.units import Crew

MEMORY_VERSION: Final = 1
_STARTUP_WEIGHT: Final = 0.3
_LONGEST_STARTUP_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Memory:
    """What must be known of the past to decide; goes to Redis as JSON, so that another operator resumes from it."""

    history: History = field(default_factory=History)
    startup_ms: int | None = None
    """How long a pod lately took from its creation to readiness."""

    @property
    def gist(self) -> object:
        """What of it is worth a write when it changes: not what moves with the clock alone."""
        history = self.history
        learned = None if history.run_ms is None else f"{history.run_ms:.1e}"
        # The last recommendation is of now, and says by its number alone whether anything is new.
        lately = [(marks[:-1], [mark.replicas for mark in marks[-1:]]) for marks in (history.highs, history.lows)]
        return (
            lately,
            history.changes,
            history.replicas,
            history.wanted_ms,
            history.age_floor,
            learned,
            self.startup_ms,
        )

    def to_json(self) -> str:
        """Write it."""
        document = {"v": MEMORY_VERSION, "history": self.history.to_json(), "startup": self.startup_ms}
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, raw: bytes) -> Self | None:
        """Read what `to_json` wrote; None for anything else (nothing, another version, damaged)."""
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or document.get("v") != MEMORY_VERSION:
            return None
        history = History.from_json(document.get("history"))
        startup = document.get("startup")
        is_number = isinstance(startup, int) and not isinstance(startup, bool) and 0 <= startup <= _LONGEST_STARTUP_MS
        return None if history == History() else cls(history, startup if is_number else None)

    def taken_over(self, replicas: int, now_ms: int) -> Self:
        """Give a memory to begin with: where it does not know of what runs now, that was wanted until now.

        So an operator that knows nothing of the past, or not the last of it, takes no pod away before the window of
        shrinking has passed.
        """
        history = self.history.resumed(now_ms)
        if not replicas or history.replicas == replicas:
            return replace(self, history=history)
        highs = tuple(mark for mark in history.highs if mark.replicas > replicas)
        return replace(self, history=replace(history, highs=(*highs, Mark(now_ms, replicas)), decided_ms=now_ms))

    def with_startup(self, startup_ms: int) -> Self:
        """Learn how long a start took; the last ones count most."""
        took = min(max(startup_ms, 0), _LONGEST_STARTUP_MS)
        known = self.startup_ms
        learned = took if known is None else round(known + _STARTUP_WEIGHT * (took - known))
        return replace(self, startup_ms=learned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workforce:
    """All that is known of the workers of one queue at one moment."""

    target: TargetView
    pods: Sequence[PodView]
    fleet: Fleet | None
    """None for somebody else's workers: what they do is not known."""
    slots: int
    cannot_start: str = ""

    def crew(self) -> Crew:
        """Count them."""
        fleet = self.fleet
        if fleet is None:
            ready = min(self.target.ready, self.target.replicas)
            return Crew(replicas=self.target.replicas, ready=ready, starting=self.target.replicas - ready)
        ready = sum(pod.ready and not pod.going for pod in self.pods)
        retired = sum(member.order is not None and not member.pod.ready for member in fleet.members)
        starting = sum(pod.starting for pod in self.pods) - retired
        return Crew(
            replicas=self.target.replicas,
            ready=ready,
            starting=max(starting, 0),
            busy=fleet.busy if fleet.whole else None,
            retiring=fleet.retiring,
        )

    def observed(self, reading: Reading, startup_ms: int | None) -> Observation:
        """Give what there is to decide on."""
        crew = self.crew()
        busy = crew.busy
        if busy is not None:
            # Jobs that run while no worker says so have been lost, or were just begun: somebody must be there for them.
            busy = max(busy, int(reading.active > 0))
        observation = reading.observed(
            replicas=crew.replicas,
            ready=crew.ready,
            starting=crew.starting,
            busy=busy,
            startup_ms=startup_ms,
            cannot_start=self.cannot_start.partition(":")[0],
        )
        leaving = min(self.fleet.leaving_jobs, reading.active) if self.fleet is not None else 0
        return replace(observation, active_leaving=leaving) if leaving else observation


def judge(
    reading: Reading | str, workforce: Workforce, policy: ScalingPolicy, memory: Memory, now_ms: int
) -> tuple[Decision, Memory]:
    """Decide on a reading, or on why there is none. Raises `bullpen.cron.CronInvalid`."""
    if isinstance(reading, str):
        observation = Observation.unknown(at_ms=now_ms, because=reading, replicas=workforce.target.replicas)
    else:
        observation = workforce.observed(reading, memory.startup_ms)
    decision = decide(observation, policy, memory.history, now_ms)
    return decision, replace(memory, history=decision.history)
