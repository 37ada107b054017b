"""One JobQueue as a reconcile takes it, and what the reconcile works with."""

from dataclasses import dataclass
from typing import Protocol

from bullpen import scaling
from bullpen.api.v1alpha1 import JobQueue
from bullpen.queue.declaration import Owner
from bullpen.queue.keys import QueueKeys
from bullpen_operator.cache import Cache
from bullpen_operator.children import Children
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.connections.resolve import Resolved
from bullpen_operator.desired import naming
from bullpen_operator.kube import kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.kinds import Key, Object
from bullpen_operator.kube.recorder import Recorder
from bullpen_operator.reporting import Reporter, States
from bullpen_operator.revisions import Revisions
from bullpen_operator.scaling.units import ScaleUnit, Target


class Scaler(States, Protocol):
    """What is asked of the scaler."""

    def put(self, unit: ScaleUnit[RedisRef]) -> None:
        """Take a JobQueue into its care, or the change of one."""
        ...

    def drop(self, key: Key) -> None:
        """Let go of a JobQueue."""
        ...


class Grants(Protocol):
    """Who may reach a queue, and by what: the user in Redis, and the binding."""

    async def ensure(self, obj: Object, jobqueue: JobQueue, found: Resolved, redis: Redis) -> str:
        """Make both as they are to be; give the name of the Secret."""
        ...

    async def drop(self, key: Key, found: Resolved, redis: Redis) -> None:
        """Take the user away; the Secret goes with its owner."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a reconcile works with."""

    kube: Kube
    cache: Cache
    children: Children
    revisions: Revisions
    redises: Redises
    grants: Grants
    scaler: Scaler
    reporter: Reporter
    recorder: Recorder


@dataclass(frozen=True, slots=True)
class Place:
    """Where a JobQueue's queue lies."""

    found: Resolved
    keys: QueueKeys
    uid: str
    """The JobQueue's: one that was made anew has to declare its queue anew."""


@dataclass(frozen=True, slots=True)
class Case:
    """One JobQueue whose spec can be used and whose connection is known."""

    key: Key
    obj: Object
    """As the API server has it; its spec is not the one in use where that is the last good one."""

    jobqueue: JobQueue
    place: Place
    owner: Owner
    target: Target | None

    @property
    def unit(self) -> ScaleUnit[RedisRef]:
        """What the scaler is given."""
        worker = self.jobqueue.spec.worker
        return ScaleUnit(
            key=self.key,
            uid=self.place.uid,
            keys=self.place.keys,
            redis=self.place.found.ref,
            policy=scaling.policy_of(self.jobqueue.spec),
            target=self.target,
            protect=worker is not None and worker.disruption == "Protect",
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile came to: a word for metrics, and when to look again sooner than at the resync."""

    word: str
    again_seconds: float | None = None
    failed: bool = False
    """Whether to try again, later each time."""


def case_of(key: Key, obj: Object, jobqueue: JobQueue, found: Resolved, *, cluster_id: str) -> Case:
    """Give the case of a JobQueue with its connection."""
    metadata = obj["metadata"]
    place = Place(found, QueueKeys(found.prefix, jobqueue.queue_name), metadata["uid"])
    owner = Owner(cluster_id, metadata["namespace"], metadata["name"], metadata["uid"])
    return Case(key, obj, jobqueue, place, owner, target_of(jobqueue))


def target_of(jobqueue: JobQueue) -> Target | None:
    """Give what is scaled for a JobQueue: its own Deployment, or what it names."""
    namespace = jobqueue.metadata.namespace or ""
    if jobqueue.spec.worker is not None:
        return Target(kinds.DEPLOYMENT, namespace, naming.workers(jobqueue.name))
    reference = jobqueue.spec.scale_target_ref
    if reference is None:
        return None
    kind = kinds.by_name(reference.api_version, reference.kind)
    return Target(kind, namespace, reference.name, foreign=True, shrink=reference.shrink)


def generation(obj: Object) -> int:
    """Give the generation of an object's spec."""
    found: int = obj["metadata"].get("generation", 0)
    return found
