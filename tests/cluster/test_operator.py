"""The operator on a real API server and a real Redis: a JobQueue becomes a queue, objects, a status; and stays so."""

import json

import aiohttp
import pytest

from bullpen import Client, embedded
from bullpen.queue.keys import QueueKeys
from bullpen_operator.desired import deployments
from bullpen_operator.scaling.crew import PROTOCOL
from tests.support import operators
from tests.support.kubernetes.audit import Audit
from tests.support.operators import VERSION, conditions, jobqueue, message, redis_connection, replica_owners, running
from tests.support.waiting import eventually

READY = ("True", "AsDeclared")


@pytest.fixture(scope="module")
def kinds(api_server):
    api_server.api().install(operators.CRDS.read_text())


@pytest.fixture
def cluster(kinds, api, namespace, server, redis):
    """A namespace with a default connection to the test's Redis."""
    api.apply(redis_connection(namespace, server.url))
    return namespace


@pytest.fixture
def ready(api):
    async def wait(namespace, name="emails"):
        await eventually(lambda: conditions(api, namespace, name).get("Ready") == READY, 15)

    return wait


def worker(api, namespace, name="emails"):
    return api.find("apps/v1", "Deployment", namespace, f"{name}-worker")


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
        await eventually(lambda: first.cache.all(operators_kind())[0]["metadata"].get("annotations", {}).get("touched"))
        await eventually(lambda: first.queue.idle)
    async with running(login, cluster) as second:
        await eventually(lambda: second.prepared and second.queue.idle and second.leads())
    wrote = Audit(api_server.audit_log).since(mark, user=login.user).writes()
    assert [(str(event.use), event.body) for event in wrote if event.use.resource != "leases"] == []


def connection(api, namespace):
    return api.get(VERSION, "RedisConnection", namespace, "redis")


def operators_kind():
    from bullpen_operator.kube import kinds

    return kinds.JOBQUEUE


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
        strategic = "application/strategic-merge-patch+json"
        api.patch("apps/v1", "Deployment", cluster, "emails-worker", change, content_type=strategic)
        await eventually(lambda: worker(api, cluster)["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:1")
        assert env_of(worker(api, cluster))["ADDED"] == "x"
        api.delete("apps/v1", "Deployment", cluster, "emails-worker")
        await eventually(lambda: worker(api, cluster))


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


async def test_another_default_connection_is_noticed(api_server, api, cluster, server, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        api.apply(redis_connection(cluster, server.url, name="second"))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "DefaultAmbiguous"))
        api.delete(VERSION, "RedisConnection", cluster, "second")
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


async def test_a_queue_that_is_owned_elsewhere_is_left_alone(api_server, api, cluster, redis, ready):
    keys = QueueKeys("bull", "emails")
    redis.hset(keys.owner, mapping={"v": "1", "id": "elsewhere/shop/emails", "released": "0"})
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "OwnedElsewhere"))
        assert conditions(api, cluster)["QueueOwned"] == ("False", "OwnedElsewhere")
        assert not redis.exists(keys.policy)
        assert worker(api, cluster) is None
        adopt = {"metadata": {"annotations": {"bullpen.dev/adopt": "elsewhere/shop/emails"}}}
        api.patch(VERSION, "JobQueue", cluster, "emails", adopt)
        await ready(cluster)
        assert redis.hget(keys.owner, "id").decode().endswith(f"/{cluster}/emails")
        # Done once: whoever takes it back keeps it.
        await eventually(
            lambda: (
                "bullpen.dev/adopt"
                not in api.get(VERSION, "JobQueue", cluster, "emails")["metadata"].get("annotations", {})
            )
        )
        redis.hset(keys.owner, mapping={"id": "elsewhere/shop/emails", "released": "0"})
        api.patch(VERSION, "JobQueue", cluster, "emails", {"metadata": {"annotations": {"touched": "yes"}}})
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "OwnedElsewhere"))


async def test_a_queue_whose_jobqueue_is_no_more_may_be_taken(api_server, api, cluster, redis, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
    api.delete(VERSION, "JobQueue", cluster, "emails")  # nobody sees it go
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, "mails", queueName="emails"))
        await ready(cluster, "mails")
        api.apply(jobqueue(cluster, "third", queueName="emails"))
        await eventually(lambda: conditions(api, cluster, "third").get("Ready") == ("False", "OwnedElsewhere"))
        assert conditions(api, cluster, "mails")["Ready"] == READY


async def test_objects_of_others_with_our_names_are_not_touched(api_server, api, cluster):
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "emails-worker", "namespace": cluster},
    }
    api.create(account)
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "NameTaken"))
        assert "ServiceAccount" in message(api, cluster)
        assert "labels" not in api.get("v1", "ServiceAccount", cluster, "emails-worker")["metadata"]


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


async def test_an_operator_takes_its_own_class_only(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster, class_name="blue") as one:
        api.apply(jobqueue(cluster))
        api.apply(jobqueue(cluster, "mine", className="blue"))
        await ready(cluster, "mine")
        await eventually(lambda: one.queue.idle)
        assert "status" not in api.get(VERSION, "JobQueue", cluster, "emails")
        assert api.find("coordination.k8s.io/v1", "Lease", cluster, "bullpen-operator-blue")


async def test_a_jobqueue_waits_for_its_connection_and_goes_on_when_it_comes(api_server, api, kinds, namespace, server):
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


def image_of(deployment):
    return deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def pod_of(deployment, started):
    """A pod that runs, as a ReplicaSet and a kubelet would have it."""
    template = deployment["spec"]["template"]
    meta = {"name": "pod-1", "namespace": deployment["metadata"]["namespace"], **template["metadata"]}
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


async def test_somebody_elses_workers_are_scaled_where_they_say_so(api_server, api, cluster, ready):
    labels = {"app": "legacy"}
    target = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "legacy", "namespace": cluster},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "node", "image": "node:1"}]}},
        },
    }
    api.apply(target)
    spec = {
        "worker": None,
        "scaleTargetRef": {"name": "legacy", "slotsPerReplica": 5},
        "scaling": {"minReplicas": 2, "maxReplicas": 5},
    }
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, **spec))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "ScaleTarget"))
        assert "bullpen.dev/scaled-by" in message(api, cluster)
        assert api.get("apps/v1", "Deployment", cluster, "legacy")["spec"]["replicas"] == 0
        api.patch(
            "apps/v1", "Deployment", cluster, "legacy", {"metadata": {"labels": {"bullpen.dev/scaled-by": "emails"}}}
        )
        await ready(cluster)
        await eventually(lambda: api.get("apps/v1", "Deployment", cluster, "legacy")["spec"]["replicas"] == 2)
        assert worker(api, cluster) is None


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
