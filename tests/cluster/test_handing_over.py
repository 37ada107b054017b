"""The lead goes from one operator to another and back: what each found in its own time is not taken for what is so now."""

import contextlib

import pytest

from bullpen import Client
from bullpen.queue.keys import QueueKeys
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key
from bullpen_operator.reconciler import owned_elsewhere
from tests.support.kubernetes import proxy
from tests.support.kubernetes.faults import Delay
from tests.support.operators import VERSION, conditions, image_of, is_ready, jobqueue, running, worker
from tests.support.waiting import eventually

LEASES = "coordination.k8s.io/v1"
WRONG = [{"name": "digest", "cron": "0 25 * * *", "job": "weekly-digest"}]


@pytest.fixture
def hand(api, cluster):
    """Give the lead from one operator to the other."""

    async def hand(giver, taker):
        holder = {"spec": {"holderIdentity": taker._settings.identity}}
        api.patch(LEASES, "Lease", cluster, "bullpen-operator", holder)
        await eventually(lambda: taker.leads() and not giver.leads(), 20)

    return hand


@contextlib.asynccontextmanager
async def two(login, cluster, other=None):
    """Operators a and b; a leads."""
    async with running(login, cluster) as a:
        await eventually(a.leads, 15)
        async with running(other or login, cluster, identity="b") as b:
            await eventually(lambda: b.prepared, 15)
            yield a, b


def shop(tag):
    return {"image": f"shop:{tag}", "handlers": ["shop.jobs"]}


def policy(operator, key):
    """By what it would scale the JobQueue now."""
    return operator._scaler._cares[key].charge.unit.policy


async def test_the_last_good_spec_is_not_the_one_of_an_earlier_lead(api_server, api, cluster, hand):
    key = Key(kinds.JOBQUEUE, cluster, "emails")
    async with two(api_server.admin, cluster) as (a, b):
        api.apply(jobqueue(cluster, worker=shop(1)))
        await eventually(lambda: is_ready(api, cluster), 15)
        await hand(a, b)
        api.apply(jobqueue(cluster, worker=shop(2), scaling={"maxReplicas": 7}))
        await eventually(lambda: is_ready(api, cluster) and image_of(worker(api, cluster)) == "shop:2", 15)
        api.apply(jobqueue(cluster, worker=shop(3), schedules=WRONG))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "InvalidSpec"), 15)
        await eventually(lambda: a.cache.find(key)["metadata"]["generation"] == 3 and a.queue.idle, 15)
        assert policy(a, key) == policy(b, key)
        await hand(b, a)
        api.apply(jobqueue(cluster, worker=shop(4), schedules=WRONG))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "InvalidSpec"), 15)
        assert image_of(worker(api, cluster)) == "shop:2"


async def test_figures_of_an_earlier_lead_are_shown_no_more(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster) as one:
        api.apply(jobqueue(cluster))
        await ready(cluster)
        series = f'bullpen_queue_jobs{{namespace="{cluster}"'
        await eventually(lambda: series in one._render().decode(), 15)
        one._lead_changed(leads=False)
        one._lead_changed(leads=True)
        assert series not in one._render().decode()
        await eventually(lambda: series in one._render().decode(), 15)


async def test_one_that_takes_the_lead_scales_for_no_jobqueue_whose_queue_is_anothers(
    api_server, api, cluster, server, ready, hand
):
    other = Key(kinds.JOBQUEUE, cluster, "other")
    with proxy.between(api_server) as faulty:
        slow = api_server.login(f"slow-{cluster}", "system:masters", server=faulty.url)
        async with two(api_server.admin, cluster, slow) as (a, b):
            api.apply(jobqueue(cluster, scaling={"maxReplicas": 5, "jobsPerReplica": 1}))
            await ready(cluster)
            api.apply(legacy(cluster))
            target = {"name": "legacy", "slotsPerReplica": 1}
            spec = {"worker": None, "queueName": "emails", "scaleTargetRef": target}
            api.apply(jobqueue(cluster, "other", **spec))
            await eventually(lambda: conditions(api, cluster, "other").get("Ready") == ("False", "OwnedElsewhere"), 15)
            await eventually(lambda: owned_elsewhere(b.cache.find(other) or {}) and b.queue.idle, 15)
            assert b._scaler.state(other) is None
            async with Client(server.url) as client:
                for number in range(3):
                    await client.queue("emails").enqueue("welcome", {"n": number})
            await eventually(lambda: worker(api, cluster)["spec"]["replicas"] == 3, 15)
            faulty.inject(Delay(1.0), verbs={"list"}, resources={"controllerrevisions"})
            await hand(a, b)
            api.apply(jobqueue(cluster, "other", **spec, timeout="7m"))
            await eventually(lambda: conditions(api, cluster, "other").get("Ready") == ("False", "OwnedElsewhere"), 15)
            assert api.get("apps/v1", "Deployment", cluster, "legacy")["spec"]["replicas"] == 1


async def test_what_goes_while_the_lead_is_taken_is_let_go_of(api_server, api, cluster, redis, ready, hand):
    with proxy.between(api_server) as faulty:
        slow = api_server.login(f"slow-{cluster}", "system:masters", server=faulty.url)
        async with two(api_server.admin, cluster, slow) as (a, b):
            api.apply(jobqueue(cluster))
            await ready(cluster)
            key = Key(kinds.JOBQUEUE, cluster, "emails")
            await eventually(lambda: b._scaler.state(key) is not None, 15)
            faulty.inject(Delay(3.0), verbs={"list"}, resources={"controllerrevisions"})
            await hand(a, b)
            api.delete(VERSION, "JobQueue", cluster, "emails")
            await eventually(lambda: redis.hget(QueueKeys("bull", "emails").owner, "released") == b"1", 30)
            assert b._scaler.state(key) is None


def legacy(namespace):
    """Somebody's workers, which the JobQueue `other` may scale."""
    labels = {"app": "legacy"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "legacy", "namespace": namespace, "labels": {"bullpen.dev/scaled-by": "other"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }
