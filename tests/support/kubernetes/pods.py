"""What a node does for the pods of a JobQueue, where there is no node: real workers run under the pods' names.

A worker is started for each pod, the pod's readiness follows the worker's probe, and a pod that is deleted goes once its
worker has ended.
"""

import asyncio
import contextlib
import datetime as dt
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.kubernetes.api import Api, ApiError
from tests.support.kubernetes.processes import free_ports


@contextlib.asynccontextmanager
async def following(
    api: Api, namespace: str, jobqueue: str, environment: Mapping[str, str], folder: Path
) -> AsyncIterator["Pods"]:
    """Play the node for this JobQueue's pods as long as the context lasts; `environment` is the workers', logs are in `folder`."""
    pods = Pods(api, namespace, jobqueue, environment, folder)
    task = asyncio.create_task(pods.run())
    try:
        yield pods
    finally:
        pods.over.set()  # not cancelled: a thread would go on, and start workers that nobody ends
        try:
            await task
        finally:
            await asyncio.to_thread(pods.close)


@dataclass
class Container:
    """A real worker that stands for a pod's container."""

    process: "subprocess.Popen[bytes]"
    probes: str
    started: str
    ready: bool | None = None
    """What the pod's status says; None: nothing yet."""

    def is_ready(self) -> bool:
        """Ask the worker, as a kubelet's readiness probe does."""
        try:
            with urllib.request.urlopen(f"http://{self.probes}/readyz", timeout=2):
                return True
        except OSError:
            return False

    def end(self) -> None:
        """End it, as a kubelet does."""
        self.process.terminate()
        self.process.wait(60)


class Pods:
    """Plays the node for the pods of one JobQueue: real workers run under their names, and their status follows these."""

    def __init__(self, api: Api, namespace: str, jobqueue: str, environment: Mapping[str, str], folder: Path) -> None:
        self._api, self._namespace, self._folder = api, namespace, folder
        self._labels = f"bullpen.dev/jobqueue={jobqueue}"
        self._environment = {**os.environ, **environment}
        self._containers: dict[str, Container] = {}
        self.over = asyncio.Event()
        """Set to have `run` end."""

    async def run(self) -> None:
        """Follow the pods until it is over."""
        while not self.over.is_set():
            await asyncio.to_thread(self._follow)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self.over.wait()

    @property
    def ready(self) -> list[str]:
        """Where the workers that are ready serve probes and metrics, host:port each."""
        return [container.probes for container in list(self._containers.values()) if container.ready]

    def close(self) -> None:
        """End all workers."""
        for container in self._containers.values():
            container.end()

    def _follow(self) -> None:
        pods = self._api.list("v1", "Pod", self._namespace, labels=self._labels)
        for name in self._containers.keys() - {pod["metadata"]["name"] for pod in pods}:
            self._containers.pop(name).end()
        for pod in pods:
            name = pod["metadata"]["name"]
            if "deletionTimestamp" in pod["metadata"]:
                if name in self._containers:
                    self._containers.pop(name).end()
                path = self._api.path("v1", "Pod", self._namespace, name)
                with contextlib.suppress(ApiError):
                    self._api.request("DELETE", path, {"gracePeriodSeconds": 0})
                continue
            container = self._containers.get(name) or self._start(name)
            ready = container.is_ready()
            if ready != container.ready:
                container.ready = ready
                self._tell(name, container.started, ready=ready)

    def _start(self, name: str) -> Container:
        probes = f"127.0.0.1:{free_ports(1)[0]}"
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "bullpen_cli", "worker"],
                env={**self._environment, "BULLPEN_WORKER_NAME": name, "BULLPEN_PROBES": probes},
                stdout=log,
                stderr=log,
            )
        container = self._containers[name] = Container(process, probes, _now())
        return container

    def _tell(self, name: str, started: str, *, ready: bool) -> None:
        conditions = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
        status = {
            "phase": "Running",
            "startTime": started,
            "conditions": [
                {"type": kind, "status": str(holds), "lastTransitionTime": _now()} for kind, holds in conditions.items()
            ],
            "containerStatuses": [
                {
                    "name": "worker",
                    "image": "shop:1",
                    "imageID": "",
                    "ready": ready,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": started}},
                }
            ],
        }
        path = self._api.path("v1", "Pod", self._namespace, name, subresource="status")
        try:
            self._api.request("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
        except ApiError as error:
            if error.status != 404:  # it went between the two looks
                raise


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
