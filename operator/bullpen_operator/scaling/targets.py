"""What is scaled, as the cache has it: how many replicas it is set to, at which version, and whether it is rolled out.

What we wrote ourselves is newer than what the informers have told of it: `Written` bridges that, so that no decision is
taken on the number before our own last write.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bullpen_operator.cache import version_number
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Object
from bullpen_operator.scaling.pods import HASH, PodView
from bullpen_operator.scaling.units import ScaleUnit, Target

SCALED: Final = (kinds.DEPLOYMENT, kinds.STATEFULSET)
"""What is watched, and what the operator's roles let it scale."""


@dataclass(frozen=True, slots=True)
class Written:
    """What our last write made of a target."""

    uid: str
    version: str
    replicas: int

    def made(self, obj: Object) -> bool:
        """Whether this is the target just as the write left it: whoever wrote it hears nothing new."""
        metadata = obj["metadata"]
        return bool(metadata.get("uid") == self.uid and metadata.get("resourceVersion") == self.version)


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target at one moment."""

    uid: str
    version: str
    """The resource version that a write must carry."""
    replicas: int
    present: int
    """Pods that its controller says there are."""
    ready: int
    rolling_out: bool

    @classmethod
    def of(
        cls, obj: Object, pods: Iterable[PodView], replicasets: Iterable[Object], written: Written | None
    ) -> "TargetView":
        """Read a target; `pods` and `replicasets` are its own."""
        metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
        uid, version = metadata.get("uid", ""), metadata.get("resourceVersion", "")
        replicas = spec.get("replicas")
        count = 1 if replicas is None else int(replicas)
        if written is not None and written.uid == uid and version_number(obj) < _number(written.version):
            version, count = written.version, written.replicas
        return cls(
            uid=uid,
            version=version,
            replicas=count,
            present=int(status.get("replicas") or 0),
            ready=int(status.get("readyReplicas") or 0),
            rolling_out=len(_revisions(pods, replicasets)) > 1,
        )


def refusal(unit: ScaleUnit[object], target: Target, obj: Object | None) -> str:
    """Say why this target must not be scaled; empty when it may.

    Somebody else's workload carries a label with the JobQueue's name, put there by whoever owns it: else a tenant that
    may make JobQueues could scale what it may not touch. Our own is controlled by the JobQueue.
    """
    what = f"{target.kind} {target.name!r}"
    if target.foreign:
        return _refusal_of_foreign(unit, target, obj, what)
    if obj is None:
        return f"{what} is not there yet"
    owners = obj["metadata"].get("ownerReferences") or ()
    if unit.uid and not any(owner.get("uid") == unit.uid for owner in owners):
        return f"{what} belongs to somebody else: it is left alone"
    return ""


def _refusal_of_foreign(unit: ScaleUnit[object], target: Target, obj: Object | None, what: str) -> str:
    label = f"the label {kinds.LABEL_SCALED_BY}={unit.key.name}: label it to have it scaled"
    if target.kind not in SCALED:
        return f"{what}: only a Deployment or a StatefulSet of apps/v1 can be scaled"
    if obj is None:
        return f"{what} is not there, or does not carry {label}"
    if kinds.labels_of(obj).get(kinds.LABEL_SCALED_BY) != unit.key.name:
        return f"{what} does not carry {label}"
    return ""


def replicasets_of(obj: Object, replicasets: Iterable[Object]) -> list[Object]:
    """Give the ReplicaSets that a Deployment controls."""
    uid = obj["metadata"].get("uid", "")
    return [
        replicaset
        for replicaset in replicasets
        if any(owner.get("uid") == uid for owner in replicaset["metadata"].get("ownerReferences") or ())
    ]


def _revisions(pods: Iterable[PodView], replicasets: Iterable[Object]) -> set[str]:
    found = {pod.revision for pod in pods if not pod.going}
    found |= {
        kinds.labels_of(replicaset).get(HASH, "")
        for replicaset in replicasets
        if (replicaset.get("spec") or {}).get("replicas")
    }
    return found


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
