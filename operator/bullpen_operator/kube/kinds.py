"""The kinds of objects that the operator reads or writes, and the names that it goes by towards the API server."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

Object = dict[str, Any]
"""An object as the API server writes it in JSON. Its shape is its kind's, and newer than we are: so a plain dict."""

GROUP: Final = "bullpen.dev"
VERSION: Final = "v1alpha1"

MANAGER: Final = "bullpen"
"""Field manager of all that the operator applies, replicas left out."""

SCALER_MANAGER: Final = "bullpen-scaler"
"""Field manager of `spec.replicas`, through the scale subresource."""

STATUS_MANAGER: Final = "bullpen-status"
"""Field manager of the status of our kinds."""

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_PART_OF: Final = "app.kubernetes.io/part-of"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "bullpen"
LABEL_JOBQUEUE: Final = "bullpen.dev/jobqueue"
LABEL_SCALED_BY: Final = "bullpen.dev/scaled-by"
"""What a scale target of somebody else carries: the name of the JobQueue that may scale it."""

FINALIZER: Final = "bullpen.dev/queue"
"""Held by JobQueues whose deletion drains or deletes the queue; those that retain it have none."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, as it stands in paths (`plural`) and in objects (`kind`). The core group is empty."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What objects of the kind have as `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Give the path of one object, or of all in a namespace, or of all there are."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)

    def __str__(self) -> str:
        return self.kind


class Key(NamedTuple):
    """One object: of what kind, where, which. `namespace` is empty for what is in none."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind.kind, self.namespace, self.name) if part)


JOBQUEUE: Final = Kind(GROUP, VERSION, "jobqueues", "JobQueue")
REDIS_CONNECTION: Final = Kind(GROUP, VERSION, "redisconnections", "RedisConnection")
CLUSTER_REDIS_CONNECTION: Final = Kind(
    GROUP, VERSION, "clusterredisconnections", "ClusterRedisConnection", namespaced=False
)
DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
REPLICASET: Final = Kind("apps", "v1", "replicasets", "ReplicaSet")
STATEFULSET: Final = Kind("apps", "v1", "statefulsets", "StatefulSet")
CONTROLLER_REVISION: Final = Kind("apps", "v1", "controllerrevisions", "ControllerRevision")
POD: Final = Kind("", "v1", "pods", "Pod")
SECRET: Final = Kind("", "v1", "secrets", "Secret")
CONFIGMAP: Final = Kind("", "v1", "configmaps", "ConfigMap")
SERVICE_ACCOUNT: Final = Kind("", "v1", "serviceaccounts", "ServiceAccount")
NAMESPACE: Final = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
POD_DISRUPTION_BUDGET: Final = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
HORIZONTAL_POD_AUTOSCALER: Final = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")
EVENT: Final = Kind("events.k8s.io", "v1", "events", "Event")
CRD: Final = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

KINDS: Final = (
    JOBQUEUE,
    REDIS_CONNECTION,
    CLUSTER_REDIS_CONNECTION,
    DEPLOYMENT,
    REPLICASET,
    STATEFULSET,
    CONTROLLER_REVISION,
    POD,
    SECRET,
    CONFIGMAP,
    SERVICE_ACCOUNT,
    NAMESPACE,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
    HORIZONTAL_POD_AUTOSCALER,
    LEASE,
    EVENT,
    CRD,
)
_BY_NAME: Final = {(kind.api_version, kind.kind): kind for kind in KINDS}


def kind_of(obj: Object) -> Kind:
    """Give the kind of an object by its `apiVersion` and `kind`. Raises KeyError for one that is not in this module."""
    return _BY_NAME[obj["apiVersion"], obj["kind"]]


def by_name(api_version: str, kind: str) -> Kind:
    """Give a namespaced kind by its names; of one that is not known here, the plural is made as Kubernetes' own tools do."""
    known = _BY_NAME.get((api_version, kind))
    if known is not None:
        return known
    group, _, version = api_version.rpartition("/")
    lowered = kind.lower()
    if lowered.endswith(("s", "x", "z", "ch", "sh")):
        plural = f"{lowered}es"
    elif lowered.endswith("y") and lowered[-2:-1] not in set("aeiou"):
        plural = f"{lowered[:-1]}ies"
    else:
        plural = f"{lowered}s"
    return Kind(group, version, plural, kind)


def key_of(kind: Kind, obj: Object) -> Key:
    """Give the key of an object."""
    metadata = obj["metadata"]
    return Key(kind, metadata.get("namespace", "") if kind.namespaced else "", metadata["name"])


def labels_of(obj: Object) -> dict[str, str]:
    """Give the labels of an object."""
    found: dict[str, str] = obj.get("metadata", {}).get("labels") or {}
    return found
