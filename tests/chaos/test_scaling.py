"""The scaler and real workers: `bullpen worker` processes in place of pods, which retire before they go.

What a cluster does around them is done here as Kubernetes does it: a kubelet asks /readyz every tenth of a second, and a ReplicaSet
controller removes pods in Kubernetes' own order: those that are not ready first, then by deletion cost, then the youngest.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from datetime import UTC, datetime

import pytest

from bullpen.scaling import Behavior, Direction, ScalingPolicy
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling.pods import DELETION_COST
from tests.chaos import jobs
from tests.chaos.conftest import KEYS
from tests.support.recorded import NAMESPACE, Stage, unit
from tests.support.waiting import eventually

SLOTS = 2
POLICY = ScalingPolicy(
    max_replicas=4,
    slots=SLOTS,
    jobs_per_replica=SLOTS,
    zero_after_ms=0,
    zero_readings=1,
    behavior=Behavior(down=Direction(window_ms=0)),
)


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Node:
    """Kubelet and ReplicaSet controller over worker processes."""

    def __init__(self, lab, stage):
        self.lab = lab
        self.stage = stage
        self.workers = {}
        self.most = 0
        self.removed = 0
        self.removed_busy = []
        self._numbers = itertools.count(1)

    async def run(self):
        while True:
            wanted = self.stage.kube.replicas("chaos")
            staying = [name for name in self.workers if not self._pod(name)["metadata"].get("deletionTimestamp")]
            for _ in range(wanted - len(staying)):
                self._make()
            if len(staying) > wanted:
                self._remove(min(staying, key=self._rank))
            self.most = max(self.most, len(staying))
            for name in list(self.workers):
                await self._probe(name)
            await asyncio.sleep(0.1)

    def _make(self):
        name = f"pod-{next(self._numbers)}"
        self.workers[name] = self.lab.work(concurrency=SLOTS, grace="10s", environ={"BULLPEN_WORKER_NAME": name})
        self._put(name, created=_now(), ready="False")

    def _remove(self, name):
        running = {self.lab.job(job_id).get("pb", "") for job_id in self.lab.redis.lrange(KEYS.active, 0, -1)}
        if any(by.startswith(f"{name}@") for by in running):
            self.removed_busy.append(name)
        self.removed += 1
        pod = self._pod(name)
        self.stage.kube.put(kinds.POD, {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": _now()}})
        self.workers[name].term()

    async def _probe(self, name):
        worker = self.workers[name]
        if worker.process.poll() is not None:
            del self.workers[name]
            self.stage.kube.remove(Key(kinds.POD, NAMESPACE, name))
            return
        status, _ = await asyncio.to_thread(worker.probe, "/readyz")
        ready = str(status == 200)
        if status and ready != self._pod(name)["status"]["conditions"][0]["status"]:
            self._put(name, created=self._pod(name)["metadata"]["creationTimestamp"], ready=ready)

    def _rank(self, name):
        metadata, status = self._pod(name)["metadata"], self._pod(name)["status"]
        ready = status["conditions"][0]["status"] == "True"
        cost = int((metadata.get("annotations") or {}).get(DELETION_COST, 0))
        return ready, cost, [-ord(letter) for letter in metadata["creationTimestamp"]]

    def _pod(self, name):
        return self.stage.kube.objects[Key(kinds.POD, NAMESPACE, name)]

    def _put(self, name, *, created, ready):
        known = self.stage.kube.objects.get(Key(kinds.POD, NAMESPACE, name))
        metadata = known["metadata"] if known else {
            "name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "creationTimestamp": created,
            "labels": {kinds.LABEL_JOBQUEUE: "chaos", "pod-template-hash": "a"},
        }  # fmt: skip
        container = {"name": "worker", "restartCount": 0, "state": {"running": {"startedAt": created}}}
        conditions = [{"type": "Ready", "status": ready, "lastTransitionTime": _now()}]
        status = {"conditions": conditions, "containerStatuses": [container]}
        self.stage.kube.put(kinds.POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})


@contextlib.asynccontextmanager
async def cluster(lab):
    # No lock is lost because this machine is slow: what is looked for is jobs that scaling cuts.
    lab.policy(recovery={"lockDuration": "20s", "checkInterval": "2s", "maxCrashes": 3})
    async with Stage(lab.server.url) as stage:
        stage.add("chaos", POLICY)
        node = Node(lab, stage)
        task = asyncio.create_task(node.run())
        try:
            yield stage, node
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def enqueue(lab, seconds):
    return await asyncio.to_thread(lab.client.enqueue, jobs.sleep.job(seconds))


@pytest.mark.timeout(900)
async def test_workers_come_with_the_work_and_go_without_cutting_a_job(lab):
    dice = random.Random(5)
    async with cluster(lab) as (stage, node):
        handles = [await enqueue(lab, dice.uniform(0.1, 2.5)) for _ in range(24)]
        await eventually(lambda: node.most == 4, timeout=20)
        await eventually(lambda: lab.count("completed") >= 18, timeout=60)
        # While some retire, more comes: they work again, and later go all the same.
        await eventually(lambda: lab.redis.hlen(KEYS.retiring) > 0, timeout=20)
        handles += [await enqueue(lab, dice.uniform(0.1, 2.5)) for _ in range(16)]
        await eventually(lambda: lab.count("completed") == len(handles), timeout=60)
        await eventually(lambda: stage.kube.replicas("chaos") == 0 and not node.workers, timeout=30)
        assert node.removed_busy == []
    for handle in handles:
        job = lab.job(handle.id)
        assert (job["ats"], job["atm"], job.get("stc", "0")) == ("1", "1", "0"), job
    assert sorted(lab.ids("start")) == sorted(lab.ids("end")) == sorted(handle.id for handle in handles)
    assert node.removed >= 4


@pytest.mark.timeout(900)
async def test_an_operator_that_dies_while_workers_retire_freezes_none_of_them(lab):
    async with cluster(lab) as (stage, node):
        first = [await enqueue(lab, seconds) for seconds in (6, 6, 0.5, 0.5, 0.5, 0.5)]
        await eventually(lambda: lab.redis.hlen(KEYS.retiring) > 0 and len(node.workers) > 1, timeout=30)
        await stage.end()
        orders = lab.redis.hgetall(KEYS.retiring)
        more = [await enqueue(lab, 0.1) for _ in range(6)]
        # Whoever takes over sees the orders, and that the work is back: it lifts them at once.
        await stage.restart(unit("chaos", POLICY))
        await eventually(lambda: lab.count("completed") == len(first) + len(more), timeout=40)
        assert orders
        await eventually(lambda: stage.kube.replicas("chaos") == 0 and not node.workers, timeout=60)
        assert node.removed_busy == []
