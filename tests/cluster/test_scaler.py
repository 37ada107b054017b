"""Scaling on a real API server with its own controllers: Deployments, ReplicaSets and their choice of victims are real.

There is no node: a test says what a kubelet would say of a pod, and what the worker in it says in Redis.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from datetime import UTC, datetime

import pytest
from redis import Redis

from bullpen.queue.keys import QueueKeys
from tests.support import operators
from tests.support.kubernetes.api import STRATEGIC
from tests.support.kubernetes.audit import Audit
from tests.support.operators import VERSION, conditions, jobqueue, redis_connection, running
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "emails")
DEPLOYMENT = ("apps/v1", "Deployment")
DOWN_AT_ONCE = {"scaleDown": {"stabilizationWindowSeconds": 0}}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def controlled(control_plane):
    api = control_plane.api()
    api.install(operators.CRDS.read_text())
    return api


@pytest.fixture
def redis(server):
    client = Redis.from_url(server.url, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def town(controlled, server, redis):
    """A namespace with a default connection to the test's Redis."""
    name = controlled.namespace(f"scale-{os.getpid()}-{next(_numbers)}")
    controlled.apply(redis_connection(name, server.url))
    return name


def add(redis, jobs=1):
    with redis.pipeline(transaction=True) as pipe:
        pipe.lpush(KEYS.wait, *["1"] * jobs)
        pipe.xadd(KEYS.events, {"event": "added", "jobId": "1"})
        pipe.execute()


def replicas(api, namespace, name="emails-worker"):
    found = api.find(*DEPLOYMENT, namespace, name)
    return None if found is None else found["spec"]["replicas"]


def pods(api, namespace):
    return {
        pod["metadata"]["name"]: pod
        for pod in api.list("v1", "Pod", namespace)
        if not pod["metadata"].get("deletionTimestamp")
    }


def say(api, namespace, name, *, ready):
    """What a kubelet says of a pod whose worker runs."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    started = api.get("v1", "Pod", namespace, name)["metadata"]["creationTimestamp"]
    status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": now}],
        "containerStatuses": [
            {"name": "worker", "ready": ready, "restartCount": 0, "image": "shop:1", "imageID": "",
             "state": {"running": {"startedAt": started}}}
        ],
    }  # fmt: skip
    api.request("PATCH", api.path("v1", "Pod", namespace, name, subresource="status"), {"status": status},
                content_type=STRATEGIC)  # fmt: skip


def beat(redis, pod, *, busy, state="working"):
    """What the worker in it says."""
    now_ms = int(time.time() * 1000)
    entry = {"v": 1, "at": now_ms, "host": pod, "started": now_ms, "slots": 10, "busy": busy, "state": state}
    redis.hset(KEYS.workers, f"{pod}@0123456789ab", json.dumps({**entry, "protocol": 1}))


def scaling(api, namespace):
    found = api.find(VERSION, "JobQueue", namespace, "emails") or {}
    return (found.get("status") or {}).get("scaling") or {}


async def test_a_burst_is_one_write_and_its_pods_are_made(control_plane, controlled, town, redis):
    api, login = controlled, control_plane.login(f"operator-{town}", "system:masters")
    async with running(login, town) as operator:
        api.apply(jobqueue(town))
        await eventually(lambda: replicas(api, town) == 0 and operator.queue.idle, 15)
        await eventually(lambda: sum(one.watched for one in operator._scaler.observers) == 1, 10)
        mark = Audit(control_plane.audit_log).mark()
        add(redis, 35)
        await eventually(lambda: len(pods(api, town)) == 4, 10)
        did = Audit(control_plane.audit_log).since(mark, user=login.user)
        scales = [event for event in did.writes() if event.use.resource == "deployments/scale"]
        assert [event.body["spec"]["replicas"] for event in scales] == [4]
        assert scales[0].manager == "bullpen-scaler"
        assert scales[0].body["metadata"]["resourceVersion"]
        await eventually(lambda: scaling(api, town).get("desiredReplicas") == 4, 10)
        assert scaling(api, town)["reason"] == "JobsWaiting"
        assert "35 jobs (35 waiting) need 4" in scaling(api, town)["message"]


async def test_the_controller_takes_the_pod_that_has_retired_and_no_other(control_plane, controlled, town, redis):
    api = controlled
    async with running(control_plane.admin, town):
        api.apply(jobqueue(town, scaling={"maxReplicas": 5, "zeroAfter": "0s", "behavior": DOWN_AT_ONCE}))
        await eventually(lambda: replicas(api, town) == 0, 15)
        add(redis, 25)
        await eventually(lambda: len(pods(api, town)) == 3, 15)
        busiest, busy, idle = pods(api, town)
        redis.delete(KEYS.wait)
        redis.lpush(KEYS.active, *["1"] * 12)
        for name, jobs in ((busiest, 9), (busy, 3), (idle, 0)):
            beat(redis, name, busy=jobs)
            say(api, town, name, ready=True)
        order = f"{idle}@0123456789ab"
        await eventually(lambda: redis.hexists(KEYS.retiring, order), 10)
        assert replicas(api, town) == 3
        beat(redis, idle, busy=0, state="retiring")
        say(api, town, idle, ready=False)
        await eventually(lambda: set(pods(api, town)) == {busiest, busy}, 15)
        assert replicas(api, town) == 2
        for name, jobs in ((busiest, 9), (busy, 3)):
            beat(redis, name, busy=jobs)
        await eventually(lambda: redis.hgetall(KEYS.retiring) == {}, 15)
        protected = pods(api, town)[busy]["metadata"]["annotations"]
        assert protected["karpenter.sh/do-not-disrupt"] == "true"
        # The last jobs end: the rest retires, and goes.
        redis.delete(KEYS.active)
        for name in (busiest, busy):
            beat(redis, name, busy=0)
        await eventually(lambda: redis.hlen(KEYS.retiring) == 2, 15)
        for name in (busiest, busy):
            beat(redis, name, busy=0, state="retiring")
            say(api, town, name, ready=False)
        await eventually(lambda: replicas(api, town) == 0 and not pods(api, town), 20)


async def test_a_quota_is_told_and_no_more_are_asked_for(control_plane, controlled, town, redis):
    api = controlled
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": town},
             "spec": {"hard": {"pods": "1"}}}  # fmt: skip
    api.create(quota)
    await eventually(lambda: (api.get("v1", "ResourceQuota", town, "few").get("status") or {}).get("used"), 15)
    async with running(control_plane.admin, town):
        api.apply(jobqueue(town, scaling={"maxReplicas": 5}))
        await eventually(lambda: replicas(api, town) == 0, 15)
        add(redis, 25)
        await eventually(lambda: replicas(api, town) == 3, 15)
        await eventually(lambda: conditions(api, town).get("WorkersAvailable") == ("False", "WorkersCannotStart"), 20)
        add(redis, 25)  # from here on it is known that more pods would not start
        await eventually(lambda: scaling(api, town).get("reason") == "PodsCannotStart", 20)
        assert replicas(api, town) == 3
        api.delete("v1", "ResourceQuota", town, "few")


async def test_workers_of_somebody_else_are_scaled_where_their_owner_says_so(control_plane, controlled, town, redis):
    api = controlled
    labels = {"app": "legacy"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "node", "image": "node:1"}]}}
    legacy = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "legacy", "namespace": town},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }
    api.create(legacy)
    async with running(control_plane.admin, town):
        target = {"name": "legacy", "slotsPerReplica": 5}
        api.apply(jobqueue(town, worker=None, scaleTargetRef=target, scaling={"maxReplicas": 6}))
        add(redis, 28)
        await eventually(lambda: "ScaleTarget" in str(conditions(api, town)), 15)
        assert replicas(api, town, "legacy") == 1
        api.patch(*DEPLOYMENT, town, "legacy", {"metadata": {"labels": {"bullpen.dev/scaled-by": "emails"}}})
        await eventually(lambda: replicas(api, town, "legacy") == 6, 15)


async def test_another_operator_goes_on_without_a_jump(control_plane, controlled, town, redis):
    api, login = controlled, control_plane.login(f"operator-{town}", "system:masters")
    async with running(login, town):
        api.apply(jobqueue(town, scaling={"maxReplicas": 5, "zeroAfter": "0s"}))
        await eventually(lambda: replicas(api, town) == 0, 15)
        add(redis, 30)
        await eventually(lambda: replicas(api, town) == 3, 10)
        await eventually(lambda: '"replicas":3' in (redis.get(KEYS.scaling) or ""), 10)
    redis.delete(KEYS.wait)
    mark = Audit(control_plane.audit_log).mark()
    async with running(login, town) as second:
        await eventually(lambda: second.prepared and second.queue.idle and second.leads(), 15)
        (observer,) = await eventually(lambda: tuple(second._scaler.observers), 15)
        readings = observer.readings
        await eventually(lambda: observer.readings > readings + 3, 10)
        assert replicas(api, town) == 3
    did = Audit(control_plane.audit_log).since(mark, user=login.user)
    assert [event for event in did.writes() if event.use.resource == "deployments/scale"] == []
