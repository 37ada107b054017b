"""A real API server, one a pytest process. Its programs are built once, before the first test and outside its time limit.

Tests share it: each works in a `namespace` of its own, and takes an `own_api_server` where it stops it or writes what is
the cluster's. `api_server` has no controllers (a test writes a Deployment's status itself); `control_plane` has them.
"""

import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator

import pytest
from redis import Redis

from bullpen import embedded
from bullpen.api import crd
from tests.chart.rendering import Chart
from tests.support import operators, requirements
from tests.support.kubernetes import apiserver, binaries
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.waiting import eventually

_numbers = itertools.count(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing now: minutes, which no single test's timeout should pay for."""
    needed = {fixture for item in session.items for fixture in getattr(item, "fixturenames", ())}
    if "api_programs" not in needed:
        return
    charts = ("helm", "kubeconform") if needed & {"chart", "tools"} else ()
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            binaries.ensure(*apiserver.SERVER, *apiserver.CONTROLLERS, "kubectl", *charts)
        except binaries.Missing:
            return  # said by the fixture


@pytest.fixture(scope="session")
def api_programs() -> None:
    """etcd, kube-apiserver and their like are there; where they cannot be built, the test is skipped, aloud."""
    try:
        binaries.ensure(*apiserver.SERVER, *apiserver.CONTROLLERS, "kubectl")
    except binaries.Missing as error:
        requirements.missing("cluster", f"no Kubernetes API server: {error}")


@pytest.fixture(scope="session")
def chart(api_programs: None) -> Chart:
    """The chart, to be rendered."""
    try:
        return Chart(binaries.ensure("helm")["helm"])
    except binaries.Missing as error:
        requirements.missing("cluster", str(error))


@pytest.fixture(scope="session")
def api_server(api_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """etcd and kube-apiserver, shared by the tests of this process."""
    with apiserver.start(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture(scope="session")
def control_plane(api_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The same with controller-manager and scheduler: ReplicaSets, garbage collection, namespaces that go. No node."""
    with apiserver.start(tmp_path_factory.mktemp("control-plane"), controllers=True) as server:
        yield server


@pytest.fixture
def own_api_server(api_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """etcd and kube-apiserver of this test's own, to stop and to start again."""
    with apiserver.start(tmp_path_factory.mktemp("own-apiserver")) as server:
        yield server


@pytest.fixture
def api(api_server: ApiServer) -> Api:
    """The shared server, as its administrator."""
    return api_server.api()


@pytest.fixture
def namespace(api: Api) -> str:
    """A namespace of this test's own on the shared server."""
    return api.namespace(f"test-{os.getpid()}-{next(_numbers)}")


@pytest.fixture(scope="session")
def kinds(api_server: ApiServer) -> None:
    """The shared server serves Bullpen's kinds."""
    api_server.api().install(crd.definitions().values())


@pytest.fixture(scope="session")
def bullpen_api(api_server: ApiServer, kinds: None) -> Api:
    """The shared server, with Bullpen's kinds in it."""
    return api_server.api()


@pytest.fixture(scope="module")
def server() -> Iterator[embedded.Server]:
    """A Redis of the module's own."""
    with embedded.start(unix=False) as started:
        yield started


@pytest.fixture
def redis(server: embedded.Server) -> Iterator[Redis]:
    """A client of that Redis, which is empty."""
    with contextlib.closing(Redis.from_url(server.url)) as client:
        client.flushall()
        yield client


@pytest.fixture
def cluster(kinds: None, api: Api, namespace: str, server: embedded.Server, redis: Redis) -> str:
    """A namespace with a default connection to that Redis."""
    api.apply(operators.redis_connection(namespace, server.url))
    return namespace


@pytest.fixture
def ready(api: Api) -> Callable[..., Awaitable[None]]:
    """Waits until a JobQueue is as it was declared."""

    async def wait(namespace: str, name: str = "emails") -> None:
        await eventually(lambda: operators.is_ready(api, namespace, name), 15)

    return wait


@pytest.fixture
def own(redis_binary: embedded.Binary) -> Iterator[embedded.Server]:
    """A Redis of the test's own, to be set up badly, and killed."""
    with embedded.start(binary=redis_binary, unix=False) as started:
        yield started
