"""What one tenant writes under its own queue's keys, which it may, costs no other tenant of the same Redis the operator."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from bullpen import embedded
from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import RedisUnavailable
from bullpen.queue.declaration import OwnedElsewhere, Owner, ReadOwnership, WriteDeclaration, declare
from bullpen.queue.keys import QueueKeys
from bullpen.redis.findings import Status
from bullpen.redis.wire import Reply
from bullpen_operator.connections import acl, health
from bullpen_operator.connections import users as module
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.connections.users import Users, Wanted
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling.looking import ROOM_BYTES, Sight
from bullpen_operator.scaling.observer import CHUNK, Observer
from support.secrets import Secrets
from tests.support.waiting import eventually

KEYS = QueueKeys("shop", "emails")
OWNER = Owner("c1", "shop", "emails", "u")
NOW_MS = 1_800_000_000_000


@pytest.fixture
def tenant(own: embedded.Server) -> Iterator[redis.Redis]:
    with contextlib.closing(redis.Redis.from_url(own.url, protocol=2)) as raw:
        yield raw


@pytest.fixture
async def there(own: embedded.Server) -> AsyncIterator[Redis]:
    async with Redises(Secrets()) as redises:
        found = await redises.of(RedisRef(own.url.rsplit("/", 1)[0] + "/0", "infra", id="shared"))
        await eventually(lambda: found.up)
        yield found


def jobqueue(*schedules: str) -> JobQueue:
    each = [{"name": name, "cron": "0 8 * * 1", "job": "send"} for name in schedules]
    manifest = {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": "emails", "namespace": "shop"},
        "spec": {"schedules": each},
    }
    return JobQueue.model_validate(manifest)


async def declared(there: Redis, *schedules: str) -> tuple[str, ...]:
    return await there.run_steps(declare(WriteDeclaration.of(jobqueue(*schedules), KEYS, OWNER), NOW_MS))


async def test_an_owner_of_five_megabytes(there: Redis, tenant: redis.Redis) -> None:
    tenant.hset(KEYS.owner, "id", b"x" * 5_000_000)
    with pytest.raises(OwnedElsewhere) as caught:
        await declared(there)
    assert len(str(caught.value)) < 2_000
    assert len((await there.run(ReadOwnership(KEYS))).owner) == 512
    assert there.up


async def test_schedules_of_five_megabytes_and_a_hundred_thousand_of_them(there: Redis, tenant: redis.Redis) -> None:
    assert await declared(there, "digest") == ("policy", "schedule digest")
    assert await declared(there, "digest") == ()
    tenant.hset(KEYS.owned, mapping={f"schedule:{number}": "{}" for number in range(100_000)})
    tenant.hset(KEYS.owned, mapping={"schedule:text": "{", "schedule:list": "[]"})
    tenant.hset(KEYS.owned, "schedule:large", b"x" * 5_000_000)
    tenant.zadd(KEYS.repeat, {f"many{number}": 1 for number in range(10)})
    for number in range(10):
        tenant.hset(f"{KEYS.repeat}:many{number}", "data", b"x" * 1_900_000)
        tenant.hset(KEYS.owned, f"schedule:many{number}", "{}")
    tenant.hset(f"{KEYS.repeat}:digest", "data", b"x" * 5_000_000)
    tenant.hset(KEYS.owned, mapping={f"meta:{number}": "" for number in range(5_000)})
    tenant.hset(KEYS.meta, mapping=dict.fromkeys(range(5_000), ""))
    await declared(there, "digest")
    assert there.up
    assert await there.call("PING") == b"PONG"


class Heard:
    """Keeps the last of each queue."""

    def __init__(self) -> None:
        self.sights: dict[str, Sight] = {}
        self.troubles: list[str] = []

    def seen(self, key: Key, sight: Sight, waited_ms: float | None) -> None:
        self.sights[key.name] = sight

    def unseen(self, key: Key, why: str) -> None:
        self.troubles.append(why)

    def polled(self, server: str, seconds: float, queues: int) -> None:
        pass


@pytest.mark.parametrize("hostile", [1, CHUNK - 1])
async def test_a_crowd_of_workers_that_say_too_much(there: Redis, tenant: redis.Redis, hostile: int) -> None:
    entries, size = (2_000, 8_000) if hostile == 1 else (100, 8_000)
    names = [f"hostile{number}" for number in range(hostile)]
    for name in names:
        keys = QueueKeys("shop", name)
        crew: dict[str | bytes, bytes] = {f"w{number}": b"x" * size for number in range(entries)}
        tenant.hset(keys.workers, mapping=crew)
        tenant.hset(keys.retiring, mapping=crew)
    honest = {f"pod{number}@0123456789ab": json.dumps({"host": f"pod{number}", "busy": 1}) for number in range(500)}
    honest = {name: entry + " " * 500 for name, entry in honest.items()}
    assert sum(map(len, honest.values())) > ROOM_BYTES // CHUNK
    tenant.hset(KEYS.workers, mapping=honest)
    heard = Heard()
    observer = Observer(there, heard)
    for name in (*names, "emails"):
        observer.add(Key(kinds.JOBQUEUE, "shop", name), QueueKeys("shop", name), crew=True)
    working = asyncio.create_task(observer.run())
    try:
        await eventually(lambda: heard.sights.keys() >= {*names, "emails"}, 15)
        roll = heard.sights["emails"].roll
        assert roll is not None
        assert len(roll.workers) == 500
        if hostile == 1:
            assert heard.sights[names[0]].roll is None
        before = observer.readings
        for name in (*names, "emails"):
            observer.nudge(Key(kinds.JOBQUEUE, "shop", name))
        await eventually(lambda: observer.readings >= before + len(names) + 1, 15)
        assert heard.troubles == []
        assert there.up
    finally:
        working.cancel()
        await asyncio.wait([working])


async def test_a_connection_on_which_somebody_always_waits_may_be_answered_for_ever(
    there: Redis, tenant: redis.Redis
) -> None:
    tenant.set("large", b"x" * 300_000)

    async def ask() -> None:
        for _ in range(20):
            assert len(await there.call("GET", "large") or b"") == 300_000  # type: ignore[arg-type]

    await asyncio.gather(*(ask() for _ in range(8)))
    assert there.up


async def test_what_a_tenant_was_refused_costs_nobody_else_the_operator(
    there: Redis, tenant: redis.Redis, own: embedded.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis notes what it refused in full: a key of five megabytes, a name of as many."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    users = Users(there_of(there), cluster=lambda: "c1", exists=lambda *_: True, leading=lambda: True)
    name, other = users.name("shop", "emails"), users.name("shop", "images")
    hashed = acl.password_hash("mine")
    await users.put(there, name, Wanted(Confines("shop", ("emails",)), (hashed,)))
    await users.put(there, other, Wanted(Confines("shop", ("images",)), (hashed,)))
    with contextlib.closing(redis.Redis.from_url(own.url, username=name, password="mine", protocol=2)) as hostile:
        with pytest.raises(redis.exceptions.NoPermissionError):
            hostile.get("x" * 5_000_000)
        with pytest.raises(redis.exceptions.RedisError):
            hostile.execute_command("AUTH", "x" * 5_000_000, "x")
    with pytest.raises(RedisUnavailable, match="sent too much"):
        await there.call_aside("ACL", "LOG", 16)
    for _ in range(3):
        await users.look(there.ref)
    assert there.up
    tenant.acl_deluser(other)
    await users.look(there.ref)
    assert other.encode() in tenant.acl_users() or other in tenant.acl_users()
    tenant.acl_log_reset()
    monkeypatch.setattr(module, "LOG_AGAIN_SECONDS", 0.0)
    await users.look(there.ref)
    tenant.execute_command("ACL", "SETUSER", other, "resetpass")
    with (
        contextlib.closing(redis.Redis.from_url(own.url, username=other, password="mine")) as locked_out,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        locked_out.ping()
    await users.look(there.ref)
    with contextlib.closing(redis.Redis.from_url(own.url, username=other, password="mine")) as let_in:
        assert let_in.ping()


def there_of(there: Redis) -> Redises:
    """A pool that knows this one."""
    redises = Redises(Secrets())
    redises._known[there.ref] = there
    return redises


async def test_errors_of_a_tenants_making_are_not_read(there: Redis, tenant: redis.Redis) -> None:
    sent = []
    exchange = there.exchange

    async def noted(packed: bytes, count: int, **options: float) -> list[Reply]:
        sent.append(packed)
        return await exchange(packed, count, **options)

    there.exchange = noted  # type: ignore[method-assign]
    seen = await health.look(there)
    assert seen.version
    assert {finding.status for finding in seen.findings.values()} <= {Status.OK, Status.WARN}
    # Before Redis 7 there is no end to the kinds of errors that it counts, and a script makes as many as it likes.
    assert b"$4\r\nINFO\r\n*" not in sent[0]
    for section in (b"server", b"memory", b"persistence", b"replication"):
        assert section in sent[0]
