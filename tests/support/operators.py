"""Operators for tests: in this process, on a real API server, or as a process of its own, to be killed and frozen."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bullpen_operator import operator
from bullpen_operator.kube import access
from bullpen_operator.operator import Operator
from bullpen_operator.settings import Settings
from tests.support import loops
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.apiserver import Login

Object = dict[str, Any]
VERSION = "bullpen.dev/v1alpha1"
CRDS = Path(__file__).parents[2] / "manifests" / "crd.yaml"
READY = ("True", "AsDeclared")
"""What the condition Ready says where all is well."""


@contextlib.asynccontextmanager
async def running(login: Login, namespace: str, **settings: Any) -> AsyncIterator[Operator]:
    """An operator in this process that looks after one namespace, and has its lease there."""
    given = {
        "namespaces": (namespace,),
        "namespace": namespace,
        "probes": "",
        "identity": "a",
        "resync_seconds": 3600.0,
    }
    made = Settings(kubeconfig=str(login.kubeconfig), **(given | settings))
    one = operator.Operator(made, await access.configuration(made.kubeconfig))
    task = asyncio.create_task(one.run())
    try:
        yield one
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await loops.end_goodbyes()


@dataclass
class OperatorProcess:
    """`bullpen-operator` as a process."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def lines(self) -> str:
        """What it logged."""
        return self.log.read_text()

    def freeze(self) -> None:
        """Stop it where it stands."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, and give the exit code."""
        self.process.send_signal(how)
        if how != signal.SIGSTOP:
            self.process.send_signal(signal.SIGCONT)
        return self.process.wait(30)


@contextlib.contextmanager
def process(login: Login, watched: str, identity: str, folder: Path, **settings: str):
    """An operator as a process of its own."""
    log = folder / f"{identity}.log"
    given = {
        "KUBECONFIG": str(login.kubeconfig),
        "NAMESPACES": watched,
        "NAMESPACE": watched,
        "IDENTITY": identity,
        "PROBES": "127.0.0.1:0",
        **{name.upper(): value for name, value in settings.items()},
    }
    environment = os.environ | {f"BULLPEN_OPERATOR_{name}": value for name, value in given.items()}
    with log.open("wb") as out:
        command = [sys.executable, "-m", "bullpen_operator"]
        started = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    made = OperatorProcess(started, log)
    try:
        yield made
    finally:
        if started.poll() is None:
            started.kill()
            started.wait(10)


def redis_connection(
    namespace: str, url: str, *, name: str = "redis", users: str = "Shared", default: bool = True
) -> Object:
    """A RedisConnection to that URL, as the namespace's default."""
    annotations = {"bullpen.dev/default": "true"} if default else {}
    return {
        "apiVersion": VERSION,
        "kind": "RedisConnection",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"endpoints": [url], "users": users},
    }


def jobqueue(namespace: str, name: str = "emails", **spec: Any) -> Object:
    """A JobQueue; without more, with workers in mode Auto."""
    given = {"worker": {"image": "shop:1", "handlers": ["shop.jobs"]}, "scaling": {"maxReplicas": 5}}
    meta = {"name": name, "namespace": namespace}
    whole = {key: value for key, value in (given | spec).items() if value is not None}
    return {"apiVersion": VERSION, "kind": "JobQueue", "metadata": meta, "spec": whole}


def conditions(api: Api, namespace: str, name: str = "emails") -> dict[str, tuple[str, str]]:
    """The conditions of a JobQueue: status and reason by type; of the latest generation only."""
    found = api.find(VERSION, "JobQueue", namespace, name) or {}
    status = found.get("status") or {}
    if status.get("observedGeneration") != found.get("metadata", {}).get("generation"):
        return {}
    return {each["type"]: (each["status"], each["reason"]) for each in status.get("conditions", ())}


def is_ready(api: Api, namespace: str, name: str = "emails") -> bool:
    """Whether a JobQueue is as it was declared last."""
    return conditions(api, namespace, name).get("Ready") == READY


def message(api: Api, namespace: str, kind: str = "Ready", name: str = "emails") -> str:
    """The message of a condition."""
    found = api.get(VERSION, "JobQueue", namespace, name)
    return next(each["message"] for each in found["status"]["conditions"] if each["type"] == kind)


def worker(api: Api, namespace: str, name: str = "emails") -> Object | None:
    """The Deployment of a JobQueue's workers."""
    return api.find("apps/v1", "Deployment", namespace, f"{name}-worker")


def image_of(deployment: Object) -> str:
    """The image of the first container."""
    image: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


def replica_owners(deployment: Object) -> set[str]:
    """The managers that own a Deployment's replicas."""
    return {
        entry["manager"]
        for entry in deployment["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }
