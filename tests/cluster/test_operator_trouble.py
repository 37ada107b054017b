"""What goes wrong beside a JobQueue, at the API server, in Redis or with its connection: what runs goes on, and stays told."""

import json

from bullpen.queue.keys import QueueKeys
from bullpen_operator import operator
from bullpen_operator.kube import client as kube_client
from tests.support.kubernetes import proxy
from tests.support.kubernetes.faults import Answer
from tests.support.operators import READY, VERSION, conditions, image_of, jobqueue, message, running, worker
from tests.support.waiting import eventually

SECRETS = {"verbs": {"get"}, "resources": {"secrets"}}


def status(api, namespace):
    return api.get(VERSION, "JobQueue", namespace, "emails")["status"]


def shop(tag):
    return {"image": f"shop:{tag}", "handlers": ["shop.jobs"]}


async def test_an_api_server_that_fails_for_a_while_is_none_of_the_jobqueues(
    api_server, api, cluster, ready, monkeypatch
):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
    monkeypatch.setattr(kube_client, "ATTEMPTS", 1)
    with proxy.between(api_server) as faulty:
        login = api_server.login(f"operator-{cluster}", "system:masters", server=faulty.url)
        rule = faulty.inject(Answer(503), **SECRETS, user=login.user, times=2)
        async with running(login, cluster):
            await eventually(lambda: rule.hits == 2, 20)
            api.apply(jobqueue(cluster, worker=shop(2)))
            await eventually(lambda: conditions(api, cluster).get("Ready") == READY, 20)
        told = [json.loads(one.body)["status"] for one in faulty.seen("patch", resource="jobqueues/status")]
    assert image_of(worker(api, cluster)) == "shop:2"
    assert {
        (each["status"], each["reason"]) for new in told for each in new["conditions"] if each["type"] == "Ready"
    } == {READY}


async def test_an_api_server_that_goes_on_failing_is_told(api_server, api, cluster, monkeypatch):
    monkeypatch.setattr(kube_client, "ATTEMPTS", 1)
    monkeypatch.setattr(operator, "TELL_AFTER_SECONDS", 0.5)
    with proxy.between(api_server) as faulty:
        login = api_server.login(f"operator-{cluster}", "system:masters", server=faulty.url)
        rule = faulty.inject(Answer(500, "unable to transform key"), **SECRETS, user=login.user)
        async with running(login, cluster):
            api.apply(jobqueue(cluster))
            await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "ApiServerUnavailable"), 20)
            assert "unable to transform key" in message(api, cluster)
            faulty.remove(rule)
            await eventually(lambda: conditions(api, cluster).get("Ready") == READY, 30)


async def test_a_queue_that_cannot_be_declared_holds_up_no_rollout(api_server, api, cluster, redis, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        keys = QueueKeys("bull", "emails")
        redis.delete(keys.owner)
        redis.set(keys.owner, "what is no owner")
        api.apply(jobqueue(cluster, worker=shop(2)))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "ReplyError"), 15)
        assert image_of(worker(api, cluster)) == "shop:2"
        assert status(api, cluster)["binding"] == {"name": "emails-binding"}
        assert "WRONGTYPE" in message(api, cluster)


async def test_a_connection_that_goes_leaves_what_runs_in_the_status(api_server, api, cluster, ready):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster))
        await ready(cluster)
        before = status(api, cluster)
        api.delete(VERSION, "RedisConnection", cluster, "redis")
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "NoDefaultConnection"), 15)
        after = status(api, cluster)
    kept = ("replicas", "selector", "queue", "binding")
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
