"""The images that the end-to-end tests run, and how they are built."""

import shutil
import tempfile
from pathlib import Path

from tests.support.node.clusters import Cluster

PROJECT = Path(__file__).parents[3]
SOURCES = PROJECT / "tests" / "e2e" / "images"
TAG = "e2e"
OPERATOR = f"localhost/bullpen-operator:{TAG}"
WORKER = f"localhost/bullpen-worker:{TAG}"
LOAD, LOAD_2 = "localhost/bullpen-load:1", "localhost/bullpen-load:2"
REDIS = "localhost/bullpen-redis:7"
NODE_WORKER = "localhost/bullpen-node-worker:1"
STUDIO = "localhost/studio:1"


def build_bullpen(cluster: Cluster) -> None:
    """The project's own two, from its Dockerfiles."""
    cluster.build(WORKER, PROJECT, PROJECT / "Dockerfile.worker")
    cluster.build(OPERATOR, PROJECT, PROJECT / "Dockerfile.operator")


def build_load(cluster: Cluster) -> None:
    """Handlers on the worker's image, in two versions."""
    for tag, version in ((LOAD, "1"), (LOAD_2, "2")):
        cluster.build(tag, SOURCES / "load", BASE=WORKER, VERSION=version)


def build_studio(cluster: Cluster) -> None:
    """The example's handlers and producer on the worker's image."""
    folder = PROJECT / "examples" / "studio"
    cluster.build(STUDIO, folder, folder / "Dockerfile", BASE=WORKER)


def build_redis(cluster: Cluster) -> None:
    """A Redis."""
    cluster.build(REDIS, SOURCES / "redis")


def build_node_worker(cluster: Cluster, node: Path, modules: Path) -> None:
    """A worker by Node's BullMQ, with the `node` and the modules of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copytree(SOURCES / "node", context, dirs_exist_ok=True)
        shutil.copy(node, context / "node")
        shutil.copytree(modules, context / "node_modules")
        cluster.build(NODE_WORKER, context)
