"""Whose a queue, an object or a Deployment is: what is another's is left alone, and told of."""

from bullpen.queue.keys import QueueKeys
from tests.support.operators import READY, VERSION, conditions, jobqueue, message, running, worker
from tests.support.waiting import eventually


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


async def test_an_operator_takes_its_own_class_only(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster, class_name="blue") as one:
        api.apply(jobqueue(cluster))
        api.apply(jobqueue(cluster, "mine", className="blue"))
        await ready(cluster, "mine")
        await eventually(lambda: one.queue.idle)
        assert "status" not in api.get(VERSION, "JobQueue", cluster, "emails")
        assert api.find("coordination.k8s.io/v1", "Lease", cluster, "bullpen-operator-blue")


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
