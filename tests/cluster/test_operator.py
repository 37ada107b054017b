"""The operator on a real API server and a real Redis: a JobQueue becomes a queue, objects, a status; and stays so."""

import asyncio
import json

import aiohttp
import pytest

from bullpen import Client, embedded
from bullpen.queue.keys import QueueKeys
from bullpen_operator.kube.kinds import JOBQUEUE
from bullpen_operator.reconciler import Reconciler
from bullpen_operator.scaling.crew import PROTOCOL
from tests.support.kubernetes.api import STRATEGIC
from tests.support.kubernetes.audit import Audit
from tests.support.operators import (
    READY,
    VERSION,
    conditions,
    image_of,
    jobqueue,
    message,
    redis_connection,
    replica_owners,
    running,
    worker,
)
from tests.support.waiting import eventually


def env_of(deployment):
    return {each["name"]: each.get("value") for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}


async def test_a_jobqueue_becomes_a_queue_in_redis_and_a_deployment_and_says_so(api_server, api, cluster, redis, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, retry={"attempts": 7}, scaling={"minReplicas": 2, "maxReplicas": 5}))
        await ready(cluster)
        keys = QueueKeys("bull", "emails")
        assert json.loads(redis.hget(keys.policy, "doc"))["retry"]["attempts"] == 7
        assert redis.hget(keys.owner, "id").decode().endswith(f"/{cluster}/emails")
        made = worker(api, cluster)
        assert made["spec"]["replicas"] == 2
        assert replica_owners(made) == {"bullpen-scaler"}
        status = api.get(VERSION, "JobQueue", cluster, "emails")["status"]
        assert status["queue"] == {"name": "emails", "prefix": "bull"}
        assert status["binding"] == {"name": "emails-binding"}
        assert status["selector"] == "app.kubernetes.io/component=worker,bullpen.dev/jobqueue=emails"
        assert api.find("v1", "ServiceAccount", cluster, "emails-worker")["automountServiceAccountToken"] is False
        assert api.find("policy/v1", "PodDisruptionBudget", cluster, "emails-worker")
        assert api.find("networking.k8s.io/v1", "NetworkPolicy", cluster, "emails-worker") is None
        assert api.find("v1", "Secret", cluster, "emails-binding")


async def test_applying_the_same_again_and_restarting_write_nothing(api_server, api, cluster, ready):
    login = api_server.login(f"operator-{cluster}", "system:masters")
    async with running(login, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        api.apply(
            jobqueue(
                cluster, "other", worker={"image": "a:1", "handlers": ["a"], "resources": {"limits": {"cpu": "1000m"}}}
            )
        )
        await ready(cluster, "other")
    async with running(login, cluster) as first:
        await eventually(lambda: first.queue.idle and first.leads())
        await eventually(lambda: connection(api, cluster)["status"].get("usedBy") == 2, 15)
        mark = Audit(api_server.audit_log).mark()
        api.apply(jobqueue(cluster))
        for name in ("emails", "other"):
            api.patch(VERSION, "JobQueue", cluster, name, {"metadata": {"annotations": {"touched": "yes"}}})
        await eventually(lambda: first.cache.all(JOBQUEUE)[0]["metadata"].get("annotations", {}).get("touched"))
        await eventually(lambda: first.queue.idle)
    async with running(login, cluster) as second:
        await eventually(lambda: second.prepared and second.queue.idle and second.leads())
    wrote = Audit(api_server.audit_log).since(mark, user=login.user).writes()
    assert [(str(event.use), event.body) for event in wrote if event.use.resource != "leases"] == []


def connection(api, namespace):
    return api.get(VERSION, "RedisConnection", namespace, "redis")


async def test_a_removed_variable_goes_and_replicas_stay(api_server, api, cluster, ready):
    scaling = {"mode": "Hold", "minReplicas": 3, "maxReplicas": 9}
    one, two = ({"name": name, "value": name} for name in "AB")
    spec = {"image": "shop:1", "handlers": ["shop.jobs"]}
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, worker=spec | {"env": [one, two]}, scaling=scaling))
        await ready(cluster)
        # Handed over: nobody scales in mode Hold, and the number is still what the Deployment was made with.
        assert worker(api, cluster)["spec"]["replicas"] == 3
        assert replica_owners(worker(api, cluster)) == {"bullpen-scaler"}
        api.patch("apps/v1", "Deployment", cluster, "emails-worker", {"spec": {"replicas": 4}}, subresource="scale")
        api.apply(jobqueue(cluster, worker=spec | {"env": [one]}, scaling=scaling))
        await eventually(lambda: "B" not in env_of(worker(api, cluster)))
        assert env_of(worker(api, cluster))["A"] == "A"
        assert worker(api, cluster)["spec"]["replicas"] == 4


async def test_what_others_change_of_ours_is_put_right_and_what_they_add_stays(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        change = {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [{"name": "worker", "image": "other:1", "env": [{"name": "ADDED", "value": "x"}]}]
                    }
                }
            }
        }
        api.patch("apps/v1", "Deployment", cluster, "emails-worker", change, content_type=STRATEGIC)
        await eventually(lambda: worker(api, cluster)["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:1")
        assert env_of(worker(api, cluster))["ADDED"] == "x"
        api.delete("apps/v1", "Deployment", cluster, "emails-worker")
        await eventually(lambda: worker(api, cluster))


async def test_another_default_connection_is_noticed(api_server, api, cluster, server, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        api.apply(redis_connection(cluster, server.url, name="second"))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "DefaultAmbiguous"))
        api.delete(VERSION, "RedisConnection", cluster, "second")
        await ready(cluster)


async def test_replicas_that_nobody_reads_are_told_by_an_event(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        api.patch(VERSION, "JobQueue", cluster, "emails", {"spec": {"replicas": 4}}, subresource="scale")
        await eventually(
            lambda: "ReplicasIgnored" in {each["reason"] for each in api.list("events.k8s.io/v1", "Event", cluster)}
        )


async def test_workers_that_are_taken_out_of_the_spec_go(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        api.apply(jobqueue(cluster, worker=None))
        await eventually(lambda: worker(api, cluster) is None)
        await eventually(lambda: api.find("policy/v1", "PodDisruptionBudget", cluster, "emails-worker") is None)
        await eventually(lambda: api.find("v1", "ServiceAccount", cluster, "emails-worker") is None)


async def test_pods_pass_restricted_pod_security_and_the_network_policy_is_made_where_asked_for(
    api_server, api, cluster, ready
):
    api.namespace(cluster, {"pod-security.kubernetes.io/enforce": "restricted"})
    async with running(api_server.admin, cluster, network_policies=True, worker_image_pull_secrets=("pull",)):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        template = worker(api, cluster)["spec"]["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": cluster, **template["metadata"]},
            "spec": template["spec"],
        }
        api.create(pod)  # refused by admission, were it not restricted
        assert template["spec"]["imagePullSecrets"] == [{"name": "pull"}]
        assert api.find("networking.k8s.io/v1", "NetworkPolicy", cluster, "emails-worker")


async def test_a_jobqueue_waits_for_its_connection_and_goes_on_when_it_comes(
    api_server, api, kinds, namespace, server, redis
):
    async with running(api_server.admin, namespace):
        api.apply(jobqueue(namespace))
        await eventually(lambda: conditions(api, namespace).get("Ready") == ("False", "NoDefaultConnection"))
        assert conditions(api, namespace)["Stalled"] == ("True", "NoDefaultConnection")
        api.apply(redis_connection(namespace, server.url))
        await eventually(lambda: conditions(api, namespace).get("Ready") == READY, 15)


async def test_a_redis_that_goes_away_is_told_and_so_is_its_return(api_server, api, kinds, namespace):
    with embedded.start(unix=False) as own:
        api.apply(redis_connection(namespace, own.url))
        async with running(api_server.admin, namespace):
            api.apply(jobqueue(namespace, scaling={"mode": "Hold", "maxReplicas": 5}))
            await eventually(lambda: conditions(api, namespace).get("Ready") == READY, 15)
            own.kill()
            await eventually(
                lambda: conditions(api, namespace).get("RedisReachable") == ("False", "RedisUnreachable"), 30
            )
            # What needs no Redis is done all the same.
            api.apply(
                jobqueue(
                    namespace, worker={"image": "shop:2", "handlers": ["a"]}, scaling={"mode": "Hold", "maxReplicas": 5}
                )
            )
            await eventually(lambda: image_of(worker(api, namespace)) == "shop:2", 15)
            own.restart()
            await eventually(lambda: conditions(api, namespace).get("Ready") == READY, 60)


def pod_of(deployment, started):
    """A pod that runs, as a ReplicaSet and a kubelet would have it."""
    template = deployment["spec"]["template"]
    labels = {**template["metadata"]["labels"], "pod-template-hash": "a"}
    meta = {"name": "pod-1", "namespace": deployment["metadata"]["namespace"], **template["metadata"], "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}, {
        "status": {
            "phase": "Running",
            "startTime": started,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": started}],
            "containerStatuses": [
                {
                    "name": "worker",
                    "ready": True,
                    "restartCount": 0,
                    "image": "shop:1",
                    "imageID": "",
                    "state": {"running": {"startedAt": started}},
                }
            ],
        }
    }


@pytest.mark.parametrize(
    ("version", "others"),
    [
        pytest.param(PROTOCOL - 1, {}, id="the one before"),
        pytest.param(PROTOCOL + 1, {"state": "working", "names": {"a": {"since": 1}}, "news": [1]}, id="the next"),
    ],
)
async def test_workers_of_another_protocol_are_told_of_and_scaled(
    api_server, api, cluster, redis, server, ready, version, others
):
    keys = QueueKeys("bull", "emails")

    def worker_says(protocol, **more):
        now_ms = redis.time()[0] * 1000
        entry = {"v": protocol, "at": now_ms, "host": "pod-1", "pid": 1, "started": now_ms, "slots": 10, "busy": 0}
        entry |= {"versions": {"bullpen": "9"}, "protocol": protocol, **more}
        redis.hset(keys.workers, "pod-1@0123456789ab", json.dumps(entry))

    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, scaling={"minReplicas": 1, "maxReplicas": 5, "jobsPerReplica": 1}))
        await ready(cluster)
        pod, state = pod_of(worker(api, cluster), "2026-01-01T00:00:00Z")
        api.create(pod)
        worker_says(version, **others)
        api.patch("v1", "Pod", cluster, "pod-1", state, subresource="status")
        await eventually(lambda: conditions(api, cluster).get("WorkersOutdated") == ("True", "ProtocolDiffers"), 30)
        assert conditions(api, cluster)["Ready"] == READY
        async with Client(server.url) as client:
            for _ in range(3):
                await client.queue("emails").enqueue("welcome")
        await eventually(lambda: worker(api, cluster)["spec"]["replicas"] == 3, 15)
        worker_says(PROTOCOL, state="working")
        await eventually(lambda: conditions(api, cluster).get("WorkersOutdated") == ("False", "UpToDate"), 60)


async def test_probes_and_metrics_are_served_and_the_queues_series_go_with_it(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster, probes="127.0.0.1:0") as one, aiohttp.ClientSession() as http:

        async def page(path):
            async with http.get(f"http://127.0.0.1:{one.port}{path}") as answer:
                return answer.status, await answer.text()

        api.apply(jobqueue(cluster, alerts={"oldestJobAge": "5m"}))
        await ready(cluster)
        assert await page("/healthz") == (200, "ok\n")
        assert await page("/readyz") == (200, "ok\n")
        labels = f'{{namespace="{cluster}",jobqueue="emails",queue="emails"'
        text = (await page("/metrics"))[1]
        assert f"bullpen_queue_paused{labels}" in text
        assert f'bullpen_queue_alert_threshold{labels},alert="oldestJobAge"}} 300' in text
        assert "bullpen_leader 1.0" in text
        api.delete(VERSION, "JobQueue", cluster, "emails")

        async def gone():
            return labels not in (await page("/metrics"))[1]

        await eventually(gone)


async def test_one_that_waits_is_ready_once_it_could_follow_at_once(api_server, api, cluster, ready, monkeypatch):
    """A rollout ends the one that leads as soon as the new one is ready."""
    looked, looks = asyncio.Event(), Reconciler.reconcile

    async def reconcile(self, key, *, thorough=False):
        if not self._leads():
            await looked.wait()
        return await looks(self, key, thorough=thorough)

    monkeypatch.setattr(Reconciler, "reconcile", reconcile)
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        waits = running(api_server.admin, cluster, identity="b", probes="127.0.0.1:0")
        async with waits as other, aiohttp.ClientSession() as http:

            async def readiness():
                async with http.get(f"http://127.0.0.1:{other.port}/readyz") as answer:
                    return answer.status, await answer.text()

            await eventually(lambda: other.prepared)
            assert await readiness() == (503, "1 JobQueues have not been looked at yet\n")
            looked.set()
            await eventually(lambda: not other._unseen)
            assert await readiness() == (200, "ok\n")


async def test_more_connections_than_redis_has_are_told(api_server, api, cluster, ready):
    limited = connection(api, cluster)
    limited["metadata"] = {name: limited["metadata"][name] for name in ("name", "namespace", "annotations")}
    api.apply({**limited, "spec": limited["spec"] | {"limits": {"connections": 40}}})
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        assert "connections" not in message(api, cluster)
        api.apply(jobqueue(cluster, "second"))
        await ready(cluster, "second")
        await eventually(lambda: "spec.limits.connections, 40" in message(api, cluster, name="second"))
