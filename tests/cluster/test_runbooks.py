"""Every kubectl command of the runbooks, and of the pages on installing, is one that works on a cluster with Bullpen in it."""

import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.chart.rendering import EVERYTHING, NAMESPACE, ROOT, Chart
from tests.docs import pages
from tests.support import operators, requirements
from tests.support.kubernetes import apiserver, binaries
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.operators import jobqueue

pytestmark = pytest.mark.timeout(120)

DOCS = ROOT / "docs"
PAGES = [
    *sorted((DOCS / "runbooks").glob("*.md")),
    *(DOCS / "how-to" / f"{name}.md" for name in ("install", "upgrade")),
]
NEEDS_A_NODE = re.compile(r" (logs (deployment|statefulset)/|rollout status)")
"""Of pods that run; there are none here."""
OF_THE_READERS = re.compile(r"manifests-of-mine|install\.yaml|crd\.yaml|^kubectl apply( --server-side)?$")
"""Files that a reader has, or that are tried elsewhere; and words that are no whole command."""
INLINE = re.compile(r"`(kubectl [^`]+)`")


def commands() -> list[str]:
    """Give every kubectl command of the pages, in blocks and in lines."""
    found: list[str] = []
    for page in PAGES:
        for block in pages.blocks(page):
            if block.language == "console":
                found += [step.command for step in pages.steps(block) if step.command.startswith("kubectl ")]
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        found += INLINE.findall(text)
    return sorted({one for one in found if not (NEEDS_A_NODE.search(one) or OF_THE_READERS.search(one))})


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
    for namespace, kind, name in (
        (NAMESPACE, "Secret", "bullpen-redis"),
        (NAMESPACE, "PersistentVolumeClaim", "data-bullpen-redis-0"),
    ):
        obj = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
        if kind == "PersistentVolumeClaim":
            obj["spec"] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        api.apply(obj)
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


def test_there_are_commands():
    assert len(commands()) > 40


@pytest.mark.parametrize("command", [one for one in commands() if " delete " not in one])
def test_a_command_works(server, command):
    run(server, command)


@pytest.mark.parametrize("command", [one for one in commands() if " delete " in one])
def test_a_command_that_takes_away_works(server, command):
    run(server, f"{command} --dry-run=server")


def run(server: ApiServer, command: str) -> None:
    try:
        server.kubectl(*shlex.split(command)[1:])
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{command}\n{error.stderr}")
