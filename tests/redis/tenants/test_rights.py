"""What a tenant's user can do: all that the queue needs, and nothing else, tried command by command."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis

from bullpen import Backoff, Client, Context, Deduplication, Handlers, RetryableError, Snooze, SyncClient
from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import RedisUnavailable
from bullpen.queue.declaration import Owner, WriteDeclaration, declare
from bullpen.queue.keys import QueueKeys
from bullpen_operator.connections import acl
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.answers import version_of
from bullpen_worker import Worker
from tests.redis.tenants.conftest import PASSWORD, Shared, Tenant
from tests.support.waiting import eventually

CONTAINERS = {"acl", "client", "cluster", "command", "config", "function", "latency", "memory", "module", "object"}
CONTAINERS |= {"pubsub", "script", "slowlog", "xgroup", "xinfo", "sentinel"}
SUBCOMMANDS = {
    "client": ("list", "kill", "pause", "unpause", "unblock", "info", "id", "getname", "reply", "tracking", "no-evict"),
    "script": ("flush", "kill", "debug"),
}
"""Of the two commands of which something is allowed: what else there is. Of Redis 6.2 it cannot be asked."""

BEFORE_LOGIN = {"auth", "hello", "quit", "reset"}
"""What everybody may say, users or not; RESET and QUIT end what the connection was."""

BY_THE_SERVER = {"debug", "asking", "replconf", "psync", "sync", "pfdebug", "pfselftest"}

REACH = {
    "mget": ("mget", "{own}", "{key}"),
    "xread": ("xread", "streams", "{own}", "{key}", "0", "0"),
    "bzpopmin": ("bzpopmin", "{own}", "{key}", "0"),
    "rename": ("rename", "{own}", "{key}"),
    "rpoplpush": ("rpoplpush", "{own}", "{key}"),
    "eval": ("eval", "return redis.call('GET', KEYS[1])", "1", "{key}"),
    "exists": ("exists", "{own}", "{key}"),
    "del": ("del", "{own}", "{key}"),
    "unlink": ("unlink", "{own}", "{key}"),
}
"""Commands whose keys stand elsewhere than first, and those that take several."""

REFUSED = re.compile(r"ACL failure|can't (access|run)|[Nn]o permissions|not allowed from script")
"""What a script is told; Redis before 7 says it in sentences of its own."""

OTHERS = ("shop:images:meta", "bull:emails:meta", "shop:emails", "shop:emailsX:wait", "shopX:emails:wait", "x", "")


DONE_WITHOUT = {
    *("command client|setinfo", "command client|id", "command client|unblock", "command client"),
    *("command acl|whoami", "command acl", "command config|get", "command config"),
    "key shop:bullpen-doctor:meta",
}
"""What our own ask for where it may be had: a worker to end a wait sooner, the doctor to tell more."""


@pytest.fixture
def tenant(shared: Shared) -> Tenant:
    return shared.tenant("shop", "emails")


@pytest.fixture
def as_tenant(tenant: Tenant) -> Iterator[redis.Redis]:
    with contextlib.closing(tenant.redis) as connected:
        yield connected


def test_every_command_that_is_not_listed_is_refused(shared: Shared, as_tenant: redis.Redis) -> None:
    allowed = {*acl.CONNECTION, *acl.SINCE_7_2, *acl.CHANNELS, *acl.KEYS}
    tried, passed = 0, []
    for name, arity in arities(shared).items():
        if name in allowed | BEFORE_LOGIN | BY_THE_SERVER:
            continue
        attempts = [(name, *["1"] * (abs(arity) - 1))]
        if name in CONTAINERS and name not in SUBCOMMANDS:
            attempts = [(name, "help")]
        elif name in SUBCOMMANDS:
            attempts = [(name, sub, *filling(name, sub)) for sub in SUBCOMMANDS[name]]
        for attempt in attempts:
            tried += 1
            try:
                passed.append((attempt, as_tenant.execute_command(*attempt)))
            except redis.exceptions.NoPermissionError:
                pass
            except redis.exceptions.ResponseError as error:
                if "unknown" not in str(error).lower():  # a subcommand that this server does not have yet
                    passed.append((attempt, error))
    assert passed == []
    assert tried > 120


def arities(shared: Shared) -> dict[str, int]:
    """Give how many words each command of the server takes, its name among them; negative: at least."""
    return {name: entry["arity"] for name, entry in shared.raw.command().items()}


def filling(name: str, sub: str) -> tuple[str, ...]:
    return {
        ("client", "kill"): ("id", "1"),
        ("client", "pause"): ("1",),
        ("client", "unblock"): ("1",),
        ("client", "reply"): ("on",),
        ("client", "tracking"): ("off",),
        ("client", "no-evict"): ("on",),
        ("script", "debug"): ("no",),
    }.get((name, sub), ())


@pytest.mark.parametrize("key", OTHERS)
def test_no_command_that_is_allowed_reaches_another_key(shared: Shared, as_tenant: redis.Redis, key: str) -> None:
    wants = arities(shared)
    passed = []
    for name in acl.KEYS:
        command = REACH.get(name) or (name, "{key}", *["1"] * (abs(wants[name]) - 2))
        with contextlib.suppress(redis.exceptions.NoPermissionError):
            passed.append(
                (name, as_tenant.execute_command(*(part.format(key=key, own="shop:emails:meta") for part in command)))
            )
        lua = ", ".join(f"'{part.format(key=key, own='shop:emails:meta')}'" for part in command)
        try:
            as_tenant.eval(f"return redis.call({lua})", 0)
            passed.append((name, "by a script"))
        except redis.exceptions.ResponseError as error:
            if not REFUSED.search(str(error)):
                passed.append((name, error))
    assert passed == []
    with pytest.raises(redis.exceptions.ResponseError):
        as_tenant.execute_command("EVAL", "return redis.call('GET', KEYS[1])", "1", key)


def test_what_breaks_the_server_or_tells_of_others_is_refused_from_scripts_too(as_tenant: redis.Redis) -> None:
    for command in (
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "DBSIZE",
        "CONFIG GET *",
        "ACL LIST",
        "SELECT 1",
    ):
        words = ", ".join(f"'{word}'" for word in command.split())
        with pytest.raises(redis.exceptions.ResponseError, match=REFUSED):
            as_tenant.eval(f"return redis.call({words})", 0)


@pytest.mark.parametrize(
    "channel", ["shop:images:bullpen:nudge", "bull:emails:bullpen:nudge", "__keyevent@0__:del", "*"]
)
def test_only_the_queues_own_channel_is_heard_and_spoken_on(as_tenant: redis.Redis, channel: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        as_tenant.publish(channel, "x")
    for way, what in (("subscribe", channel), ("psubscribe", channel), ("psubscribe", "shop:emails:bullpen:nudge")):
        with contextlib.closing(as_tenant.pubsub()) as heard:
            getattr(heard, way)(what)
            with pytest.raises(redis.exceptions.NoPermissionError):
                heard.get_message(timeout=5)
    assert as_tenant.publish("shop:emails:bullpen:nudge", "policy") == 0


@pytest.mark.parametrize(
    ("prefix", "queue", "others"),
    [
        ("shop", "e*", ["shop:emails:meta", "shop:e:meta"]),
        ("shop", "[a-z]", ["shop:b:meta"]),
        ("shop", "e?ails", ["shop:emails:meta"]),
        ("shop", "e\\*", ["shop:e*:meta", "shop:emails:meta"]),
        ("shop", "{x}", ["shop:x:meta"]),
        ("shop", "^a", ["shop:b:meta"]),
        ("shop", "größe", ["shop:grösse:meta"]),
        ("a.b", "q", ["axb:q:meta"]),
    ],
)
def test_a_name_with_globs_in_it_is_taken_by_the_letter(
    shared: Shared, prefix: str, queue: str, others: list[str]
) -> None:
    tenant = shared.tenant(prefix, queue)
    with contextlib.closing(tenant.redis) as connected:
        assert connected.hset(f"{prefix}:{queue}:meta", "a", "b") == 1
        assert connected.publish(f"{prefix}:{queue}:bullpen:nudge", "x") == 0
        for key in others:
            with pytest.raises(redis.exceptions.NoPermissionError):
                connected.hset(key, "a", "b")


def test_names_with_blanks_cannot_be_confined() -> None:
    assert not acl.can_confine("shop", "two words")
    assert acl.can_confine("shop", "größe\u00a0*")


def test_a_dead_letter_queue_is_reached_too(shared: Shared) -> None:
    rules = acl.rules(Confines("shop", ("emails", "dead")), (acl.password_hash(PASSWORD),), version=(6, 2))
    shared.raw.execute_command("ACL", "SETUSER", "bullpen.x.shop.emails", *rules)
    tenant = shared.tenant("shop", "emails")
    shared.raw.execute_command("ACL", "SETUSER", tenant.user, *rules)
    with contextlib.closing(tenant.redis) as connected:
        assert connected.lpush("shop:dead:wait", "1") == 1
        with pytest.raises(redis.exceptions.NoPermissionError):
            connected.lpush("shop:deader:wait", "1")


def test_users_of_all_jobqueues_and_clusters_are_told_apart() -> None:
    names = {
        acl.user_name(cluster, namespace, name)
        for cluster in ("a", "b")
        for namespace, name in (("a", "b-c"), ("a-b", "c"), ("x", "y"))
    }
    assert len(names) == 6
    assert acl.owner_of(acl.user_name("a", "a-b", "c"), "a") == ("a-b", "c")
    assert acl.owner_of(acl.user_name("a", "a-b", "c"), "b") is None
    assert acl.owner_of("default", "a") is None


# -- everything that the queue is for ------------------------------------------------------------------------------

emails = Handlers("emails")


@emails.handler("tick")
async def tick() -> None:
    """Do nothing."""


@emails.handler("welcome")
async def welcome(ctx: Context[None], how: str) -> str:
    ctx.log("began")
    ctx.progress(50)
    if how == "flaky" and ctx.job.attempt == 1:
        raise RetryableError("again", delay="1ms")
    if how == "later" and not ctx.job.snoozes:
        raise Snooze("1ms")
    if how == "broken":
        raise ValueError
    if how == "long":
        await asyncio.sleep(30)
    return how


async def test_our_clients_and_our_worker_do_all_they_can(shared: Shared, tenant: Tenant) -> None:
    spec: dict[str, object] = {
        "concurrency": {"total": 5},
        "rateLimit": {"jobs": 1000, "per": "1s"},
        "retry": {"attempts": 2},
    }
    spec |= {"priorities": {"levels": {"normal": 10}, "default": "normal"}, "limits": {"waiting": 1000}}
    spec["schedules"] = [{"name": "tick", "every": "1s", "job": "tick"}]
    jobqueue = JobQueue.model_validate({"metadata": {"name": "emails"}, "spec": spec})
    async with Client(shared.url, prefix="shop") as owner:
        declaration = WriteDeclaration.of(jobqueue, QueueKeys("shop", "emails"), Owner("c", "shop", "emails"))
        await owner._session.run(declare(declaration, owner._session.now_ms()))
    shared.raw.acl_log_reset()

    async with Client(tenant.url, prefix="shop") as client, asyncio.timeout(60):
        worker = Worker(client, queue="emails", handlers=[emails])
        working = asyncio.create_task(worker.run())
        fine, flaky, later = [
            await client.enqueue(
                welcome.job(how), attempts=2, backoff=Backoff.linear("1ms"), timeout="1m", expires="1h"
            )
            for how in ("fine", "flaky", "later")
        ]
        assert [await each.result(timeout="60s") for each in (fine, flaky, later)] == ["fine", "flaky", "later"]
        many = await client.enqueue_many([welcome.job("fine") for _ in range(30)])
        assert [await each.result(timeout="60s") for each in many] == ["fine"] * 30
        broken = await client.enqueue(welcome.job("broken"), attempts=1)
        await eventually(lambda: _is(broken, "failed"), 20)
        await broken.retry()
        long = await client.enqueue(welcome.job("long"))
        await eventually(lambda: _is(long, "active"), 20)
        await long.cancel("enough")
        await eventually(lambda: _is(long, "cancelled"), 20)
        queue = client.queue("emails")
        await queue.pause()
        assert await queue.paused()
        waiting = await client.enqueue(welcome.job("fine"), deduplication=Deduplication.throttle("once", "1m"))
        delayed = await client.enqueue(welcome.job("fine"), delay="1h")
        await delayed.promote()
        await waiting.remove()
        await queue.jobs("completed")
        await queue.counts()
        await fine.logs()
        await queue.resume()
        report = await client.health()
        await asyncio.to_thread(_blocking, tenant)
        await eventually(lambda: shared.raw.zscore("shop:emails:repeat", "tick"))
        worker.stop()
        await working
    assert report.status != "fail"
    assert shared.denied() - DONE_WITHOUT == set()


@pytest.mark.parametrize("database", [1, 12])
def test_a_tenant_of_one_database_reaches_no_other(shared: Shared, database: int) -> None:
    """Two connections may offer two databases of one server, with the same prefix in each."""
    user = acl.user_name("test", "shop", "elsewhere")
    version = version_of(shared.raw.info("server"))
    rules = acl.rules(Confines("shop", ("emails",), database), (acl.password_hash(PASSWORD),), version=version)
    shared.raw.execute_command("ACL", "SETUSER", user, *rules)
    url = f"redis://{user}:{PASSWORD}@{urlsplit(shared.url).netloc}/{database}"
    with contextlib.closing(redis.Redis.from_url(url, decode_responses=True, protocol=2)) as tenant:
        tenant.hset("shop:emails:meta", "x", "mine")
        for other in (0, 2, 1 if database > 1 else 10, 11, 13):
            with pytest.raises(redis.exceptions.NoPermissionError):
                tenant.execute_command("SELECT", other)
            with pytest.raises(redis.exceptions.ResponseError, match=REFUSED):
                tenant.eval(f"return redis.call('SELECT', {other})", 0)
        assert tenant.hget("shop:emails:meta", "x") == "mine"
    assert shared.raw.hget("shop:emails:meta", "x") is None


async def _is(handle: object, state: str) -> bool:
    return (await handle.info()).state == state  # type: ignore[attr-defined]


def _blocking(tenant: Tenant) -> None:
    with SyncClient(tenant.url, prefix="shop") as client:
        handle = client.enqueue(welcome.job("fine"))
        assert handle.result(timeout="60s") == "fine"
        client.enqueue_many([welcome.job("fine") for _ in range(3)])
        client.queue("emails").counts()


@pytest.mark.parametrize(("prefix", "queue"), [("shop", "images"), ("bull", "emails")])
async def test_another_queue_is_refused_with_what_to_do(tenant: Tenant, prefix: str, queue: str) -> None:
    async with Client(tenant.url, prefix=prefix) as client:
        with pytest.raises(RedisUnavailable, match="ACL of this user"):
            await client.queue(queue).enqueue("x", {})
