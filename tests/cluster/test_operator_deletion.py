"""What becomes of queues when their JobQueues are deleted, on a real API server and a real Redis."""

from contextlib import closing

from redis import Redis

from bullpen import Client, embedded
from bullpen.queue.keys import QueueKeys
from tests.support import operators
from tests.support.operators import VERSION, conditions, is_ready, jobqueue, redis_connection, running
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "emails")


async def declared(api, namespace, **spec):
    api.apply(jobqueue(namespace, **spec))
    await eventually(lambda: is_ready(api, namespace), 15)


def found(api, namespace):
    return api.find(VERSION, "JobQueue", namespace, "emails")


def events(api, namespace):
    return {each["reason"] for each in api.list("events.k8s.io/v1", "Event", namespace)}


async def enqueue(server, jobs=1):
    async with Client(server.url) as client:
        for number in range(jobs):
            await client.queue("emails").enqueue("welcome", {"number": number})


async def test_retain_has_no_finalizer_and_lets_the_queue_go(api_server, api, cluster, server, redis):
    async with running(api_server.admin, cluster):
        await declared(api, cluster)
        await enqueue(server)
        assert "finalizers" not in found(api, cluster)["metadata"]
        api.delete(VERSION, "JobQueue", cluster, "emails")
        await eventually(lambda: redis.hget(KEYS.owner, "released") == b"1")
        assert redis.llen(KEYS.wait) == 1


async def test_drain_closes_the_queue_and_waits_for_the_workers(api_server, api, cluster, server, redis):
    every = [{"name": "sweep", "every": "1h", "job": "sweep"}]
    async with running(api_server.admin, cluster):
        await declared(api, cluster, deletion={"policy": "Drain"}, schedules=every)
        assert found(api, cluster)["metadata"]["finalizers"] == ["bullpen.dev/queue"]
        await enqueue(server)
        assert redis.zcard(KEYS.repeat) == 1
        api.delete(VERSION, "JobQueue", cluster, "emails")
        await eventually(lambda: b'"closed":true' in redis.hget(KEYS.policy, "doc"))
        await eventually(lambda: redis.zcard(KEYS.repeat) == 0)
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "Deleting"))
        redis.delete(KEYS.wait)  # a worker has done it
        await eventually(lambda: found(api, cluster) is None, 10)
        assert redis.hget(KEYS.owner, "released") == b"1"
        await eventually(lambda: "QueueEnded" in events(api, cluster))


async def test_delete_removes_all_that_is_the_queues(api_server, api, cluster, server, redis):
    async with running(api_server.admin, cluster):
        await declared(api, cluster, deletion={"policy": "Delete"})
        await enqueue(server, 50)
        api.delete(VERSION, "JobQueue", cluster, "emails")
        await eventually(lambda: found(api, cluster) is None, 10)
        left = {key.decode() for key in redis.scan_iter("bull:emails:*")}
        assert left <= {KEYS.events, KEYS.id, KEYS.meta, "bull:emails:bullpen:scaling"}


async def test_delete_waits_for_running_jobs_and_gives_up_at_its_timeout(api_server, api, cluster, server, redis):
    async with running(api_server.admin, cluster):
        await declared(api, cluster, deletion={"policy": "Delete", "timeout": "3s"})
        await enqueue(server)
        redis.rpoplpush(KEYS.wait, KEYS.active)
        api.delete(VERSION, "JobQueue", cluster, "emails")
        await eventually(lambda: conditions(api, cluster).get("Reconciling") == ("True", "Deleting"))
        await eventually(lambda: redis.hexists(KEYS.meta, "paused"))
        await eventually(lambda: found(api, cluster) is None, 15)
        await eventually(lambda: "DeletionGaveUp" in events(api, cluster))
        assert redis.llen(KEYS.active) == 1
        assert not redis.hexists(KEYS.meta, "paused")  # whoever takes the queue next finds it at work
        assert b"timeout" in redis.hget(KEYS.owner, "tombstone")


async def test_a_policy_that_is_changed_sets_and_takes_the_finalizer(api_server, api, cluster):
    async with running(api_server.admin, cluster):
        await declared(api, cluster, deletion={"policy": "Drain"})
        await declared(api, cluster, deletion={"policy": "Retain"})
        await eventually(lambda: "finalizers" not in found(api, cluster)["metadata"])


async def test_deletion_gives_up_where_there_is_no_connection_any_more(api_server, api, cluster):
    async with running(api_server.admin, cluster):
        await declared(api, cluster, deletion={"policy": "Drain"})
        api.delete(VERSION, "RedisConnection", cluster, "redis")
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "NoDefaultConnection"))
        api.delete(VERSION, "JobQueue", cluster, "emails")
        await eventually(lambda: found(api, cluster) is None)
        await eventually(lambda: "DeletionGaveUp" in events(api, cluster))


async def test_deletion_gives_up_where_the_spec_was_never_one_to_be_followed(api_server, api, cluster):
    made = jobqueue(cluster, deletion={"policy": "Delete"}, schedules=[{"name": "a", "cron": "0 25 * * *", "job": "a"}])
    async with running(api_server.admin, cluster):
        api.create({**made, "metadata": {**made["metadata"], "finalizers": ["bullpen.dev/queue"]}})
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "InvalidSpec"), 15)
        api.delete(VERSION, "JobQueue", cluster, "emails")
        await eventually(lambda: found(api, cluster) is None, 15)
        await eventually(lambda: "DeletionGaveUp" in events(api, cluster), 15)


async def test_a_dying_namespace_is_not_held_up(control_plane, server, redis):
    api = control_plane.api()
    api.install(operators.CRDS.read_text())
    namespace = api.namespace("dying")
    api.apply(redis_connection(namespace, server.url))
    async with running(control_plane.admin, api.namespace("bullpen-system"), namespaces=()):
        await declared(api, namespace, deletion={"policy": "Drain", "timeout": "1h"})
        await enqueue(server)
        api.delete("v1", "Namespace", "", namespace)
        await eventually(lambda: api.find("v1", "Namespace", "", namespace) is None, 40)
        assert redis.llen(KEYS.wait) == 1


async def test_a_jobqueue_that_moves_to_another_redis_lets_its_queue_go(api_server, api, cluster, server, redis):
    with embedded.start(unix=False) as other, closing(Redis.from_url(other.url)) as there:
        api.apply(redis_connection(cluster, other.url, name="other", default=False))
        async with running(api_server.admin, cluster):
            await declared(api, cluster)
            await enqueue(server)
            await declared(api, cluster, redisRef={"name": "other"})
            assert redis.hget(KEYS.owner, "released") == b"1"
            assert redis.llen(KEYS.wait) == 1
            assert there.hexists(KEYS.owner, "id")
            assert there.hget(KEYS.owner, "released") == b"0"
            await eventually(lambda: "QueueReleased" in events(api, cluster))


async def test_a_jobqueue_that_goes_another_way_to_the_same_redis_keeps_its_queue(
    api_server, api, cluster, server, redis
):
    another_name = server.url.replace("127.0.0.1", "localhost")
    assert another_name != server.url
    api.apply(redis_connection(cluster, another_name, name="other", default=False))
    async with running(api_server.admin, cluster):
        await declared(api, cluster)
        await declared(api, cluster, redisRef={"name": "other"})
        assert redis.hget(KEYS.owner, "released") == b"0"


async def test_another_account_of_a_redis_whose_first_is_gone_keeps_its_queue(api_server, api, cluster, server, redis):
    redis.acl_setuser("first", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all"])
    first = redis_connection(cluster, server.url)
    api.apply({**first, "spec": first["spec"] | {"auth": {"username": {"value": "first"}}}})
    async with running(api_server.admin, cluster):
        await declared(api, cluster)
        redis.acl_deluser("first")
        api.apply(redis_connection(cluster, server.url, name="other", default=False))
        await declared(api, cluster, redisRef={"name": "other"})
        assert redis.hget(KEYS.owner, "released") == b"0"
        assert "QueueNotReleased" not in events(api, cluster)


async def test_a_queue_on_a_redis_that_is_away_when_its_jobqueue_moves_is_told_of(api_server, api, cluster, redis):
    with embedded.start(unix=False) as other:
        api.apply(redis_connection(cluster, other.url, name="other", default=False))
        async with running(api_server.admin, cluster):
            await declared(api, cluster, redisRef={"name": "other"})
            other.stop()
            await declared(api, cluster)
            assert redis.hexists(KEYS.owner, "id")
            await eventually(lambda: "QueueNotReleased" in events(api, cluster))
