"""Bullpen's scaler as the operator runs it: woken by the first job, then looking every so often, deciding by `decide`."""

from dataclasses import dataclass, field

from bullpen.scaling.decide import Decision, decide
from bullpen.scaling.history import History
from bullpen.scaling.observation import Observation
from bullpen.scaling.policy import ScalingPolicy
from bullpen.scaling.settle import LONGEST_MS
from bullpen.scaling.simulation.world import Look, Seen

EPOCH_MS = 1_798_797_600_000
"""What the begin of a simulation is in real time: decisions want one, for their windows."""


@dataclass(slots=True)
class Bullpen:
    """Decides on what it sees. Keeps a history: take a new one for each simulation."""

    policy: ScalingPolicy
    startup_ms: int = 5_000
    poll_ms: int = 1_000
    """How often a queue with jobs is looked at."""
    epoch_ms: int = EPOCH_MS
    retires: bool = True
    history: History = field(default_factory=History)
    decision: Decision | None = None
    """The last one, with its reasons."""

    def look(self, seen: Seen) -> Look:
        """Decide, and look again soon while there are jobs."""
        now_ms = self.epoch_ms + seen.now_ms
        observation = Observation(
            at_ms=now_ms,
            waiting=seen.waiting,
            active=seen.active,
            active_leaving=seen.leaving,
            oldest_ms=None if seen.oldest_ms is None else self.epoch_ms + seen.oldest_ms,
            added_total=seen.added,
            finished_total=seen.finished,
            replicas=seen.replicas,
            ready=seen.ready,
            starting=seen.starting,
            busy=seen.busy,
            startup_ms=self.startup_ms,
        )
        self.decision = decision = decide(observation, self.policy, self.history, now_ms)
        self.history = decision.history
        again_ms = decision.next_check_ms - self.epoch_ms
        if seen.waiting or seen.active:  # a queue with jobs is polled, one without is watched
            return Look(decision.replicas, min(again_ms, seen.now_ms + self.poll_ms))
        return Look(decision.replicas, again_ms, wake_ms=round(LONGEST_MS))
