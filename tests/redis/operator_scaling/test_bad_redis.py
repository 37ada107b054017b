"""The scaler on a Redis that is far away, loses its answers, or goes while workers retire: what runs is held."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import redis.asyncio

from bullpen.queue.keys import QueueKeys
from bullpen.scaling import Behavior, Direction, ScalingPolicy
from bullpen_operator.kube import kinds
from tests.support.proxy import proxy
from tests.support.recorded import NAMESPACE, Stage, key_of
from tests.support.slow import slow
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "mail")
AT_ONCE = ScalingPolicy(max_replicas=20, zero_after_ms=0, zero_readings=1, behavior=Behavior(down=Direction()))


async def add(plain, jobs):
    async with plain.pipeline(transaction=True) as pipe:
        pipe.lpush(KEYS.wait, *["1"] * jobs)
        pipe.xadd(KEYS.events, {"event": "added", "jobId": "1"})
        await pipe.execute()


async def watched(stage):
    await eventually(lambda: sum(observer.watched for observer in stage.scaler.observers) == 1, timeout=20)


def trouble(stage):
    state = stage.scaler.state(key_of("mail"))
    return "" if state is None else state.redis_trouble


async def test_a_redis_that_is_far_away_is_followed_all_the_same(bullpen_redis, plain):
    with slow(bullpen_redis) as far:
        far.delay_s = 0.15
        async with Stage(far.url) as stage:
            stage.add("mail")
            await watched(stage)
            await add(plain, 45)
            await eventually(lambda: stage.kube.scales_of("mail") == [5], timeout=15)
            assert trouble(stage) == ""


@pytest.mark.timeout(90)
async def test_answers_that_are_lost_hold_what_runs(bullpen_redis, plain):
    async with proxy(bullpen_redis) as between, Stage(between.url) as stage:
        stage.add("mail", AT_ONCE)
        await watched(stage)
        await add(plain, 45)
        await eventually(lambda: stage.kube.replicas("mail") == 5, timeout=15)
        between.lose_replies = True
        await plain.delete(KEYS.wait)
        await eventually(lambda: trouble(stage), timeout=30)
        held = stage.kube.replicas("mail")
        writes = len(stage.kube.scales)
        between.lose_replies = False
        between.cut()
        await eventually(lambda: not trouble(stage), timeout=40)
        assert held == 5
        assert stage.kube.scales[writes:] == [] or stage.kube.scales[writes].value < 5
        await eventually(lambda: stage.kube.replicas("mail") == 0, timeout=15)


async def test_a_redis_that_goes_while_workers_retire_takes_nobody_with_it(redis_server):
    plain = redis.asyncio.Redis.from_url(redis_server.url)
    now_ms = time.time_ns() // 1_000_000
    try:
        # Else Redis may hold back what it writes for two seconds on a disk that is busy, and who is killed loses that.
        await plain.config_set("appendfsync", "always")
        async with Stage(redis_server.url) as stage:
            await plain.lpush(KEYS.active, "1")
            for name in ("a", "b"):
                entry = {"v": 1, "at": now_ms, "host": name, "started": now_ms, "slots": 10, "busy": int(name == "a")}
                await plain.hset(KEYS.workers, f"{name}@0123456789ab", json.dumps({**entry, "state": "working"}))
                stage.kube.put(kinds.POD, pod(name))
            stage.add("mail", AT_ONCE, replicas=2)
            await eventually(lambda: plain.hexists(KEYS.retiring, "b@0123456789ab"), timeout=15)
            await asyncio.to_thread(redis_server.kill)
            await eventually(lambda: trouble(stage), timeout=15)
            # It would be the one to go, were its order sure to hold.
            stage.kube.put(kinds.POD, pod("b", ready=False))
            await eventually(lambda: trouble(stage) and stage.scaler.decisions, timeout=15)
            assert stage.kube.scales == []
            await asyncio.to_thread(redis_server.restart)
            await eventually(lambda: not trouble(stage), timeout=30)
            assert stage.kube.scales == [], "nobody has said that b is idle and retired"
    finally:
        await plain.aclose()


def pod(name, *, ready=True):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {kinds.LABEL_JOBQUEUE: "mail", "pod-template-hash": "a"},
        },
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:03Z"}],
            "containerStatuses": [{"name": "worker", "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}}],
        },
    }
