"""A real cluster with the built images: the node on this machine, kind, or one that was given (tests.support.node.clusters).

Where none can be had the tests are skipped, aloud; with BULLPEN_REQUIRE=e2e they fail. `make e2e` runs them, one after
another: they share one node. BULLPEN_E2E_KEEP=1 leaves it up, for a look and for the next run.
"""

import fcntl
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support import requirements
from tests.support.e2e import images, manifests
from tests.support.e2e.load import Toolbox
from tests.support.e2e.queues import LoadQueue
from tests.support.e2e.release import NAMESPACE, Release
from tests.support.e2e.shells import Helm, Kubectl
from tests.support.kubernetes import binaries
from tests.support.kubernetes.api import Api
from tests.support.node import clusters, layout
from tests.support.node.clusters import Cluster
from tests.support.waiting import eventually_sync

_numbers = itertools.count(1)
_failed = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Say what takes minutes, past pytest's capture."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line, file=sys.stderr, flush=True)

    return say


@pytest.fixture(scope="session")
def cluster(tell: Callable[[str], None]) -> Iterator[Cluster]:
    """The cluster, up; nobody else uses it meanwhile."""
    try:
        found = clusters.choose(tell)
        binaries.ensure("kubectl", "helm", tell=tell)
    except (clusters.Unavailable, binaries.Missing) as error:
        requirements.missing("e2e", f"no cluster for end-to-end tests: {error}")
    root = layout.default().root
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found.up()
        yield found
        if not os.environ.get("BULLPEN_E2E_KEEP"):
            found.down()


@pytest.fixture(scope="session")
def bullpen_images(cluster: Cluster, tell: Callable[[str], None]) -> None:
    """Operator, worker, and handlers on the worker's image."""
    tell("building the images of operator and worker")
    images.build_bullpen(cluster)
    images.build_load(cluster)


@pytest.fixture(scope="session")
def studio_image(cluster: Cluster, bullpen_images: None, tell: Callable[[str], None]) -> None:
    """The example's."""
    tell("building the studio's image")
    images.build_studio(cluster)


@pytest.fixture(scope="session")
def redis_image(cluster: Cluster) -> str:
    """A Redis."""
    images.build_redis(cluster)
    return images.REDIS


@pytest.fixture(scope="session")
def node_worker_image(cluster: Cluster) -> str:
    """A worker by Node's BullMQ; skipped, aloud, where Node and its modules are not there."""
    node = shutil.which("node")
    modules = Path(__file__).parents[1] / "interop" / "node" / "node_modules"
    if node is None or not modules.is_dir():
        requirements.missing("node", "Node, or its bullmq that tests/interop installs, is not there")
    images.build_node_worker(cluster, Path(node).resolve(), modules)
    return images.NODE_WORKER


@pytest.fixture(scope="session")
def api(cluster: Cluster) -> Iterator[Api]:
    """The cluster's API, as its administrator."""
    client = Api(cluster.kubeconfig)
    yield client
    client.close()


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    """kubectl, as its administrator."""
    return Kubectl(cluster.kubeconfig)


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> Helm:
    """helm, as its administrator."""
    return Helm(cluster.kubeconfig)


@pytest.fixture(scope="session")
def one_release(
    api: Api,
    helm: Helm,
    kubectl: Kubectl,
    bullpen_images: None,
    redis_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """The cluster's release of the chart, removed at the end."""
    found = Release(api, helm, kubectl, tmp_path_factory.mktemp("release"))
    yield found
    if not os.environ.get("BULLPEN_E2E_KEEP"):
        found.remove()


@pytest.fixture
def release(one_release: Release, tell: Callable[[str], None]) -> Release:
    """Bullpen, installed by its chart with a Redis, of the images just built; anew where a test took it away."""
    if not one_release.installed:
        tell("installing the chart")
        one_release.install()
    return one_release


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know whether their test failed."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture
def namespace(api: Api, kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own, where only restricted pods may be; gone, or going, after the test."""
    name = api.namespace(f"e2e-{os.getpid()}-{next(_numbers)}", manifests.RESTRICTED)
    yield name
    if request.node.stash.get(_failed, False):
        look(kubectl, name)
    if not os.environ.get("BULLPEN_E2E_KEEP") or not request.node.stash.get(_failed, False):
        api.delete("v1", "Namespace", "", name)


def look(kubectl: Kubectl, namespace: str) -> None:
    """Print what a person would look at first."""
    for command in (
        ("get", "pods,replicasets,deployments,jobqueues", "-n", namespace),
        ("get", "events", "-n", namespace, "--field-selector", "type=Warning"),
        ("get", "jobqueues", "-n", namespace, "-o", "yaml"),
        ("get", "pods", "-n", NAMESPACE, "-o", "wide"),
        ("logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator", "--tail=15", "--prefix"),
    ):
        try:
            print(f"$ kubectl {' '.join(command)}", *(line[:300] for line in kubectl(*command).splitlines()), sep="\n")
        except AssertionError as error:
            print(error)


@pytest.fixture
def ready(kubectl: Kubectl) -> Callable[..., None]:
    """Wait until all pods of a Deployment or StatefulSet are as it says."""

    def wait(namespace: str, *names: str, timeout: int = 120) -> None:
        for name in names:
            kubectl("rollout", "status", "-n", namespace, name, f"--timeout={timeout}s", timeout=timeout + 10)

    return wait


@pytest.fixture
def make_queue(api: Api, namespace: str, release: Release, ready: Callable[..., None]) -> Callable[..., LoadQueue]:
    """Make the JobQueue `load` with this spec, and an application in its namespace that mounts its binding."""

    def make(**spec: object) -> LoadQueue:
        queue = LoadQueue(api, namespace)
        binding = queue.create(**spec)
        api.create(manifests.toolbox(namespace, {}, binding=binding))
        ready(namespace, "deploy/toolbox")
        return queue

    return make


@pytest.fixture
def toolbox(kubectl: Kubectl, namespace: str) -> Toolbox:
    """The application's pod in this namespace; a test makes it (`manifests.toolbox`)."""
    return Toolbox(kubectl, namespace)


@pytest.fixture
def ended(toolbox: Toolbox) -> Callable[..., None]:
    """Wait until so many jobs have ended."""

    def wait(count: int, timeout: float = 300) -> None:
        eventually_sync(lambda: all(job.finished for job in toolbox.report(count)), timeout, every=1.0)

    return wait
