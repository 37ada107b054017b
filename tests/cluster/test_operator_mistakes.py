"""Mistakes in a JobQueue, on a real API server and a real Redis: each is told with its reason, and what ran goes on."""

import copy
import json

import pytest

from bullpen import Client
from bullpen.api import crd
from bullpen.queue.keys import QueueKeys
from bullpen_operator.desired import deployments
from tests.support.operators import (
    READY,
    conditions,
    image_of,
    is_ready,
    jobqueue,
    message,
    redis_connection,
    running,
    worker,
)
from tests.support.waiting import eventually


async def test_a_bad_edit_followed_by_a_restart_keeps_what_ran(api_server, api, cluster, redis, ready):
    bad = [{"name": "digest", "cron": "61 * * * *", "job": "digest"}]
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, retry={"attempts": 7}))
        await ready(cluster)
        api.apply(
            jobqueue(
                cluster, retry={"attempts": 9}, worker={"image": "shop:2", "handlers": ["shop.jobs"]}, schedules=bad
            )
        )
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "InvalidSpec"))
        assert "spec.schedules[0].cron" in message(api, cluster)
    api.delete("apps/v1", "Deployment", cluster, "emails-worker")
    async with running(api_server.admin, cluster):
        made = await eventually(lambda: worker(api, cluster))
        assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:1"
        assert json.loads(redis.hget(QueueKeys("bull", "emails").policy, "doc"))["retry"]["attempts"] == 7
        api.apply(jobqueue(cluster, retry={"attempts": 9}))
        await ready(cluster)
        assert json.loads(redis.hget(QueueKeys("bull", "emails").policy, "doc"))["retry"]["attempts"] == 9


async def test_a_jobqueue_from_before_a_rule_is_told_of_it_and_can_be_mended(own_api_server, server, redis):
    """An upgrade may bring stricter definitions; what is stored stays as it is, and its status can still be written."""
    now, before = crd.definitions(), copy.deepcopy(crd.definitions())
    (version,) = before["JobQueue"]["spec"]["versions"]
    recovery = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["recovery"]
    del recovery["properties"]["lockDuration"]["x-kubernetes-validations"]
    api = own_api_server.api()
    api.install(before.values())
    namespace = api.namespace("shop")
    api.apply(redis_connection(namespace, server.url))
    api.apply(jobqueue(namespace, recovery={"lockDuration": "500ms"}))
    api.install(now.values())
    async with running(own_api_server.admin, namespace):
        await eventually(lambda: conditions(api, namespace).get("Ready") == ("False", "InvalidSpec"))
        assert "spec.recovery.lockDuration" in message(api, namespace)
        api.apply(jobqueue(namespace, recovery={"lockDuration": "1s"}))
        await eventually(lambda: is_ready(api, namespace))


async def test_a_pod_template_that_the_api_server_refuses_changes_nothing(api_server, api, cluster, redis, ready):
    template = {"spec": {"containers": [{"name": "worker", "ports": [{"containerPort": 70000}]}]}}
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, retry={"attempts": 7}))
        await ready(cluster)
        spec = {"image": "shop:2", "handlers": ["shop.jobs"], "podTemplate": template}
        api.apply(jobqueue(cluster, retry={"attempts": 9}, worker=spec))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "ChildRefused"))
        assert "containerPort" in message(api, cluster)
        assert conditions(api, cluster)["Stalled"] == ("True", "ChildRefused")
        assert json.loads(redis.hget(QueueKeys("bull", "emails").policy, "doc"))["retry"]["attempts"] == 7


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"volumes": [{"name": {"a": 1}}]}, "volumes"),
        ({"containers": "none"}, "containers: expected list"),
        ({"containers": [{"name": "worker", "imagePullPolicies": "Always"}]}, "imagePullPolicies: field not declared"),
        ({"terminationGracePeriodSeconds": "soon"}, "terminationGracePeriodSeconds"),
    ],
)
async def test_a_pod_template_of_another_shape_is_told_with_its_field(api_server, api, cluster, ready, spec, says):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        changed = {"image": "shop:2", "handlers": ["shop.jobs"], "podTemplate": {"spec": spec}}
        api.apply(jobqueue(cluster, worker=changed))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "ChildRefused"))
        assert says in message(api, cluster)
        assert image_of(worker(api, cluster)) == "shop:1"
        api.apply(jobqueue(cluster, "new", worker=changed))
        await eventually(lambda: conditions(api, cluster, "new").get("Ready") == ("False", "ChildRefused"))


async def test_what_the_operator_itself_cannot_do_is_told(api_server, api, cluster, ready, monkeypatch):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        with monkeypatch.context() as broken:
            broken.setattr(deployments, "deployment", lambda *_: 1 / 0)
            api.apply(jobqueue(cluster, worker={"image": "shop:2", "handlers": ["shop.jobs"]}))
            await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "InternalError"))
            assert "ZeroDivisionError" in message(api, cluster)
            assert conditions(api, cluster)["WorkersAvailable"][0] != "False"
        await eventually(lambda: conditions(api, cluster).get("Ready") == READY, 30)
        assert image_of(worker(api, cluster)) == "shop:2"


async def test_a_reference_to_no_connection_leaves_what_runs_in_force(api_server, api, cluster, server, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, scaling={"maxReplicas": 5, "jobsPerReplica": 1}))
        await ready(cluster)
        api.apply(jobqueue(cluster, redisRef={"name": "other"}, scaling={"maxReplicas": 5, "jobsPerReplica": 1}))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "ConnectionNotFound"))
        async with Client(server.url) as client:
            for _ in range(3):
                await client.queue("emails").enqueue("welcome")
        await eventually(lambda: worker(api, cluster)["spec"]["replicas"] == 3, 15)
        api.apply(redis_connection(cluster, server.url, name="other", default=False))
        await ready(cluster)


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        (
            {"schedules": [{"name": "a", "cron": "* * * * *", "timeZone": "Mars/Olympus", "job": "a"}]},
            "InvalidSpec",
            "timeZone",
        ),
        ({"payloadSchema": {"type": "nonsense"}}, "InvalidSpec", "spec.payloadSchema"),
        ({"deadLetter": {"jobQueueRef": {"name": "dead"}}}, "NotYet", "spec.deadLetter"),
        ({"worker": None, "workerPoolRef": {"name": "pool"}}, "NotYet", "spec.workerPoolRef"),
        (
            {"schedules": [{"name": "a", "every": "5m", "job": "a", "concurrencyPolicy": "Forbid"}]},
            "NotYet",
            "concurrencyPolicy",
        ),
        ({"redisRef": {"name": "other"}}, "ConnectionNotFound", '"other"'),
        ({"redisRef": {"name": "away"}}, "RedisUnreachable", "refused"),
        ({"worker": None, "scaleTargetRef": {"name": "nobody"}}, "ScaleTarget", "nobody"),
    ],
)
async def test_each_mistake_is_told_by_its_reason_and_where_it_is(api_server, api, cluster, spec, reason, says):
    api.apply(redis_connection(cluster, "redis://127.0.0.1:1", name="away", default=False))
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, **spec))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", reason), 10)
        await eventually(lambda: says in message(api, cluster), 10)
