"""Bullpen installed by its chart, as a platform engineer does it."""

import json
import time
from pathlib import Path

import yaml

from tests.support.e2e import images, manifests
from tests.support.e2e.shells import Helm, Kubectl
from tests.support.kubernetes.api import Api, Object

CHART = images.PROJECT / "charts" / "bullpen"
NAME = "bullpen"
NAMESPACE = "bullpen"
DATA = "/var/lib/bullpen-e2e"
"""On the node: where the chart's Redis keeps its data."""


def _split(image: str) -> tuple[str, str]:
    repository, _, tag = image.rpartition(":")
    return repository, tag


def values(**others: object) -> dict[str, object]:
    """The chart's values for a cluster that no registry reaches."""
    operator, redis = _split(images.OPERATOR), _split(images.REDIS)
    return {
        "image": {"repository": operator[0], "tag": operator[1]},
        "resources": {"requests": {"cpu": "10m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "redis": {
            "enabled": True,
            "image": {"registry": "", "repository": redis[0], "tag": redis[1]},
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
            "persistence": {"storageClassName": "", "size": "1Gi"},
        },
        **others,
    }


class Release:
    """The one release of the cluster."""

    def __init__(self, api: Api, helm: Helm, kubectl: Kubectl, folder: Path) -> None:
        self._api, self._helm, self._kubectl = api, helm, kubectl
        self._values = folder / "values.yaml"
        # Images keep their tags: pods of an earlier session are replaced by the difference of this.
        self._built = {"podAnnotations": {"tests/built": str(time.time_ns())}}
        self._fresh = False

    @property
    def installed(self) -> bool:
        """Whether this session installed it, and it is there and whole."""
        return self._fresh and self._status() == "deployed"

    def _status(self) -> str:
        found = json.loads(self._helm("list", "-n", NAMESPACE, "--all", "-o", "json"))
        return next((each["status"] for each in found if each["name"] == NAME), "")

    def install(self, **others: object) -> None:
        """Install or upgrade it, and wait until all of it is ready."""
        self._api.namespace(NAMESPACE, manifests.RESTRICTED)
        if self._status().startswith("pending"):  # an earlier session was cut off
            self._helm("uninstall", NAME, "-n", NAMESPACE, "--no-hooks", "--wait", timeout=320)
        self.volume("redis", claim=f"{NAMESPACE}/data-{NAME}-redis-0", user=999)
        self._values.write_text(yaml.safe_dump(values(**self._built, **others)))
        command = ("upgrade", "--install", NAME, str(CHART), "-n", NAMESPACE, "-f", str(self._values))
        self._helm(*command, "--wait", "--timeout", "180s", timeout=200)
        self._fresh = True

    def uninstall(self) -> None:
        """Uninstall it; CRDs stay, and so does Redis' volume."""
        self._helm("uninstall", NAME, "-n", NAMESPACE, "--wait", "--timeout", "120s", timeout=140)

    def remove(self) -> None:
        """Take away what uninstalling leaves: the namespace, the CRDs, the volume and what is on it."""
        if self._status():
            self.uninstall()
        self._api.delete("v1", "Namespace", "", NAMESPACE)
        self._kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=120s", timeout=130)
        for definition in self._api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition"):
            if definition["spec"]["group"] == "bullpen.dev":
                self._api.delete(
                    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", definition["metadata"]["name"]
                )
        self.drop_volume("redis")

    def pods(self, component: str = "operator") -> list[Object]:
        """The pods of a component that are not on their way out."""
        labels = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}"
        found = self._api.list("v1", "Pod", NAMESPACE, labels=labels)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def leader(self) -> str:
        """The name of the operator's pod that holds the lease; empty where nobody does."""
        lease = self._api.find("coordination.k8s.io/v1", "Lease", NAMESPACE, NAME)
        holder: str = (lease or {}).get("spec", {}).get("holderIdentity") or ""
        return holder

    def volume(self, name: str, *, claim: str, user: int) -> None:
        """Have a volume of the node's own folder, for this claim (namespace/name), owned by this user."""
        volume = f"bullpen-e2e-{name}"
        found = self._api.find("v1", "PersistentVolume", "", volume)
        if found is not None and found["status"]["phase"] != "Released":
            return
        self._api.delete("v1", "PersistentVolume", "", volume)
        # Before its claim is there; what an earlier cluster left in the folder is none of this one's.
        fresh = f"rm -rf /data/{name} && " if found is None else ""
        self._on_node(f"{fresh}mkdir -p /data/{name} && chown {user}:{user} /data/{name} && chmod 700 /data/{name}")
        namespace, _, named = claim.partition("/")
        self._api.install(
            [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": volume},
                    "spec": {
                        "capacity": {"storage": "1Gi"},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": "",
                        "claimRef": {"namespace": namespace, "name": named},
                        "hostPath": {"path": f"{DATA}/{name}", "type": "Directory"},
                    },
                }
            ]
        )

    def drop_volume(self, name: str) -> None:
        """Take the volume away, with what is on it."""
        self._api.delete("v1", "PersistentVolume", "", f"bullpen-e2e-{name}")
        self._on_node(f"rm -rf /data/{name}")

    def _on_node(self, command: str) -> None:
        """Run a command as the node's root, in a folder of the node's."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "on-node", "namespace": "default"},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": "shell",
                        "image": images.REDIS,
                        "command": ["sh", "-c", command],
                        "securityContext": {"runAsUser": 0},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }
                ],
                "volumes": [{"name": "data", "hostPath": {"path": DATA, "type": "DirectoryOrCreate"}}],
            },
        }
        self._kubectl("delete", "pod", "-n", "default", "on-node", "--ignore-not-found", "--timeout=30s")
        self._api.create(pod)
        done = "--for=jsonpath={.status.phase}=Succeeded"
        self._kubectl("wait", "-n", "default", "pod/on-node", done, "--timeout=60s", timeout=70)
        self._api.delete("v1", "Pod", "default", "on-node")
