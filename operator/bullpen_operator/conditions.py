"""What is told of a JobQueue by conditions: which there are, and what of that which is known makes each so. Pure.

A condition is judged anew each time from what is known, never changed step by step; only the time of its last transition
comes from the one before. What is not known is Unknown, not False.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen_operator.kube.kinds import Object
from bullpen_operator.scaling.units import ScalingState

Status = Literal["True", "False", "Unknown"]

ORDER: Final = (
    "Ready",
    "Reconciling",
    "Stalled",
    "RedisReachable",
    "QueueOwned",
    "WorkersAvailable",
    "WorkersOutdated",
    "ScalingActive",
    "ScalingLimited",
    "PriorityInversion",
    "Paused",
)
"""All there are, in the order in which they are written."""

FIGURES: Final = frozenset({"Reconciling", "ScalingActive", "ScalingLimited", "WorkersAvailable", "PriorityInversion"})
"""Those whose message has figures that change all the time: they are written along with other changes only."""

LONGEST_MESSAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition without its times."""

    status: Status
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a JobQueue from being as its spec says."""

    reason: str
    message: str
    stalled: bool = True
    """Whether somebody has to do something; else it is tried again."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a reconcile found out and did."""

    generation: int
    spec: JobQueueSpec | None = None
    """What runs: the last good spec, not always the one of this generation."""

    problem: Problem | None = None
    notices: tuple[str, ...] = ()
    """What is worth knowing and stops nothing."""

    redis_trouble: str = ""
    redis_known: bool = False
    """Whether Redis was asked at all."""

    owned: bool | None = None
    owner_message: str = ""
    queue: str = ""
    prefix: str = ""
    binding: str = ""
    deleting: str = ""
    """How far the deletion is, in words; empty while there is none."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a Deployment, or another target, says of its pods."""

    exists: bool = False
    wanted: int = 0
    replicas: int = 0
    updated: int = 0
    available: int = 0
    observed: bool = True
    """Whether its controller has seen its latest spec."""
    failing: str = ""
    """Its own controller's word for why it cannot make pods; empty when it can."""
    selector: str = ""

    @property
    def rolling(self) -> bool:
        """Whether pods are being replaced."""
        return self.exists and (not self.observed or self.updated < min(self.wanted, self.replicas or self.wanted))


@dataclass(frozen=True, slots=True)
class Known:
    """All that conditions are judged by."""

    facts: Facts
    fleet: Fleet = field(default_factory=Fleet)
    scaling: ScalingState | None = None
    redis_down: str = ""
    """Why Redis cannot be read, once that has lasted a while."""


def fleet_of(target: Object | None) -> Fleet:
    """Read the state of a target: a Deployment, or what looks like one."""
    if target is None:
        return Fleet()
    spec, status = target.get("spec") or {}, target.get("status") or {}
    failing = ""
    for each in status.get("conditions") or ():
        if each.get("type") == "ReplicaFailure" and each.get("status") == "True":
            failing = f"{each.get('reason', 'ReplicaFailure')}: {each.get('message', '')}"
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return Fleet(
        exists=True,
        wanted=spec.get("replicas", 1),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        observed=status.get("observedGeneration", 0) >= target["metadata"].get("generation", 0),
        failing=failing,
        selector=",".join(f"{name}={value}" for name, value in sorted(labels.items())),
    )


def judge(known: Known) -> dict[str, Verdict]:
    """Give the verdict on each condition, by its type."""
    verdicts = {
        "RedisReachable": _redis(known),
        "QueueOwned": _owned(known.facts),
        "WorkersAvailable": _workers(known),
        "WorkersOutdated": _outdated(known),
        "ScalingActive": _scaling(known),
        "ScalingLimited": _limited(known),
        "PriorityInversion": _inversion(known),
        "Paused": _paused(known),
    }
    problem = _problem(known, verdicts)
    verdicts["Ready"] = _ready(known, problem)
    verdicts["Reconciling"] = _reconciling(known, problem)
    stalled = problem is not None and problem.stalled
    verdicts["Stalled"] = (
        Verdict("True", problem.reason, problem.message)
        if problem is not None and stalled
        else Verdict("False", "NotStalled", "Nothing waits for somebody to act.")
    )
    return {name: verdicts[name] for name in ORDER}


def write(verdicts: Mapping[str, Verdict], before: Iterable[Object], *, generation: int, now: str) -> Sequence[Object]:
    """Give the conditions as the API server takes them; the time of the last transition is kept where there was none."""
    old = {each.get("type"): each for each in before}
    written = []
    for name, verdict in verdicts.items():
        known = old.get(name)
        kept = known is not None and known.get("status") == verdict.status
        written.append(
            {
                "type": name,
                "status": verdict.status,
                "observedGeneration": generation,
                "lastTransitionTime": known["lastTransitionTime"] if known is not None and kept else now,
                "reason": verdict.reason,
                "message": verdict.message[:LONGEST_MESSAGE],
            }
        )
    return written


# -- each ----------------------------------------------------------------------------------------------------------


def _problem(known: Known, verdicts: Mapping[str, Verdict]) -> Problem | None:
    """Give what keeps the JobQueue from being ready: what was found first on the way from the spec to the pods."""
    facts = known.facts
    if facts.problem is not None:
        return facts.problem
    if facts.deleting:
        return Problem("Deleting", facts.deleting, stalled=False)
    redis = verdicts["RedisReachable"]
    if redis.status != "True":
        return Problem(redis.reason, redis.message, stalled=False)
    if known.scaling is not None and known.scaling.trouble:
        return Problem("ScaleTarget", known.scaling.trouble)
    workers = verdicts["WorkersAvailable"]
    if workers.status == "False":
        return Problem(workers.reason, workers.message, stalled=False)
    return None


def _ready(known: Known, problem: Problem | None) -> Verdict:
    if problem is None:
        notices = " ".join(f"{notice}." for notice in known.facts.notices)
        text = "The queue is declared, and its objects are as the spec says."
        return Verdict("True", "AsDeclared", f"{text} {notices}".strip())
    return Verdict("False", problem.reason, problem.message)


def _reconciling(known: Known, problem: Problem | None) -> Verdict:
    if problem is not None and not problem.stalled:
        return Verdict("True", problem.reason, problem.message)
    if known.facts.spec is not None and known.facts.spec.worker is not None and known.fleet.rolling:
        fleet = known.fleet
        return Verdict("True", "Rollout", f"{fleet.updated} of {fleet.wanted} pods are of the latest template.")
    return Verdict("False", "UpToDate", "Nothing is under way.")


def _redis(known: Known) -> Verdict:
    trouble = known.redis_down or known.facts.redis_trouble
    if trouble:
        return Verdict("False", "RedisUnreachable", f"{trouble}. Workers and replicas stay as they are.")
    if not known.facts.redis_known:
        return Verdict("Unknown", "NotAsked", "Redis was not asked: see the condition Ready.")
    return Verdict("True", "Answers", "Redis answers.")


def _owned(facts: Facts) -> Verdict:
    if facts.owned is None:
        return Verdict("Unknown", "NotAsked", "Whose the queue is was not asked: see the condition Ready.")
    if facts.owned:
        return Verdict("True", "Owned", f'The queue "{facts.queue}" (prefix "{facts.prefix}") is this JobQueue\'s.')
    return Verdict("False", "OwnedElsewhere", facts.owner_message)


def _workers(known: Known) -> Verdict:
    spec, fleet, scaling = known.facts.spec, known.fleet, known.scaling
    if spec is None:
        return Verdict("Unknown", "NotKnown", "No valid spec was seen yet.")
    if spec.worker is None and spec.scale_target_ref is None:
        return Verdict("Unknown", "NoWorkers", "The spec has no workers: who works on the queue is not known here.")
    return _pods(fleet, scaling)


def _pods(fleet: Fleet, scaling: ScalingState | None) -> Verdict:
    if scaling is not None and scaling.cannot_start:
        reason, _, text = scaling.cannot_start.partition(":")
        word = reason if reason.isalnum() else "PodsCannotStart"
        return Verdict("False", "WorkersCannotStart", f"Pods cannot start: {word}: {text.strip()}")
    if fleet.failing:
        return Verdict("False", "WorkersCannotStart", f"Pods cannot be made: {fleet.failing}")
    if not fleet.exists:
        return Verdict("Unknown", "NoTarget", "There is nothing yet that runs workers.")
    if fleet.available == 0 and fleet.wanted > 0:
        return Verdict("Unknown", "Starting", f"{fleet.wanted} are wanted, none is available yet.")
    if fleet.wanted > 0:
        return Verdict("True", "Available", f"{fleet.available} of {fleet.wanted} are available.")
    return Verdict("True", "ScaledToZero", "No worker is wanted now.")


def _outdated(known: Known) -> Verdict:
    outdated = known.scaling.crew.outdated if known.scaling is not None else 0
    if outdated:
        text = (
            f"{outdated} workers speak another version of the protocol than this operator: build their image with the "
            "operator's version of Bullpen, or upgrade the operator where they are newer."
        )
        return Verdict("True", "ProtocolDiffers", text)
    return Verdict("False", "UpToDate", "No worker is known that speaks another version of the protocol.")


def _scaling(known: Known) -> Verdict:
    spec, scaling = known.facts.spec, known.scaling
    if spec is None or (spec.worker is None and spec.scale_target_ref is None):
        return Verdict("False", "NothingToScale", "The spec names nothing to scale.")
    if spec.scaling_mode == "Hold":
        return Verdict("False", "Hold", "Mode Hold keeps the replicas that there are.")
    if spec.scaling_mode == "Manual":
        return Verdict("False", "Manual", f"Mode Manual: spec.replicas is {spec.replicas}.")
    if known.redis_down:
        return Verdict("False", "RedisUnreachable", "The queue cannot be read: the replicas stay as they are.")
    return _following(scaling)


def _following(scaling: ScalingState | None) -> Verdict:
    if scaling is not None and scaling.trouble:
        return Verdict("False", "ScaleTarget", scaling.trouble)
    if scaling is None or scaling.desired is None:
        return Verdict("Unknown", "NotDecided", "No decision was taken yet.")
    return Verdict("True", "FollowsWork", scaling.message or "The number of replicas follows the work.")


def _limited(known: Known) -> Verdict:
    scaling = known.scaling
    if scaling is None or not scaling.limited:
        return Verdict("False", "NotLimited", "The number of replicas is what the work asks for.")
    last = scaling.limited[-1]
    return Verdict("True", str(last.reason), last.message)


def _inversion(known: Known) -> Verdict:
    spec, reading = known.facts.spec, known.scaling.reading if known.scaling is not None else None
    none = Verdict("False", "NoInversion", "No job without a priority is known to go before those that have one.")
    if spec is None or reading is None or not (reading.waiting and reading.prioritized):
        return none
    if spec.priorities is not None and spec.priorities.unprioritized == "Demote" and spec.worker is not None:
        return none  # workers file them anew within seconds
    text = (
        f"{reading.waiting} jobs without a priority go before {reading.prioritized} that have one, the most urgent included: "
        "have their producers give them one, or set spec.priorities"
    )
    return Verdict("True", "JobsWithoutPriority", text)


def _paused(known: Known) -> Verdict:
    spec, reading = known.facts.spec, known.scaling.reading if known.scaling is not None else None
    if reading is not None and reading.paused:
        by = "by spec.paused" if spec is not None and spec.paused else "by command line, console or Node code"
        return Verdict("True", "Paused", f"The queue is paused {by}: no job starts.")
    if reading is None:
        return Verdict("Unknown", "NotRead", "The queue was not read yet.")
    return Verdict("False", "Running", "Jobs may start.")
