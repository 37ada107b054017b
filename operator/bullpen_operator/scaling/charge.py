"""One JobQueue in the scaler's care: what was seen of it last, what was decided, and what is to be done. No I/O.

A charge belongs to the scaler's event loop. `consider` may be called at any time: it takes what is known now, decides,
and says what is to be done; deciding twice on the same comes to the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from bullpen.cron import CronInvalid
from bullpen.queue.observation import Reading
from bullpen.scaling import Decision, Limited, Reason
from bullpen.scaling.decide import LOOK_AGAIN_MS
from bullpen.scaling.observation import FIRST_STARTUP_MS
from bullpen_operator.kube.kinds import Object
from bullpen_operator.scaling import decider, pods, retire, targets
from bullpen_operator.scaling.crew import PROTOCOL
from bullpen_operator.scaling.decider import Memory, Workforce
from bullpen_operator.scaling.looking import Sight
from bullpen_operator.scaling.pods import PodView
from bullpen_operator.scaling.protection import Marks
from bullpen_operator.scaling.retire import Fleet, Plan
from bullpen_operator.scaling.targets import TargetView, Written
from bullpen_operator.scaling.units import Crew, ScaleUnit, ScalingState

Ref = TypeVar("Ref")

SHRINKING_MS: Final = 1_000
"""How soon a fleet is looked at again that is on its way down."""
COUNTS_EVERY_MS: Final = 30_000
"""Counts alone are news no more often than this."""
WRITTEN_MS: Final = 60_000
"""Our own write counts before the cache for so long: it tells of all others, and may come to tell of an earlier state again."""
_MOVED_SHARE: Final = 0.1
_MISLEADING_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Todo:
    """What is to be done for a charge now."""

    target: TargetView
    plan: Plan
    marks: Mapping[str, bool] = field(default_factory=dict)
    """Pods to be marked as busy, or no longer."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        plan = self.plan
        return not (plan.retire or plan.lift or plan.costs or self.marks) and plan.replicas is None


@dataclass(frozen=True, slots=True)
class Around:
    """What the cache holds for a charge."""

    target: Object | None
    pods: Iterable[Object] = ()
    replicasets: Iterable[Object] = ()


@dataclass(eq=False)
class Charge(Generic[Ref]):
    """See the module."""

    unit: ScaleUnit[Ref]
    sight: Sight | None = None
    unseen: str = ""
    """Why the queue cannot be read now."""
    memory: Memory = field(default_factory=Memory)
    decision: Decision | None = None
    written: Written | None = None
    """What our last write of the number made of the target, until the cache must have heard of it."""
    refused: str = ""
    """Why the API server does not let us act, after it said so."""
    marks: Marks = field(default_factory=Marks)
    state: ScalingState = field(default_factory=lambda: ScalingState(reading=None))
    look_again_ms: int | None = None
    """When to decide again, by Redis' clock; None where nothing calls for it."""
    _written_ms: int = 0
    _first_starts: set[str] = field(default_factory=set)
    _began: bool = False
    _told: ScalingState | None = None
    _told_ms: int = 0

    @property
    def horizon_ms(self) -> int:
        """How far ahead delayed jobs count as due: a pod's start-up time."""
        return FIRST_STARTUP_MS if self.memory.startup_ms is None else self.memory.startup_ms

    def see(self, sight: Sight) -> None:
        """Take a reading. What was remembered in Redis counts where nothing was read yet."""
        if self.sight is None and sight.remembered and (memory := Memory.from_json(sight.remembered)) is not None:
            self.memory = memory
            self._began = False  # also where something was decided meanwhile, for want of Redis: to hold
        self.sight, self.unseen = sight, ""

    def wrote(self, written: Written, now_ms: int) -> None:
        """Take what a write of the number made of the target."""
        self.written, self._written_ms = written, now_ms

    def consider(self, around: Around, now_ms: int) -> Todo | None:
        """Decide on what is known, and say what is to be done; None where nothing can be."""
        self.look_again_ms = None
        unit, target = self.unit, self.unit.target
        if self.sight is None and not self.unseen:
            return None
        if target is None:
            self._settle(None, Crew(), now_ms)
            return None
        refusal = targets.refusal(unit, target, around.target)
        if refusal or around.target is None:
            self.decision = None
            is_awaited = around.target is None and not target.foreign  # the reconciler is about to make it
            self._settle(None, Crew(), now_ms, trouble="" if is_awaited else refusal, absent=is_awaited)
            return None
        workforce = self._workforce(around, now_ms)
        if not self._began:
            self._began = True
            self.memory = self.memory.taken_over(workforce.target.replicas, now_ms)
        reading: Reading | str = self.unseen or (self.sight.reading if self.sight is not None else "")
        try:
            decision, self.memory = decider.judge(reading, workforce, unit.policy, self.memory, now_ms)
        except CronInvalid as error:
            # The checks refuse such a window; should one come through, what runs is held.
            self._settle(None, self._crew(workforce), now_ms, trouble=f"a window cannot be read: {error}")
            return None
        self.decision = decision
        todo = self._todo(workforce, decision, now_ms)
        if todo.nothing:
            self.refused = ""  # what was not allowed is not asked for any more
        self._plan_next(decision, todo, workforce.fleet, now_ms)
        if todo.plan.held:
            held = Limited(Reason.ROLLOUT, todo.target.replicas, todo.plan.waits)
            decision = replace(decision, limited=(*decision.limited, held))
        notes = [todo.plan.waits, pods.unschedulable(workforce.pods)]
        self._settle(
            decision,
            self._crew(workforce),
            now_ms,
            trouble=self.refused,
            notes=notes,
            cannot_start=workforce.cannot_start or self._stranded(workforce, now_ms),
        )
        return todo

    def fail(self, why: str) -> None:
        """Hold what runs: something about this queue is such that it cannot be decided on."""
        self.decision = None
        self.state = replace(self.state, trouble=why)

    def news(self, now_ms: int) -> bool:
        """Say whether status has something to tell that it was not told yet; asking counts as telling."""
        before, after = self._told, self.state
        if before is not None and _facts(before) == _facts(after):
            is_due = now_ms - self._told_ms >= COUNTS_EVERY_MS or now_ms < self._told_ms
            if not (is_due and _moved(before.reading, after.reading)):
                return False
        self._told, self._told_ms = after, now_ms
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    def _workforce(self, around: Around, now_ms: int) -> Workforce:
        unit, target = self.unit, self.unit.target
        assert target is not None  # noqa: S101 - `consider` has looked
        assert around.target is not None  # noqa: S101
        # A pod of no template is none of the Deployment's, whatever its other labels: somebody made it by hand.
        views = [view for view in map(PodView.of, around.pods) if view.revision]
        replicasets = targets.replicasets_of(around.target, around.replicasets)
        if not 0 <= now_ms - self._written_ms < WRITTEN_MS:
            self.written = None
        view = TargetView.of(around.target, views, replicasets, self.written)
        fleet = None
        if not target.foreign:
            roll = self.sight.roll if self.sight is not None else None
            fleet = Fleet.of(
                view.replicas, views, roll, now_ms=now_ms, rolling_out=view.rolling_out, present=view.present
            )
            self._learn_starts(fleet, views)
        return Workforce(
            target=view,
            pods=views,
            fleet=fleet,
            slots=unit.policy.slots,
            cannot_start=pods.cannot_start(views, [around.target, *replicasets], now_ms=now_ms),
        )

    def _learn_starts(self, fleet: Fleet, views: Iterable[PodView]) -> None:
        """Learn from pods that become ready for the first time; one that was retired in between says nothing."""
        retired = {member.pod.uid for member in fleet.members if member.order is not None}
        known = self._first_starts
        self._first_starts = set()
        for pod in views:
            if pod.starting and pod.uid not in retired:
                self._first_starts.add(pod.uid)
            elif pod.uid in known and pod.startup_ms is not None:
                self.memory = self.memory.with_startup(pod.startup_ms)

    def _todo(self, workforce: Workforce, decision: Decision, now_ms: int) -> Todo:
        fleet, view = workforce.fleet, workforce.target
        if fleet is None:
            number = None if decision.replicas == view.replicas else decision.replicas
            return Todo(view, Plan(replicas=number))
        if self.unseen:
            # Orders cannot be given now, and who is busy is not known: only growth, which Manual alone asks for.
            number = decision.replicas if decision.replicas > view.replicas else None
            return Todo(view, Plan(replicas=number))
        self.marks = self.marks.after(fleet.members, now_ms)
        marks = self.marks.wanted(fleet.members, now_ms, protect=self.unit.protect)
        return Todo(view, retire.plan(fleet, decision.replicas), marks)

    def _plan_next(self, decision: Decision, todo: Todo, fleet: Fleet | None, now_ms: int) -> None:
        moments = []
        if decision.next_check_ms < now_ms + LOOK_AGAIN_MS:
            moments.append(decision.next_check_ms)
        shrinks = decision.replicas < todo.target.replicas or (fleet is not None and bool(fleet.orders))
        if shrinks or not todo.nothing:
            moments.append(now_ms + SHRINKING_MS)
        self.look_again_ms = min(moments, default=None)

    def _stranded(self, workforce: Workforce, now_ms: int) -> str:
        fleet = workforce.fleet
        members = fleet.members if fleet is not None and fleet.whole and not self.unseen else ()
        unheard = {member.pod.uid for member in members if member.worker is None}
        return pods.stranded(workforce.pods, unheard, now_ms=now_ms)

    def _crew(self, workforce: Workforce) -> Crew:
        crew = workforce.crew()
        members = workforce.fleet.members if workforce.fleet is not None else ()
        outdated = sum(member.worker is not None and member.worker.protocol != PROTOCOL for member in members)
        return replace(crew, outdated=outdated) if outdated else crew

    def _settle(
        self,
        decision: Decision | None,
        crew: Crew,
        now_ms: int,
        *,
        trouble: str = "",
        notes: Iterable[str] = (),
        cannot_start: str = "",
        absent: bool = False,
    ) -> None:
        reading = self.sight.reading if self.sight is not None else None
        before = self.state
        if decision is None:
            self.state = ScalingState(
                reading=reading,
                redis_trouble=self.unseen,
                crew=crew,
                trouble=trouble,
                cannot_start=cannot_start,
                absent=absent,
            )
            return
        is_same = (before.desired, before.reason) == (decision.replicas, str(decision.reason))
        self.state = ScalingState(
            reading=reading,
            redis_trouble=self.unseen,
            desired=decision.replicas,
            reason=str(decision.reason),
            message="; ".join(part for part in (decision.message, *notes) if part),
            decided_ms=before.decided_ms if is_same and before.decided_ms is not None else now_ms,
            limited=decision.limited,
            cannot_start=cannot_start,
            trouble=trouble,
            crew=crew,
        )


def _facts(state: ScalingState) -> tuple[object, ...]:
    """What is news at once: all but figures that move with every job."""
    crew, reading = state.crew, state.reading
    return (
        state.redis_trouble,
        state.desired,
        state.reason,
        tuple(limit.reason for limit in state.limited),
        state.cannot_start,
        state.trouble,
        (crew.replicas, crew.ready, crew.retiring, crew.outdated),
        reading is None,
        reading is not None and reading.paused,
    )


def _moved(before: Reading | None, after: Reading | None) -> bool:
    """Whether a count crossed zero or moved by a tenth, or the oldest job told of is long gone."""
    if before is None or after is None:
        return before is not after
    if before.oldest_ms is not None and after.oldest_ms is not None:
        age_ms = after.at_ms - after.oldest_ms
        if after.oldest_ms - before.oldest_ms > max(_MISLEADING_MS, age_ms):
            return True
    pairs = (
        (before.backlog, after.backlog),
        (before.delayed, after.delayed),
        (before.active, after.active),
        (before.completed, after.completed),
        (before.failed, after.failed),
    )
    return any((was == 0) != (now == 0) or abs(now - was) > _MOVED_SHARE * was for was, now in pairs)
