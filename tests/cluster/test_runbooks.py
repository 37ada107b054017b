"""Every kubectl command of the documentation is one that works on a cluster with Bullpen in it; so are `bullpen pause` and `resume`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart.rendering import EVERYTHING, NAMESPACE, ROOT, Chart
from tests.docs import on_clusters, pages
from tests.support import operators, requirements
from tests.support.kubernetes import apiserver, binaries
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.operators import jobqueue
from tests.support.waiting import eventually_sync

COMMANDS = [one for one in on_clusters.commands() if not one.needs_a_node]


@pytest.fixture(scope="module")
def server(api_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A cluster with the chart's objects, and the JobQueue `emails` in the namespace `shop`."""
    try:
        helm = binaries.ensure("helm")["helm"]
    except binaries.Missing as error:
        requirements.missing("cluster", str(error))
    with apiserver.start(tmp_path_factory.mktemp("runbooks"), controllers=True) as running:
        fill(running, Chart(helm))
        yield running


@pytest.fixture(autouse=True)
def anew(server: ApiServer) -> None:
    """Put back what the command before took away."""
    server.api().apply(jobqueue("shop", deletion={"policy": "Drain"}))
    path = server.api().path(operators.VERSION, "JobQueue", "shop", "emails")
    server.api().request(
        "PATCH",
        path,
        {"metadata": {"finalizers": ["bullpen.dev/queue"]}},
        content_type="application/merge-patch+json",
    )


def fill(server: ApiServer, chart: Chart) -> None:
    api = server.api()
    api.namespace(NAMESPACE)
    api.namespace("shop")
    api.install(operators.CRDS.read_text())
    objects = chart.objects({**EVERYTHING, "crds": {"install": False}, "monitoring": {}})
    for obj in objects:
        if obj not in objects.hooks:
            api.apply(obj)
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bullpen-redis", "namespace": NAMESPACE}})
    claim(api)
    api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-node-3"}})
    shared = operators.redis_connection("", "redis://redis.example.com:6379", name="shared")
    shared["spec"]["allowedNamespaces"] = {"selector": {}}
    api.apply({**shared, "kind": "ClusterRedisConnection", "metadata": {"name": "shared"}})
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "bullpen", "namespace": NAMESPACE},
    }
    api.apply(lease)
    labels = {"bullpen.dev/jobqueue": "emails"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "worker", "image": "shop:1"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    meta = {"name": "emails-worker", "namespace": "shop", "labels": labels}
    api.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})


def claim(api: Api) -> None:
    """Give the chart's Redis a volume of a kind that can grow."""
    name, metadata = "data-bullpen-redis-0", {"name": "grows"}
    made = {"provisioner": "example.com/disks", "allowVolumeExpansion": True}
    api.apply({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata, **made})
    wanted = {"accessModes": ["ReadWriteOnce"], "storageClassName": "grows"}
    volume = {"capacity": {"storage": "8Gi"}, "claimRef": {"name": name, "namespace": NAMESPACE}, "hostPath": {"path": "/data"}}  # fmt: skip
    api.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": {**wanted, **volume}})
    spec = {**wanted, "volumeName": "grows", "resources": {"requests": {"storage": "8Gi"}}}
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": spec,
        }
    )
    eventually_sync(
        lambda: api.get("v1", "PersistentVolumeClaim", NAMESPACE, name)["status"].get("phase") == "Bound", 90, every=0.1
    )


@dataclass(frozen=True)
class Shell:
    """A reader's: kubectl on the PATH, their namespace in the kubeconfig, the project's folder, and the files of a page."""

    folder: Path
    environment: dict[str, str]

    def run(self, command: str, page: Path) -> None:
        """Type a command of a page."""
        for block in pages.blocks(page):
            if block.words and block.words[0].endswith(".yaml"):
                file = self.folder / block.words[0]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{page.relative_to(ROOT)}: $ {command}\n{done.stdout}{done.stderr}"


@pytest.fixture
def shell(server: ApiServer, tmp_path: Path) -> Shell:
    kubectl = binaries.ensure("kubectl")["kubectl"]
    for name in ("charts", "examples", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    kubeconfig = shutil.copy(server.admin.kubeconfig, tmp_path / "kubeconfig")
    subprocess.run(
        [kubectl, "--kubeconfig", kubeconfig, "config", "set-context", "--current", "--namespace", "shop"], check=True
    )
    path = os.pathsep.join([str(kubectl.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return Shell(tmp_path, {**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig), "PASSWORD": "s3cret"})


def test_there_are_commands():
    assert len(COMMANDS) > 60
    assert {one.page.name for one in COMMANDS} >= {"README.md", "offer-redis.md", "rollouts.md", "troubleshooting.md"}


@pytest.mark.parametrize("one", [one for one in COMMANDS if " delete " not in one.text], ids=str)
def test_a_command_works(shell, one):
    shell.run(one.text, one.page)


@pytest.mark.parametrize("one", [one for one in COMMANDS if " delete " in one.text], ids=str)
def test_a_command_that_takes_away_works(shell, one):
    shell.run(f"{one.text} --dry-run=server", one.page)
