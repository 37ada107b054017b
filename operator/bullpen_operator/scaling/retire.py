"""How a fleet shrinks without cutting a job: who retires, who may go, and how far the number goes down now. Pure.

Level-based: the plan follows from what is seen, so an operator that takes over, or one that comes back after an hour, goes
on where things are. The orders are leases in Redis, and what nobody renews does not count.

Who holds an order is told by the pods that are there and the number that was decided on, not by what the target is set
to: between the write and the end of a pod that it meant, the pod keeps its order, or it would take a job on its last
breath; and when another pod went in its place, the number is right, and it is un-retired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bullpen_operator.scaling.crew import Order, Roll, Worker
from bullpen_operator.scaling.looking import Retiree
from bullpen_operator.scaling.pods import PodView

COST: Final = "-1000"
"""The deletion cost of a pod that is meant to go."""
RENEW_MS: Final = 20_000
"""An order with less time left than this is renewed."""
SAFE_MS: Final = 8_000
"""An order must hold for so long yet, so that a pod that goes on its account cannot have gone back to work."""
FRESH_MS: Final = 15_000
"""A worker that was not heard of for longer is not believed to be idle. It beats every 5 s, retiring every second."""
MUTE_MS: Final = 60_000
"""A container that has run for so long without a worker in it that is ready, or was ever heard of, takes no jobs."""
START_SLACK_MS: Final = 2_000
"""Kubernetes writes whole seconds."""


@dataclass(frozen=True, slots=True)
class Member:
    """A pod and what is known of the worker in it."""

    pod: PodView
    worker: Worker | None
    order: Order | None
    """An order to this very worker that still holds."""

    @property
    def busy(self) -> int:
        """How many jobs it runs, as far as is known."""
        return self.worker.busy if self.worker else 0

    @property
    def idle(self) -> bool:
        """Whether it is known to run nothing."""
        return self.worker is not None and self.worker.busy == 0

    def may_go(self, now_ms: int) -> bool:
        """Whether it takes no job any more and runs none: retired, idle, and seen so by Kubernetes; or never started."""
        pod, worker = self.pod, self.worker
        if pod.ready:
            return False
        if pod.started_ms is None:
            return True
        if worker is None:
            return now_ms - pod.started_ms > MUTE_MS
        if worker.busy or now_ms - worker.at_ms > FRESH_MS:
            return False
        if worker.state == "stopping":
            return True
        return worker.state == "retiring" and self.order is not None and self.order.deadline_ms - now_ms > SAFE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The pods of a target at one instant; `now_ms` by Redis' clock."""

    now_ms: int
    replicas: int
    """What the target is set to."""
    members: tuple[Member, ...]
    """Pods that are not on their way out."""
    orders: Mapping[str, Order]
    """All orders there are, by worker; those of pods that are on their way out are none of ours any more."""
    present: int = 0
    """Pods that the controller counts: more than the members where we do not see all of them yet."""
    rolling_out: bool = False
    """Pods of more than one template are there, or are about to be."""
    whole: bool = True
    """Whether workers and orders could be read."""
    leaving_jobs: int = 0
    """Jobs that run on pods that are on their way out."""

    @classmethod
    def of(
        cls,
        replicas: int,
        pods: Sequence[PodView],
        roll: Roll | None,
        *,
        now_ms: int,
        rolling_out: bool = False,
        present: int = 0,
    ) -> "Fleet":
        """Join the pods with their workers: an order counts for the worker it names, in the pod it was meant for."""
        known = roll or Roll(now_ms)
        members = []
        by_host = known.by_host()
        # Lifting the order of a pod that is being deleted would have it take a job before SIGTERM reaches it.
        going = {pod.name for pod in pods if pod.going}
        leaving = {worker.name for worker in known.workers.values() if worker.host in going}
        for pod in pods:
            if pod.going:
                continue
            worker = by_host.get(pod.name) if pod.started_ms is not None else None
            if worker is not None and worker.started_ms < (pod.started_ms or 0) - START_SLACK_MS:
                worker = None  # of the container before
            order = known.orders.get(worker.name) if worker else None
            if order is not None and (order.deadline_ms <= now_ms or order.pod not in {pod.uid, ""}):
                order = None
            members.append(Member(pod, worker, order))
        return cls(
            now_ms=now_ms,
            replicas=replicas,
            members=tuple(members),
            orders={name: order for name, order in known.orders.items() if name not in leaving},
            rolling_out=rolling_out,
            present=present,
            whole=roll is not None,
            leaving_jobs=sum(worker.busy for worker in known.workers.values() if worker.host in going),
        )

    @property
    def busy(self) -> int:
        """How many pods run a job."""
        return sum(member.busy > 0 for member in self.members)

    @property
    def retiring(self) -> int:
        """How many hold an order."""
        return sum(member.order is not None for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, in this order: orders, deletion costs, the number."""

    retire: Mapping[str, Retiree] = field(default_factory=dict)
    """Orders to give or to renew, by worker."""
    lift: tuple[str, ...] = ()
    costs: Mapping[str, str | None] = field(default_factory=dict)
    """Deletion costs to set, or (None) to take away, by pod."""
    replicas: int | None = None
    """What to set the target to; None to leave it."""
    waits: str = ""
    """What the shrink waits for, in words; empty when it waits for nothing."""
    held: bool = False
    """It waits for a rollout, which may take long."""


def plan(fleet: Fleet, desired: int) -> Plan:
    """Say what to do so that the fleet comes to `desired` replicas and no job is cut.

    Growing: orders are lifted first, what is missing then is added. Shrinking: the least busy retire, and the number goes
    down by those that are retired, idle and seen not ready, no more.
    """
    if not fleet.whole:
        # Whom an order would be for is not known; nor may a pod be taken away that might be at work.
        return Plan(replicas=desired if desired > fleet.replicas else None, waits="its workers cannot be read")
    chosen = _choose(fleet, desired)
    retire, lift = _orders(fleet, chosen)
    ready_to_go = [member for member in chosen if member.may_go(fleet.now_ms)]
    replicas, waits = _number(fleet, desired, chosen, ready_to_go)
    # Before they go, not while they finish: each of these is a write.
    marked = (
        {member.pod.name for member in ready_to_go} if replicas is not None and replicas < fleet.replicas else set()
    )
    keeps = {member.pod.name for member in chosen}
    costs: dict[str, str | None] = {}
    for member in fleet.members:
        name, cost = member.pod.name, member.pod.cost
        if name in marked and cost != COST:
            costs[name] = COST
        elif cost == COST and name not in keeps:
            costs[name] = None
    held = fleet.rolling_out and replicas is None and desired < fleet.replicas
    return Plan(retire=retire, lift=lift, costs=costs, replicas=replicas, waits=waits, held=held)


def _choose(fleet: Fleet, desired: int) -> list[Member]:
    """Choose who is to go: first who may already, then the idle, then who has an order, then the least busy.

    A rollout waits for pods to be ready, and who retires is not: so while one goes on nobody retires, and the fleet shrinks
    when it is over. Unless all are to go, or it is stuck, and would be waited for in vain: then pods of the part that runs do.
    """
    among = fleet.members
    if fleet.rolling_out and desired:
        stuck = _stuck(fleet)
        among = tuple(member for member in fleet.members if stuck and member.pod.revision not in stuck)
    # With a rollout there are more pods than replicas on purpose.
    count = max(0, (min(len(among), fleet.replicas) if fleet.rolling_out else len(among)) - desired)
    if desired == 0:
        count = len(among)

    def rank(member: Member) -> tuple[bool, bool, bool, int, int, str]:
        can_be_told = member.worker is not None or member.may_go(fleet.now_ms)
        return (
            not member.may_go(fleet.now_ms),
            not (can_be_told and member.busy == 0),
            member.order is None,
            member.busy,
            -member.pod.created_ms,  # of equals the youngest
            member.pod.name,
        )

    return sorted(among, key=rank)[:count]


def _orders(fleet: Fleet, chosen: Sequence[Member]) -> tuple[dict[str, Retiree], tuple[str, ...]]:
    retire: dict[str, Retiree] = {}
    kept = set()
    for member in chosen:
        if member.worker is None:
            continue
        kept.add(member.worker.name)
        if member.order is None or member.order.deadline_ms - fleet.now_ms < RENEW_MS:
            retire[member.worker.name] = Retiree(member.pod.uid, member.pod.started_ms or 0)
    return retire, tuple(sorted(fleet.orders.keys() - kept))


def _number(
    fleet: Fleet, desired: int, chosen: Sequence[Member], ready_to_go: Sequence[Member]
) -> tuple[int | None, str]:
    if desired >= fleet.replicas:
        return (desired if desired > fleet.replicas else None), ""
    excess = fleet.replicas - desired
    there = len(fleet.members)
    missing, doomed = max(0, fleet.replicas - max(there, fleet.present)), max(0, there - fleet.replicas)
    if fleet.rolling_out and desired == 0:
        step = excess if len(ready_to_go) == there else 0
    elif fleet.rolling_out:
        if not chosen:
            return None, f"a rollout goes on; then {excess} of {fleet.replicas} pods go"
        step = min(excess, len(ready_to_go))
    else:
        step = min(excess, missing + max(0, len(ready_to_go) - doomed))
    busy = [member for member in chosen if member.busy]
    jobs = sum(member.busy for member in busy)
    waits = ""
    if step < excess:
        working = f": {len(busy)} of them still run {jobs} job{'s' if jobs != 1 else ''}" if busy else ""
        waits = f"{excess - step} of {fleet.replicas} pods retire{working}"
    return (fleet.replicas - step if step else None), waits


def _stuck(fleet: Fleet) -> set[str]:
    """Give the templates of which no pod even starts, for a minute: with one of them there, a rollout goes nowhere."""
    found: dict[str, bool] = {}
    for member in fleet.members:
        is_young = fleet.now_ms - member.pod.created_ms < MUTE_MS
        starts = is_young or member.worker is not None or not member.may_go(fleet.now_ms)
        found[member.pod.revision] = found.get(member.pod.revision, False) or starts
    return {revision for revision, starts in found.items() if not starts}
