"""What the scaler is told of a JobQueue, and what it tells of it: plain values."""

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from bullpen.queue.keys import QueueKeys
from bullpen.queue.observation import Reading
from bullpen.scaling import Limited, ScalingPolicy
from bullpen_operator.kube.kinds import Key, Kind

Ref_co = TypeVar("Ref_co", covariant=True)

Shrink = Literal["Graceful", "WhenIdle"]


@dataclass(frozen=True, slots=True)
class Target:
    """What is scaled: our own Deployment, whose workers can retire, or somebody else's workload."""

    kind: Kind
    namespace: str
    name: str
    foreign: bool = False
    shrink: Shrink = "Graceful"
    """Of foreign workers: whether to shrink only while no job runs."""

    @property
    def key(self) -> Key:
        """The target as an object of the cache."""
        return Key(self.kind, self.namespace, self.name)


@dataclass(frozen=True, kw_only=True)
class ScaleUnit(Generic[Ref_co]):
    """One JobQueue in the scaler's care. Made anew from the last good spec at each change of it; compared by value."""

    key: Key
    uid: str
    keys: QueueKeys
    redis: Ref_co
    """Which Redis, as the pool of connections takes it."""
    policy: ScalingPolicy
    target: Target | None
    """None where nobody's workers are to be scaled: the queue is only observed."""
    protect: bool = True
    """Whether busy pods are marked for those who drain nodes (`disruption: Protect`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The workers of a queue as they are counted for status and metrics."""

    replicas: int = 0
    """What the target is set to."""
    ready: int = 0
    starting: int = 0
    busy: int | None = None
    """Pods that run a job; None where that is not known."""
    retiring: int = 0
    outdated: int = 0
    """Workers of another protocol than the operator's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingState:
    """What the scaler knows of a JobQueue and has decided; for status, conditions and metrics. Times in ms since 1970."""

    reading: Reading | None
    """The last reading that succeeded; None before the first."""
    redis_trouble: str = ""
    """Why the queue cannot be read now; empty when it can."""
    desired: int | None = None
    """The number that was decided on; None before the first decision."""
    reason: str = ""
    message: str = ""
    decided_ms: int | None = None
    limited: tuple[Limited, ...] = ()
    cannot_start: str = ""
    """Why pods cannot start, or have not for minutes: one CamelCase word, a colon, and Kubernetes' own words."""
    trouble: str = ""
    """What keeps the scaler from acting, when something does: no target, the API server refuses, it is not labelled."""
    absent: bool = False
    """Whether our own target is not there, or not yet: there are no replicas."""
    crew: Crew = field(default_factory=Crew)
