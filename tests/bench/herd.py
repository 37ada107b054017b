"""A herd of JobQueues for benchmarks of the operator: a real API server, one Redis, the operator in a process of its own.

When the operator wrote is told by the API server's audit log, on this machine's clock: the moment at which a request
arrived there. There are no controllers and no nodes, so no pod ever starts: what is measured is the operator.
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import redis

from bullpen import embedded
from bullpen.api import crd
from tests.bench import processes, throughput
from tests.support.kubernetes import apiserver
from tests.support.kubernetes.apiserver import ApiServer

NAMESPACE = "shop"
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Write:
    """One write that reached the API server."""

    at: float
    """Unix time in seconds, to the microsecond."""
    verb: str
    resource: str
    name: str
    replicas: int | None
    status: int
    user: str


@dataclass
class Audit:
    """Reads the audit log as it grows."""

    path: Path
    _offset: int = 0
    writes: list[Write] = field(default_factory=list)

    def read(self) -> list[Write]:
        """Give the writes since the last call, and keep them."""
        with self.path.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = [write for line in whole.splitlines() if (write := _write(json.loads(line))) is not None]
        self.writes += found
        return found


def _write(event: dict[str, Any]) -> Write | None:
    reference = event.get("objectRef") or {}
    if event["verb"] not in _WRITES:
        return None
    resource = "/".join(part for part in (reference.get("resource", ""), reference.get("subresource", "")) if part)
    body = event.get("requestObject") or {}
    replicas = (body.get("spec") or {}).get("replicas") if resource.endswith("/scale") else None
    at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
    status = (event.get("responseStatus") or {}).get("code", 0)
    return Write(at, event["verb"], resource, reference.get("name", ""), replicas, status, event["user"]["username"])


@dataclass
class Herd:
    """What runs, and how to look at it."""

    server: ApiServer
    redis: embedded.Server
    names: list[str]
    audit: Audit
    operator: subprocess.Popen[bytes]
    probes: int
    started: float

    @property
    def plain(self) -> redis.Redis:
        """A client of the Redis."""
        return redis.Redis.from_url(self.redis.url)

    def scales(self) -> dict[str, list[Write]]:
        """Give the numbers that were written, by JobQueue; conflicts left out."""
        self.audit.read()
        found: dict[str, list[Write]] = {}
        for write in self.audit.writes:
            if write.resource == "deployments/scale" and write.status < 300:
                found.setdefault(write.name.removesuffix("-worker"), []).append(write)
        return found

    def set_to(self) -> int:
        """Give the replicas of all Deployments together."""
        found = self.server.api().list("apps/v1", "Deployment", NAMESPACE)
        return sum(deployment["spec"]["replicas"] for deployment in found)

    def metrics(self) -> str:
        """Give the operator's metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.probes}/metrics", timeout=5) as page:
            text: str = page.read().decode()
        return text

    def prefer(self) -> None:
        """Have all that is measured run before whatever else this machine does (needs root): for one that is not idle."""
        pids = [os.getpid(), self.operator.pid, self.redis.pid, self.server._etcd.pid, self.server._server.pid]
        for task in itertools.chain.from_iterable(Path(f"/proc/{pid}/task").iterdir() for pid in pids):
            os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


def wait(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def jobqueue(name: str, **scaling: object) -> dict[str, Any]:
    """Give a JobQueue as somebody would write it."""
    return {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "worker": {"image": "registry.example.com/worker:1", "handlers": ["shop.jobs"]},
            "scaling": {"maxReplicas": 20, **scaling},
        },
    }


@contextlib.contextmanager
def running(queues: int, log: IO[bytes], **scaling: object) -> Iterator[Herd]:
    """Start it all, each JobQueue with this `scaling`, and wait until the operator has nothing to do any more."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(apiserver.start(folder))
        store = stack.enter_context(embedded.start(unix=False))
        api = server.api()
        api.install(crd.definitions().values())
        api.namespace(NAMESPACE)
        api.namespace("bullpen-system")
        endpoint = store.url
        api.create(
            {
                "apiVersion": "bullpen.dev/v1alpha1",
                "kind": "RedisConnection",
                "metadata": {"name": "redis", "namespace": NAMESPACE, "annotations": {"bullpen.dev/default": "true"}},
                "spec": {"endpoints": [endpoint], "users": "Shared"},
            }
        )
        names = [f"queue-{number:04}" for number in range(queues)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: api.create(jobqueue(name, **scaling)), names))
        probes = _free_port()
        process = stack.enter_context(operator(server, probes, log))
        herd = Herd(server, store, names, Audit(server.audit_log), process, probes, time.monotonic())
        wait(lambda: len(api.list("apps/v1", "Deployment", NAMESPACE)) >= queues, "a Deployment for each", 120 + queues)
        settle(herd)
        yield herd


@contextlib.contextmanager
def operator(server: ApiServer, probes: int, log: IO[bytes], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the operator itself, as its image does."""
    known = {
        **os.environ,
        "BULLPEN_OPERATOR_KUBECONFIG": str(server.admin.kubeconfig),
        "BULLPEN_OPERATOR_PROBES": f"127.0.0.1:{probes}",
        "BULLPEN_OPERATOR_IDENTITY": f"operator-{probes}",
        "BULLPEN_OPERATOR_LOG_LEVEL": "warning",
        **environment,
    }
    command = [sys.executable, "-m", "bullpen_operator"]
    with processes.running(command, stdout=log, stderr=log, cwd=throughput.ROOT, env=known) as process:
        yield process


def settle(herd: Herd, *, calm_seconds: float = 6.0, within: float = 900.0, of: str = "") -> None:
    """Wait until nothing but the Lease (or nothing `of` this resource) was written for a while."""
    herd.audit.read()
    deadline = time.monotonic() + within
    calm_since = time.monotonic()
    for _ in itertools.count():
        if [write for write in herd.audit.read() if (write.resource == of if of else write.resource != "leases")]:
            calm_since = time.monotonic()
        if time.monotonic() - calm_since > calm_seconds:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the operator goes on writing")
        if herd.operator.poll() is not None:
            raise TimeoutError(f"the operator has ended with exit code {herd.operator.returncode}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
