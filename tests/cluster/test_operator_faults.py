"""The operator while the API server fails: nothing is scaled wrongly, nothing is lost, nothing crashes."""

import pytest
from redis import Redis

from bullpen import Client, embedded
from bullpen.queue.keys import QueueKeys
from tests.support import operators
from tests.support.kubernetes import proxy
from tests.support.kubernetes.faults import Answer, LoseReply
from tests.support.operators import VERSION, conditions, jobqueue, redis_connection, running
from tests.support.waiting import eventually

READY = ("True", "AsDeclared")
SIMPLE = {"minReplicas": 1, "maxReplicas": 5, "jobsPerReplica": 1}


@pytest.fixture(scope="module")
def server():
    with embedded.start(unix=False) as started:
        yield started


@pytest.fixture
def redis(server):
    client = Redis.from_url(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def cluster(api_server, api, namespace, server, redis):
    api_server.api().install(operators.CRDS.read_text())
    api.apply(redis_connection(namespace, server.url))
    return namespace


@pytest.fixture
def faulty(api_server):
    with proxy.between(api_server) as made:
        yield made


@pytest.fixture
def login(api_server, cluster, faulty):
    return api_server.login(f"operator-{cluster}", "system:masters", server=faulty.url)


def ready(api, namespace, name="emails"):
    return conditions(api, namespace, name).get("Ready") == READY


def replicas(api, namespace, name="emails"):
    made = api.find("apps/v1", "Deployment", namespace, f"{name}-worker")
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
        await eventually(lambda: ready(api, cluster), 60)
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
        await eventually(lambda: ready(api, cluster), 20)
        await eventually(lambda: replicas(api, cluster) == 1)
        assert [rule.hits for rule in rules] == [3, 3, 3]


async def test_watches_that_are_cut_or_too_old_miss_nothing(api, cluster, faulty, login):
    async with running(login, cluster) as one:
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: ready(api, cluster), 15)
        for end in (faulty.cut_watches, faulty.end_watches):
            await eventually(lambda: faulty.watching("jobqueues") > 0, 15)
            end()
            name = f"after-{end.__name__.replace('_', '-')}"
            api.apply(jobqueue(cluster, name, scaling=SIMPLE))
            await eventually(lambda name=name: ready(api, cluster, name), 20)
        assert one.informers.restarts == 0


async def test_watches_that_are_refused_for_long_are_started_anew_in_place(api, cluster, faulty, login):
    async with running(login, cluster) as one:
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: ready(api, cluster), 15)
        # A role that is taken away ends Kopf for good; it comes back with the role.
        rule = faulty.inject(Answer(403), verbs={"watch"}, user=login.user)
        faulty.cut_watches()
        await eventually(lambda: one.informers.restarts > 0, 100)
        faulty.remove(rule)
        api.apply(jobqueue(cluster, "late", scaling=SIMPLE))
        await eventually(lambda: ready(api, cluster, "late"), 90)


async def test_what_went_while_nobody_watched_is_found_gone(api, cluster, faulty, login, redis):
    async with running(login, cluster, resync_seconds=4.0):
        api.apply(jobqueue(cluster, scaling=SIMPLE))
        await eventually(lambda: ready(api, cluster), 15)
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
        await eventually(lambda: ready(api, namespace), 20)
        own_api_server.kill()
        await enqueue(server, 3)
        await eventually(lambda: "lease_unreachable" in a.lines, 30)
        await eventually(lambda: "leads_no_more" in a.lines, 30)
        assert a.process.poll() is None
        own_api_server.start()
        await eventually(lambda: replicas(api, namespace) == 3, 60)
        api.apply(jobqueue(namespace, "late", scaling=SIMPLE))
        await eventually(lambda: ready(api, namespace, "late"), 90)
        assert a.end() == 0
