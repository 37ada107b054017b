"""Connections and tenants on a real API server and real Redises: what is told of a connection, and who may use which."""

import base64
import contextlib
import json
from collections import Counter

import pytest
import redis

from bullpen import Client
from bullpen.redis.settings import RedisSettings
from bullpen_operator.connections import acl, controller, health
from tests.support import operators
from tests.support.kubernetes import api as kubernetes
from tests.support.mounting import mount
from tests.support.operators import VERSION, conditions, jobqueue, message, redis_connection, running
from tests.support.waiting import eventually

HIDDEN = "hunter2-is-my-password"


def told(api, kind, namespace, name):
    found = api.find(VERSION, kind, namespace, name) or {}
    status = found.get("status") or {}
    if status.get("observedGeneration") != found.get("metadata", {}).get("generation"):
        return {}
    return {each["type"]: (each["status"], each["reason"]) for each in status.get("conditions", ())}


def events(api, namespace):
    return {
        (each["type"], each["reason"], each["regarding"]["kind"])
        for each in api.list("events.k8s.io/v1", "Event", namespace)
    }


def secret(namespace, name, **data):
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": encoded}


# -- what is told of a connection ------------------------------------------------------------------------------------


async def test_a_connection_says_how_it_is_and_how_many_use_it(kinds, api_server, api, namespace, own):
    own.execute(b"CONFIG", b"SET", b"appendonly", b"yes")
    api.apply(redis_connection(namespace, own.url))
    async with running(api_server.admin, namespace):
        good = {"Ready": ("True", "Usable"), "Reachable": ("True", "Answers"), "WellConfigured": ("True", "AsNeeded")}
        await eventually(lambda: told(api, "RedisConnection", namespace, "redis") == good, 10)
        status = api.get(VERSION, "RedisConnection", namespace, "redis")["status"]
        assert (status["version"].split()[0], status["usedBy"]) == ("Redis", 0)
        api.apply(jobqueue(namespace))
        await eventually(lambda: api.get(VERSION, "RedisConnection", namespace, "redis")["status"]["usedBy"] == 1, 15)
        own.kill()
        await eventually(lambda: told(api, "RedisConnection", namespace, "redis")["Reachable"][0] == "False", 10)
        own.restart()
        await eventually(lambda: told(api, "RedisConnection", namespace, "redis")["Reachable"][0] == "True", 15)
        await eventually(lambda: ("Normal", "Reachable", "RedisConnection") in events(api, namespace), 10)
        assert any((each[0], each[2]) == ("Warning", "RedisConnection") for each in events(api, namespace))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({b"maxmemory-policy": b"allkeys-lru", b"maxmemory": b"1gb", b"appendonly": b"yes"}, "Evicts"),
        ({b"appendonly": b"no", b"save": b""}, "NotPersistent"),
        ({b"maxmemory": b"800kb", b"appendonly": b"yes"}, "MemoryFull"),
    ],
)
async def test_a_redis_that_is_wrongly_set_up_is_told_of(kinds, api_server, api, namespace, own, settings, reason):
    for name, value in settings.items():
        own.execute(b"CONFIG", b"SET", name, value)
    api.apply(redis_connection(namespace, own.url))
    async with running(api_server.admin, namespace):
        await eventually(
            lambda: told(api, "RedisConnection", namespace, "redis").get("WellConfigured") == ("False", reason), 10
        )
        await eventually(lambda: ("Warning", reason, "RedisConnection") in events(api, namespace), 10)
        assert told(api, "RedisConnection", namespace, "redis")["Ready"] == ("True", "Usable")


@pytest.mark.parametrize(
    ("endpoint", "data", "reason", "says"),
    [
        ("redis://127.0.0.1:1/0", {"password": HIDDEN}, "Unreachable", "connection refused"),
        ("redis://127.0.0.1:1/0", {"other": HIDDEN}, "CredentialsUnreadable", 'has no key "password"'),
        ("redis://127.0.0.1:1/0", None, "CredentialsUnreadable", 'there is no Secret "redis" in namespace'),
        ("redis://nowhere.invalid:6379/0", {"password": HIDDEN}, "Unreachable", "cannot be resolved"),
    ],
)
async def test_a_redis_that_cannot_be_reached_is_told_of(
    kinds, api_server, api, namespace, endpoint, data, reason, says
):
    if data is not None:
        api.apply(secret(namespace, "redis", **data))
    connection = redis_connection(namespace, endpoint)
    connection["spec"]["auth"] = {"password": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    api.apply(connection)
    async with running(api_server.admin, namespace):
        await eventually(
            lambda: told(api, "RedisConnection", namespace, "redis").get("Reachable") == ("False", reason), 10
        )
        found = api.get(VERSION, "RedisConnection", namespace, "redis")["status"]
        assert says in found["conditions"][0]["message"]
        assert HIDDEN not in json.dumps(found)


async def test_operators_of_two_classes_say_the_same_of_a_connection(
    kinds, api_server, api, namespace, own, monkeypatch
):
    monkeypatch.setattr(controller, "LOOK_SECONDS", 0.1)
    look, looks = health.look, Counter()

    async def counted(redis):
        looks[id(redis)] += 1
        return await look(redis)

    monkeypatch.setattr(health, "look", counted)
    api.apply(redis_connection(namespace, own.url))
    api.apply(jobqueue(namespace))
    api.apply(jobqueue(namespace, "theirs", className="teams"))

    async def three_looks_each():
        before = looks.copy()
        await eventually(lambda: len(looks) == 2 and all(looks[each] >= before[each] + 3 for each in looks), 30)

    async with running(api_server.admin, namespace), running(api_server.admin, namespace, class_name="teams"):
        await eventually(lambda: all(conditions(api, namespace, name) for name in ("emails", "theirs")), 20)
        await three_looks_each()
        await eventually(lambda: api.get(VERSION, "RedisConnection", namespace, "redis")["status"]["usedBy"] == 2, 15)
        await three_looks_each()
        said = api.get(VERSION, "RedisConnection", namespace, "redis")["metadata"]["resourceVersion"]
        await three_looks_each()
        assert api.get(VERSION, "RedisConnection", namespace, "redis")["metadata"]["resourceVersion"] == said


async def test_a_password_in_an_endpoint_is_refused_by_the_api_server(kinds, api, namespace):
    with pytest.raises(kubernetes.ApiError, match="endpoints"):
        api.apply(redis_connection(namespace, f"redis://user:{HIDDEN}@127.0.0.1:1/0"))


# -- tenants ---------------------------------------------------------------------------------------------------------


def offered(url, name="shared", *, default=False, selector=None, **spec):
    annotations = {"bullpen.dev/default": "true"} if default else {}
    given = {"endpoints": [url], "allowedNamespaces": {"selector": selector or {"matchLabels": {"redis": "shared"}}}}
    return {
        "apiVersion": VERSION,
        "kind": "ClusterRedisConnection",
        "metadata": {"name": name, "annotations": annotations},
        "spec": given | spec,
    }


@pytest.fixture
def tenants(own_api_server):
    """A cluster with three namespaces, of which the platform offers its Redis to two."""
    with contextlib.closing(own_api_server.api()) as api:
        api.install(operators.CRDS.read_text())
        api.namespace("bullpen-system")
        for name, labels in (("a", {"redis": "shared"}), ("b", {"redis": "shared"}), ("c", {})):
            api.namespace(name, labels)
        yield api


@contextlib.asynccontextmanager
async def cluster_wide(own_api_server):
    async with running(own_api_server.admin, "bullpen-system", namespaces=()) as operator:
        yield operator


def binding(api, namespace, name="emails"):
    found = api.get("v1", "Secret", namespace, f"{name}-binding")["data"]
    return {key: base64.b64decode(value).decode() for key, value in found.items()}


async def test_tenants_share_a_redis_and_nothing_else(own_api_server, tenants, own, tmp_path):
    api = tenants
    own.execute(b"CONFIG", b"SET", b"requirepass", HIDDEN.encode())
    api.apply(secret("bullpen-system", "redis", password=HIDDEN))
    auth = {"password": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    plain = own.url.rsplit("@")[-1].removeprefix("redis://")
    api.apply(offered(f"redis://{plain}", default=True, auth=auth))
    for namespace in ("a", "b", "c"):
        api.apply(jobqueue(namespace))
    async with cluster_wide(own_api_server):
        for namespace in ("a", "b"):
            await eventually(
                lambda namespace=namespace: conditions(api, namespace).get("Ready") == ("True", "AsDeclared"), 20
            )
        await eventually(lambda: conditions(api, "c").get("Ready") == ("False", "NamespaceNotAllowed"), 20)
        assert "allowedNamespaces" in message(api, "c")
        assert api.find("v1", "Secret", "c", "emails-binding") is None
        await eventually(lambda: api.get(VERSION, "ClusterRedisConnection", "", "shared")["status"]["usedBy"] == 2, 15)

        mine, theirs = binding(api, "a"), binding(api, "b")
        assert (mine["prefix"], theirs["prefix"]) == ("a", "b")
        assert mine["username"] != theirs["username"]
        mount(tmp_path / "emails", mine)
        settings = RedisSettings.from_environment({"SERVICE_BINDING_ROOT": str(tmp_path)})
        async with Client(settings) as client:
            await client.queue("emails").enqueue("welcome", {})
        with contextlib.closing(redis.Redis.from_url(mine["uri"], protocol=2)) as tenant:
            assert tenant.llen("a:emails:wait") + tenant.zcard("a:emails:prioritized") == 1
            with pytest.raises(redis.exceptions.NoPermissionError):
                tenant.llen("b:emails:wait")
        # No tenant is told the platform's password, nor is anybody else.
        for kind, version in (("Secret", "v1"), ("Event", "events.k8s.io/v1"), ("JobQueue", VERSION)):
            for namespace in ("a", "b", "c"):
                text = json.dumps(api.list(version, kind, namespace))
                assert HIDDEN not in text
                assert base64.b64encode(HIDDEN.encode()).decode() not in text
        assert HIDDEN not in json.dumps(api.get(VERSION, "ClusterRedisConnection", "", "shared"))

        # the user goes with the JobQueue
        api.delete(VERSION, "JobQueue", "a", "emails")
        with contextlib.closing(
            redis.Redis.from_url(f"redis://:{HIDDEN}@{plain}", decode_responses=True, protocol=2)
        ) as raw:
            await eventually(lambda: mine["username"] not in raw.acl_users(), 15)
            assert theirs["username"] in raw.acl_users()


async def test_what_another_tenant_has_cannot_be_named(own_api_server, tenants, own):
    api = tenants
    # b brings a Redis of its own, with a password; a would like to use both.
    api.apply(secret("b", "redis", password=HIDDEN))
    api.apply(redis_connection("b", own.url, name="bs"))
    api.apply(jobqueue("a", "by-name", redisRef={"kind": "RedisConnection", "name": "bs"}))
    stolen = redis_connection("a", own.url, name="stolen", default=False)
    stolen["spec"]["auth"] = {"password": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    api.apply(stolen)
    api.apply(jobqueue("a", "by-secret", redisRef={"kind": "RedisConnection", "name": "stolen"}))
    api.apply(jobqueue("a", "by-nothing"))
    # A target of somebody else's, without the label that its owner would have put there.
    api.apply(redis_connection("a", own.url, name="own", default=False))
    api.apply(deployment("a", "theirs"))
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "theirs"}
    own_ref = {"kind": "RedisConnection", "name": "own"}
    api.apply(jobqueue("a", "by-target", redisRef=own_ref, worker=None, scaleTargetRef=target))
    async with cluster_wide(own_api_server):
        await eventually(lambda: conditions(api, "a", "by-name").get("Ready") == ("False", "ConnectionNotFound"), 20)
        await eventually(
            lambda: conditions(api, "a", "by-nothing").get("Ready") == ("False", "NoDefaultConnection"), 20
        )
        await eventually(lambda: conditions(api, "a", "by-secret").get("RedisReachable", ("",))[0] == "False", 20)
        assert 'there is no Secret "redis" in namespace "a"' in message(api, "a", "RedisReachable", "by-secret")
        await eventually(lambda: conditions(api, "a", "by-target").get("Ready", ("",))[0] == "False", 20)
        assert "bullpen.dev/scaled-by" in message(api, "a", "Ready", "by-target")
        assert api.get("apps/v1", "Deployment", "a", "theirs")["spec"]["replicas"] == 3


def deployment(namespace, name):
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "x", "image": "x:1"}]}},
        },
    }


async def test_one_prefix_for_many_namespaces_is_refused_and_for_one_alone_it_is_not(own_api_server, tenants, own):
    api = tenants
    api.apply(offered(own.url, prefix="bull"))
    api.apply(offered(own.url, "alone", prefix="bull", selector={"matchLabels": {"kubernetes.io/metadata.name": "b"}}))
    api.apply(jobqueue("a", redisRef={"kind": "ClusterRedisConnection", "name": "shared"}))
    api.apply(jobqueue("b", redisRef={"kind": "ClusterRedisConnection", "name": "alone"}))
    async with cluster_wide(own_api_server):
        await eventually(lambda: conditions(api, "a").get("Ready") == ("False", "PrefixShared"), 20)
        await eventually(lambda: conditions(api, "b").get("Ready") == ("True", "AsDeclared"), 20)
        assert binding(api, "b")["prefix"] == "bull"


async def test_a_queue_of_another_tenant_is_not_taken_and_no_user_made_for_it(own_api_server, tenants, own):
    """Two namespaces with a Redis of their own each, which is the same, and so is the prefix."""
    api = tenants
    for namespace in ("a", "b"):
        api.apply(redis_connection(namespace, own.url, users="Managed"))
    api.apply(jobqueue("a"))
    async with cluster_wide(own_api_server):
        await eventually(lambda: conditions(api, "a").get("Ready") == ("True", "AsDeclared"), 20)
        api.apply(jobqueue("b"))
        await eventually(lambda: conditions(api, "b").get("Ready") == ("False", "OwnedElsewhere"), 20)
        assert api.find("v1", "Secret", "b", "emails-binding") is None
        with contextlib.closing(redis.Redis.from_url(own.url, decode_responses=True, protocol=2)) as raw:
            owners = [user.split(".")[2] for user in raw.acl_users() if user.startswith("bullpen.")]
        assert owners == ["a"]


async def test_names_that_are_globs_reach_no_further(own_api_server, tenants, own):
    api = tenants
    api.apply(offered(own.url, default=True))
    for name, queue in (("star", "*"), ("brackets", "[a-z]mails"), ("braces", "{a}"), ("plain", "emails")):
        api.apply(jobqueue("a", name, queueName=queue))
    async with cluster_wide(own_api_server):
        for name in ("star", "brackets", "braces", "plain"):
            await eventually(lambda name=name: conditions(api, "a", name).get("Ready") == ("True", "AsDeclared"), 20)
        for name in ("star", "brackets", "braces"):
            mine = binding(api, "a", name)
            with contextlib.closing(redis.Redis.from_url(mine["uri"], protocol=2)) as tenant:
                tenant.hget(f"a:{mine['queue']}:meta", "paused")
                with pytest.raises(redis.exceptions.NoPermissionError):
                    tenant.hget("a:emails:meta", "paused")
        api.apply(jobqueue("a", "blanks", queueName="two words"))
        await eventually(lambda: conditions(api, "a", "blanks").get("Ready") == ("False", "QueueNameUnsupported"), 20)


async def test_a_password_is_replaced_on_request(own_api_server, tenants, own):
    api = tenants
    api.apply(offered(own.url, default=True))
    api.apply(jobqueue("a"))
    async with cluster_wide(own_api_server):
        await eventually(lambda: conditions(api, "a").get("Ready") == ("True", "AsDeclared"), 20)
        before = binding(api, "a")
        api.patch(VERSION, "JobQueue", "a", "emails", {"metadata": {"annotations": {"bullpen.dev/rotate": "now"}}})
        after = await eventually(lambda: (found := binding(api, "a"))["password"] != before["password"] and found, 20)
        with contextlib.closing(redis.Redis.from_url(own.url, decode_responses=True, protocol=2)) as raw:
            valid = set(raw.acl_getuser(after["username"])["passwords"])
        assert valid == {acl.password_hash(before["password"]), acl.password_hash(after["password"])}
        for each in (before, after):
            async with Client(each["uri"], prefix=each["prefix"]) as client:
                await client.queue("emails").counts()
