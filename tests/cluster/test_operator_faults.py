"""The operator while the API server fails: nothing is scaled wrongly, nothing is lost, nothing crashes."""

import gc

import pytest

from bullpen import Client
from bullpen.queue.keys import QueueKeys
from bullpen_operator.kube import access, kinds
from bullpen_operator.kube import client as kube_client
from bullpen_operator.kube.errors import TooLarge
from tests.support import operators
from tests.support.kubernetes import proxy
from tests.support.kubernetes.faults import Answer, LoseReply
from tests.support.operators import VERSION, is_ready, jobqueue, redis_connection, running, worker
from tests.support.waiting import eventually

SIMPLE = {"minReplicas": 1, "maxReplicas": 5, "jobsPerReplica": 1}


@pytest.fixture
def faulty(api_server):
    with proxy.between(api_server) as made:
        yield made


@pytest.fixture
def login(api_server, cluster, faulty):
    return api_server.login(f"operator-{cluster}", "system:masters", server=faulty.url)


def replicas(api, namespace, name="emails"):
    made = worker(api, namespace, name)
    return made and made["spec"]["replicas"]


async def enqueue(server, jobs):
    async with Client(server.url) as client:
        for number in range(jobs):
            await client.queue("emails").enqueue("welcome", {"n": number})


@pytest.mark.parametrize("fault", [Answer(429, retry_after=1), Answer(500), Answer(503), LoseReply()])
async def test_requests_that_fail_for_a_while_are_made_again(api, cluster, faulty, login, fault):
    rules = [
        faulty.inject(fault, verbs={verb}, user=login.user, times=2) for verb in ("patch", "create", "get", "list")
    ]
    async with running(login, cluster):
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster), 60)
        assert replicas(api, cluster) == 1
        assert rules[0].hits == 2


async def test_conflicts_are_decided_on_anew(api, cluster, faulty, login):
    rules = [
        faulty.inject(Answer(409), verbs={"patch"}, resources={"deployments/scale"}, times=3),
        faulty.inject(Answer(409), verbs={"patch"}, resources={"deployments"}, times=3),
        faulty.inject(Answer(409), verbs={"patch"}, resources={"jobqueues/status"}, times=3),
    ]
    async with running(login, cluster):
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster), 20)
        await eventually(lambda: replicas(api, cluster) == 1)
        assert [rule.hits for rule in rules] == [3, 3, 3]


async def test_watches_that_are_cut_or_too_old_miss_nothing(api, cluster, faulty, login):
    async with running(login, cluster) as one:
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster), 15)
        for end in (faulty.cut_watches, faulty.end_watches):
            await eventually(lambda: faulty.watching("jobqueues") > 0, 15)
            end()
            name = f"after-{end.__name__.replace('_', '-')}"
            api.apply(jobqueue(cluster, name, scaling=SIMPLE))
            await eventually(lambda name=name: is_ready(api, cluster, name), 20)
        assert one.informers.restarts == 0


@pytest.mark.parametrize("status", [403, 410])
async def test_watches_that_are_refused_are_started_anew_in_place_and_soon(api, cluster, faulty, login, status):
    async with running(login, cluster) as one:
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster), 15)
        # A role that is taken away, or a version that is too old, ends Kopf for good.
        rule = faulty.inject(Answer(status), verbs={"watch"}, user=login.user)
        gc.freeze()  # as the operator does each minute
        faulty.cut_watches()
        await eventually(lambda: one.informers.restarts > 1, 40)
        assert gc.get_freeze_count() == 0, "each life of Kopf's would stay in memory"
        faulty.remove(rule)
        api.apply(jobqueue(cluster, "late", scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster, "late"), 20)


async def test_what_went_while_no_watch_was_good_is_found_gone_when_kopf_lists_anew(api, cluster, faulty, login):
    async with running(login, cluster) as one:
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster), 15)
        known = one.cache.get(kinds.JOBQUEUE, cluster, "emails")
        gone = {**known, "metadata": known["metadata"] | {"name": "gone", "uid": "gone", "resourceVersion": "1"}}
        await eventually(lambda: faulty.watching("jobqueues") > 0, 15)
        one.cache.put(kinds.JOBQUEUE, gone)
        faulty.end_watches()
        await eventually(lambda: one.cache.get(kinds.JOBQUEUE, cluster, "gone") is None, 15)
        assert one.informers.restarts == 0


async def test_a_list_that_failed_is_made_again_soon(api, cluster, faulty, login, redis):
    async with running(login, cluster) as one:
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster), 15)
        known = one.cache.get(kinds.JOBQUEUE, cluster, "emails")
        gone = {**known, "metadata": known["metadata"] | {"name": "gone", "uid": "gone", "resourceVersion": "1"}}
        one.cache.put(kinds.JOBQUEUE, gone)
        rule = faulty.inject(Answer(400), verbs={"list"}, resources={"pods"}, user=login.user, times=2)
        faulty.end_watches()
        await eventually(lambda: rule.hits == 2, 15)
        await eventually(lambda: one.cache.get(kinds.JOBQUEUE, cluster, "gone") is None, 20)


async def test_what_went_while_nobody_watched_is_found_gone(api, cluster, faulty, login, redis):
    async with running(login, cluster, resync_seconds=4.0):
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, cluster), 15)
        rule = faulty.inject(Answer(503), verbs={"watch"}, resources={"jobqueues"})
        faulty.cut_watches()
        await eventually(lambda: rule.hits > 0, 15)
        api.delete(VERSION, "JobQueue", cluster, "emails")
        await eventually(lambda: redis.hget(QueueKeys("bull", "emails").owner, "released") == b"1", 30)


async def test_an_api_server_that_is_away_changes_nothing_and_all_is_made_good_after(
    own_api_server, server, redis, tmp_path
):
    api = own_api_server.api()
    api.install(operators.CRDS.read_text())
    namespace = api.namespace("shop")
    api.apply(redis_connection(namespace, server.url))
    with operators.process(own_api_server.admin, namespace, "a", tmp_path) as a:
        api.apply(jobqueue(namespace, scaling=SIMPLE))
        await eventually(lambda: is_ready(api, namespace), 20)
        own_api_server.kill()
        await enqueue(server, 3)
        await eventually(lambda: "lease_unreachable" in a.lines, 30)
        await eventually(lambda: "leads_no_more" in a.lines, 30)
        assert a.process.poll() is None
        own_api_server.start()
        await eventually(lambda: replicas(api, namespace) == 3, 60)
        api.apply(jobqueue(namespace, "late", scaling=SIMPLE))
        await eventually(lambda: is_ready(api, namespace, "late"), 90)
        assert a.end() == 0


async def test_a_jobqueue_that_is_nested_deep_stops_nobody(api_server, api, cluster, tmp_path):
    deep = '{"a":' * 5_000 + "1" + "}" * 5_000
    spec = f'{{"worker": {{"image": "a", "handlers": ["a"], "podTemplate": {deep}}}}}'
    meta = f'{{"name": "deep", "namespace": "{cluster}"}}'
    file = tmp_path / "deep.json"
    file.write_text(f'{{"apiVersion": "{VERSION}", "kind": "JobQueue", "metadata": {meta}, "spec": {spec}}}')
    api_server.kubectl("create", "--validate=false", "-f", str(file))
    show = ("get", "jobqueue", "deep", "-n", cluster, "-o", "jsonpath={.status.conditions[0].reason}")
    try:
        with operators.process(api_server.admin, cluster, "a", tmp_path) as a:
            api.apply(jobqueue(cluster, scaling=SIMPLE))
            await eventually(lambda: is_ready(api, cluster), 30)
            await eventually(lambda: api_server.kubectl(*show) == "InvalidSpec", 15)
            api.apply(jobqueue(cluster, "late", scaling=SIMPLE))
            await eventually(lambda: is_ready(api, cluster, "late"), 30)
            assert "informers_restart" not in a.lines
            assert a.end() == 0
    finally:
        api_server.kubectl("delete", "jobqueue", "deep", "-n", cluster)


async def test_what_is_too_large_for_one_reply_is_read_in_smaller_ones(api_server, api, cluster, monkeypatch):
    for number in range(20):
        api.apply(jobqueue(cluster, f"q{number}", payloadSchema={"description": "x" * 4_000}))
    monkeypatch.setattr(kube_client, "LARGEST_REPLY_BYTES", 30_000)
    async with kube_client.Kube(await access.configuration(str(api_server.admin.kubeconfig))) as kube:
        assert len(await kube.list(kinds.JOBQUEUE, cluster)) == 20
        monkeypatch.setattr(kube_client, "LARGEST_REPLY_BYTES", 3_000)
        with pytest.raises(TooLarge):
            await kube.list(kinds.JOBQUEUE, cluster)
