"""What tests of the scaler share: a queue with jobs, pods as a kubelet writes them, workers that beat."""

import asyncio
import json
import time

from bullpen.queue.keys import QueueKeys
from bullpen.scaling import Behavior, Direction, ScalingPolicy
from bullpen_operator.kube import kinds
from bullpen_operator.scaling.crew import PROTOCOL
from tests.support.recorded import NAMESPACE, key_of
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "mail")
AT_ONCE = ScalingPolicy(
    max_replicas=20, zero_after_ms=0, zero_readings=1, behavior=Behavior(down=Direction(window_ms=0))
)
"""Shrinks as soon as there is nothing to do."""


async def add(plain, jobs=1, keys=KEYS):
    """Add jobs as BullMQ's script does it: the jobs and an event at one instant."""
    async with plain.pipeline(transaction=True) as pipe:
        pipe.lpush(keys.wait, *["1"] * jobs)
        pipe.xadd(keys.events, {"event": "added", "jobId": "1"})
        await pipe.execute()


async def watched(stage, count=1):
    """Wait until so many queues are quiet, and their streams waited for."""
    await eventually(lambda: sum(observer.watched for observer in stage.scaler.observers) == count, timeout=20)


async def state(stage, condition, name="mail", timeout=15.0):
    """Wait until the state of a queue meets a condition, and give it."""

    def met():
        found = stage.scaler.state(key_of(name))
        return found if found is not None and condition(found) else None

    return await eventually(met, timeout=timeout)


def read_again(stage):
    """Have the queue read at once."""
    for observer in stage.scaler.observers:
        observer.nudge(key_of("mail"))


async def rounds(stage, count=3):
    """Have the queue read so many times more."""
    for _ in range(count):
        (observer,) = stage.scaler.observers
        before = observer.readings
        read_again(stage)
        await eventually(lambda before=before, observer=observer: observer.readings > before)
        await asyncio.sleep(0)


def pod(name, *, ready=True, uid=None, waiting=None, **annotations):
    """A pod as a kubelet writes it."""
    container = {"name": "worker", "restartCount": 0}
    container["state"] = {"waiting": waiting} if waiting else {"running": {"startedAt": "2026-01-01T00:00:01Z"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid or f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {kinds.LABEL_JOBQUEUE: "mail", "pod-template-hash": "a"},
            "annotations": annotations,
        },
        "status": {
            "conditions": [
                {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:03Z"},
                {"type": "PodScheduled", "status": "True"},
            ],
            "containerStatuses": [container],
        },
    }


async def beat(plain, host, *, busy=0, state="working"):
    """Have a worker say that it is there."""
    now_ms = time.time_ns() // 1_000_000
    entry = {"v": 1, "at": now_ms, "host": host, "started": now_ms, "slots": 10, "busy": busy, "state": state}
    await plain.hset(KEYS.workers, f"{host}@0123456789ab", json.dumps({**entry, "protocol": PROTOCOL}))


async def one_busy_of_two(stage, plain):
    """Have two pods with a worker in each, of which `a` runs a job."""
    await plain.lpush(KEYS.active, "1")
    for name, busy in (("a", 1), ("b", 0)):
        stage.kube.put(kinds.POD, pod(name))
        await beat(plain, name, busy=busy)
