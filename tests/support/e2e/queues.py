"""The JobQueue `load`, its pods, and what a person does to them."""

from collections.abc import Callable

from tests.support.e2e import manifests
from tests.support.kubernetes.api import Api, ApiError, Object
from tests.support.kubernetes.watching import Happened, Watch
from tests.support.waiting import eventually_sync

VERSION = "bullpen.dev/v1alpha1"
NAME = "load"
OURS = f"bullpen.dev/jobqueue={NAME}"
"""The label of its workers."""


class LoadQueue:
    """The JobQueue `load` of one namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self.namespace = api, namespace

    def create(self, **spec: object) -> str:
        """Make it, wait until it is ready, and give the name of its binding."""
        wanted = manifests.jobqueue(self.namespace, NAME, **spec)
        if "scaleTargetRef" not in spec:
            wanted["spec"].setdefault("worker", manifests.handlers())
        self._api.create(wanted)
        eventually_sync(lambda: self.condition("Ready") == "True", 60, every=0.2)
        binding: str = self.status["binding"]["name"]
        return binding

    def get(self) -> Object:
        """The object."""
        return self._api.get(VERSION, "JobQueue", self.namespace, NAME)

    @property
    def status(self) -> Object:
        """What the operator says of it."""
        status: Object = self.get().get("status", {})
        return status

    def condition(self, type: str) -> str | None:
        """The status of a condition; None where there is none."""
        return next((c["status"] for c in self.status.get("conditions", []) if c["type"] == type), None)

    def change(self, **spec: object) -> None:
        """Change a part of its spec."""
        self._api.patch(VERSION, "JobQueue", self.namespace, NAME, {"spec": spec})

    def pods(self, labels: str = OURS) -> list[Object]:
        """The workers that are not on their way out."""
        found = self._api.list("v1", "Pod", self.namespace, labels=labels)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, labels: str = OURS) -> list[Object]:
        """Those of them that are ready."""
        return [pod for pod in self.pods(labels) if is_ready(pod)]

    def images(self) -> set[str]:
        """What the workers run."""
        return {image_of(pod) for pod in self.pods()}

    def watch_pods(self, labels: str = OURS) -> Watch:
        """A watch on the workers."""
        return Watch(self._api, "v1", "Pod", self.namespace, labels=labels)

    def evict(self, pod: str) -> None:
        """Evict a pod as `kubectl drain` does: again while a budget does not allow it."""
        eventually_sync(lambda: _evicted(self._api, self.namespace, pod), 60, every=0.5)


def is_ready(pod: Object) -> bool:
    """Whether a pod is ready."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def image_of(pod: Object) -> str:
    """What a pod's one container runs."""
    image: str = pod["spec"]["containers"][0]["image"]
    return image


def deleted(watch: Watch, which: Callable[[Object], bool] = lambda _: True) -> dict[str, Happened]:
    """The pods whose deletion was asked for while watched, by name, with the event that said so first."""
    return watch.first(lambda pod: "deletionTimestamp" in pod["metadata"] and which(pod))


def _evicted(api: Api, namespace: str, pod: str) -> bool:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    try:
        api.request("POST", api.path("v1", "Pod", namespace, pod, subresource="eviction"), body)
    except ApiError as error:
        if error.status != 429:
            raise
        return False
    return True
