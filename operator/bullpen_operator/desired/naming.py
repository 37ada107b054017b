"""Names, labels and owner of the objects that belong to a JobQueue. Pure.

What a selector goes by can never change on an object that is there (Kubernetes refuses it), so SELECTOR's two labels
stay as they are in every version to come.
"""

from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Object

COMPONENT_WORKER = "worker"


def workers(jobqueue: str) -> str:
    """Give the name of the Deployment, ServiceAccount, PodDisruptionBudget and NetworkPolicy."""
    return f"{jobqueue}-worker"


def binding(jobqueue: str) -> str:
    """Give the name of the binding Secret."""
    return f"{jobqueue}-binding"


def selector(jobqueue: str) -> dict[str, str]:
    """Give the labels by which the worker pods are found."""
    return {kinds.LABEL_JOBQUEUE: jobqueue, kinds.LABEL_COMPONENT: COMPONENT_WORKER}


def labels(jobqueue: str) -> dict[str, str]:
    """Give the labels of all that belongs to the JobQueue."""
    return {
        kinds.LABEL_NAME: jobqueue,
        kinds.LABEL_COMPONENT: COMPONENT_WORKER,
        kinds.LABEL_PART_OF: "bullpen",
        kinds.LABEL_MANAGED_BY: kinds.MANAGED_BY,
        kinds.LABEL_JOBQUEUE: jobqueue,
    }


def owner(jobqueue: Object) -> Object:
    """Give the reference by which the garbage collector takes what belongs to the JobQueue, when it goes."""
    return {
        "apiVersion": kinds.JOBQUEUE.api_version,
        "kind": kinds.JOBQUEUE.kind,
        "name": jobqueue["metadata"]["name"],
        "uid": jobqueue["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(jobqueue: Object, name: str) -> Object:
    """Give the metadata of an object of this name that belongs to the JobQueue."""
    return {
        "name": name,
        "namespace": jobqueue["metadata"]["namespace"],
        "labels": labels(jobqueue["metadata"]["name"]),
        "ownerReferences": [owner(jobqueue)],
    }


def belongs_to(obj: Object, jobqueue: Object) -> bool:
    """Whether the object is controlled by this JobQueue, and not by one of the same name before it."""
    return any(
        reference.get("controller") and reference.get("uid") == jobqueue["metadata"]["uid"]
        for reference in obj["metadata"].get("ownerReferences") or ()
    )
