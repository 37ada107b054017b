"""Each expression of the dashboards gives numbers: a real Prometheus scrapes a real operator and a real worker at work."""

import asyncio
import contextlib
import itertools
import json
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from bullpen import Client, RedisSettings, embedded
from tests.chart.rendering import CHART
from tests.chart.test_alerts import metric_names, metrics_in
from tests.support import operators, prometheus
from tests.support.kubernetes import pods
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.kubernetes.processes import free_ports
from tests.support.operators import VERSION, jobqueue
from tests.support.prometheus import Prometheus
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(480)

DASHBOARDS = {file.stem: json.loads(file.read_text()) for file in sorted((CHART / "files/dashboards").glob("*.json"))}
RULES = CHART / "files" / "rules.yaml"
NAMESPACE = "dashboards"
HANDLERS = """
from bullpen import Handlers

emails = Handlers("emails")

@emails.handler("welcome")
async def welcome(number: int) -> int:
    return number

@emails.handler("broken")
async def broken(number: int) -> int:
    raise ValueError(number)
"""
AT_ONCE = {"maxReplicas": 1, "zeroAfter": "1s", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}


def expressions(dashboard: dict[str, object]) -> list[tuple[str, str]]:
    """Give each panel's title with its expressions."""
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]


# --- what can be seen without a server


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_holds_together(name):
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == name
    assert "bullpen" in dashboard["tags"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert {"datasource", "cluster", "namespace"} <= variables
    assert all("$cluster" in expression for _, expression in expressions(dashboard))


@pytest.mark.parametrize(("name", "panel", "expression"), [(name, *one) for name in DASHBOARDS for one in expressions(DASHBOARDS[name])])  # fmt: skip
def test_a_panel_reads_metrics_that_there_are(name, panel, expression):
    assert metrics_in(expression)
    assert metrics_in(expression) <= metric_names()


# --- what a server says


@dataclass(frozen=True)
class Traffic:
    """Work for the queues and for the operator, for as long as it is wanted."""

    api: Api
    url: str

    async def run(self) -> None:
        """Make jobs that complete, fail and wait, wake a quiet queue again and again, and change a JobQueue."""
        raw = Redis.from_url(self.url)
        with contextlib.closing(raw):
            async with Client(RedisSettings.from_url(self.url), prefix="bull") as client:
                for number in itertools.count():
                    await client.queue("emails").enqueue("welcome", {"number": number})
                    await client.queue("emails").enqueue("broken", {"number": number})
                    await client.queue("backlog").enqueue("waits", {"number": number})
                    if number % 10 == 0:
                        await client.queue("wakes").enqueue("never", {"number": number})
                    elif number % 10 == 5:
                        raw.delete("bull:wakes:wait", "bull:wakes:marker")
                    path = self.api.path(VERSION, "JobQueue", NAMESPACE, "backlog")
                    spec = {"spec": {"timeout": f"{100 + number % 7}s"}}
                    await asyncio.to_thread(
                        self.api.request, "PATCH", path, spec, content_type="application/merge-patch+json"
                    )
                    await asyncio.sleep(0.15)


@contextlib.asynccontextmanager
async def at_work(traffic: Traffic) -> AsyncIterator[None]:
    task = asyncio.create_task(traffic.run())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def deployment(name: str) -> dict[str, object]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"bullpen.dev/scaled-by": name}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "node", "image": "node:1"}]}},
        },
    }


@pytest.fixture
def redis_url() -> Iterator[str]:
    with embedded.start(unix=False) as server:
        yield server.url


def scrapes(operator_port: int, worker: str) -> list[dict[str, object]]:
    """Scrape as the ServiceMonitor and the PodMonitor of the chart have it done, with the labels that these bring."""
    labels = {"namespace": "bullpen-system", "service": "bullpen-metrics", "pod": "operator"}
    own = {"namespace": NAMESPACE, "jobqueue": "emails", "pod": "worker"}
    return [
        {
            "job_name": "bullpen-metrics",
            "honor_labels": True,
            "static_configs": [{"targets": [f"127.0.0.1:{operator_port}"], "labels": labels}],
        },
        {"job_name": "workers", "static_configs": [{"targets": [worker], "labels": own}]},
    ]


def filled_in(expression: str) -> str:
    """Put values in place of the dashboard's variables."""
    values = {"$cluster": ".*", "$namespace": NAMESPACE, "$jobqueue": "emails|wakes|backlog", "$__rate_interval": "10s"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


async def test_every_panel_shows_numbers(control_plane: ApiServer, redis_url: str, tmp_path: Path):
    prometheus.program("prometheus")
    api = control_plane.api()
    api.install(operators.CRDS.read_text())
    api.namespace(NAMESPACE)
    api.apply(operators.redis_connection(NAMESPACE, redis_url.removesuffix("/0")))
    (tmp_path / "jobs.py").write_text(HANDLERS)
    environment = {
        "PYTHONPATH": str(tmp_path),
        "BULLPEN_REDIS_URL": redis_url,
        "BULLPEN_QUEUE": "emails",
        "BULLPEN_HANDLERS": "jobs",
    }
    (port, prometheus_port) = free_ports(2)
    probes = f"127.0.0.1:{port}"
    async with (
        operators.running(control_plane.admin, NAMESPACE, probes=probes),
        pods.following(api, NAMESPACE, "emails", environment, tmp_path) as node,
    ):
        alerts = {"oldestJobAge": "5m", "failureRatio": "5%"}
        scaling = {"minReplicas": 1, "maxReplicas": 1}
        api.apply(
            jobqueue(NAMESPACE, scaling=scaling, alerts=alerts, retry={"attempts": 1}, concurrency={"perWorker": 1})
        )
        for name in ("wakes", "backlog"):
            api.apply(deployment(name))
            target = {"name": name}
            api.apply(jobqueue(NAMESPACE, name, worker=None, scaleTargetRef=target, scaling=AT_ONCE))
        await eventually(lambda: node.ready, 60, every=0.1)
        with prometheus.serving(tmp_path, scrapes(port, node.ready[0]), port=prometheus_port, rules=RULES) as server:
            async with at_work(Traffic(api, redis_url)):
                silent = []
                for name, dashboard in DASHBOARDS.items():
                    for panel, expression in expressions(dashboard):
                        try:
                            await eventually(lambda expression=expression: numbers(server, expression), 30, every=0.3)
                        except AssertionError:
                            silent.append(f"{name}: {panel}: {expression}")
                assert silent == []
            assert server.rules() == {}


def numbers(server: Prometheus, expression: str) -> list[float]:
    return [value for _, value in server.query(filled_in(expression)) if not math.isnan(value)]
