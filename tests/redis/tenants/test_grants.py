"""Each JobQueue's user and Secret: made, kept while Redis forgets, replaced without anybody's restart, taken away."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from bullpen import Client, Handlers, embedded
from bullpen.api.v1alpha1 import JobQueue
from bullpen.redis.settings import RedisSettings
from bullpen_operator.cache import Cache
from bullpen_operator.connections import acl, binding
from bullpen_operator.connections.grants import BindingNameTaken, Grants
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import DataRef, RedisRef
from bullpen_operator.connections.resolve import Resolved, resolve
from bullpen_operator.connections.users import Users, UsersRefused
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import NotLeading
from bullpen_operator.kube.kinds import Key, Object
from bullpen_worker import Worker
from support.secrets import Secrets
from tests.support.kubernetes.processes import free_ports
from tests.support.mounting import mount
from tests.support.waiting import eventually

NOW = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
CONNECTION = Key(kinds.CLUSTER_REDIS_CONNECTION, "", "shared")


@dataclass
class Room:
    """An operator's part that is tested, on one Redis."""

    url: str
    secrets: Secrets
    redises: Redises
    users: Users
    grants: Grants
    clock: list[datetime]
    existing: set[tuple[str, str]]
    again: dict[Key, float]
    """What is to be ensured again, and in how many seconds."""
    found: Resolved = field(init=False)

    def __post_init__(self) -> None:
        self.found = Resolved(
            RedisRef(self.url.rsplit("/", 1)[0] + "/0", "infra", id="shared"), "shop", CONNECTION, "Managed"
        )

    @property
    def raw(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True, protocol=2)

    async def redis(self) -> Redis:
        return await self.redises.of(self.found.ref)

    async def ensure(
        self, name: str = "emails", *, found: Resolved | None = None, **annotations: str
    ) -> dict[str, str]:
        """Ensure, and give what the Secret says."""
        resolved = found or self.found
        obj = manifest(name, **annotations)
        self.existing.add(("shop", name))
        jobqueue = JobQueue.model_validate(obj, extra="ignore")
        redis = await self.redises.of(resolved.ref)
        await eventually(lambda: redis.up or redis.trouble)
        secret = await self.grants.ensure(obj, jobqueue, resolved, redis)
        return self.secrets.data("shop", secret)

    def names(self) -> set[str]:
        with contextlib.closing(self.raw) as raw:
            return set(raw.acl_users()) - {"default"}

    def hashes(self, name: str = "emails") -> set[str]:
        with contextlib.closing(self.raw) as raw:
            found = raw.acl_getuser(self.users.name("shop", name))
        return set() if found is None else set(found["passwords"])


def manifest(name: str, **annotations: str) -> Object:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "annotations": annotations}
    return {"apiVersion": "bullpen.dev/v1alpha1", "kind": "JobQueue", "metadata": metadata, "spec": {}}


@pytest.fixture
async def room(own: embedded.Server) -> AsyncIterator[Room]:
    async with make_room(own.url) as room:
        yield room


@contextlib.asynccontextmanager
async def make_room(url: str) -> AsyncIterator[Room]:
    secrets = Secrets()
    clock = [NOW]
    existing: set[tuple[str, str]] = set()
    async with Redises(secrets) as redises:
        users = Users(redises, cluster=lambda: "c1", exists=lambda *names: names in existing, leading=lambda: True)
        again: dict[Key, float] = {}
        grants = Grants(
            secrets, Cache(), users, operator_namespace="infra", now=lambda: clock[0], again=again.__setitem__
        )
        task = asyncio.create_task(users.run())
        try:
            yield Room(url, secrets, redises, users, grants, clock, existing, again)
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_a_jobqueue_gets_a_user_and_a_secret_that_works(room: Room, tmp_path: Path) -> None:
    files = await room.ensure()
    assert files.keys() == {
        *("type", "provider", "uri", "host", "port", "database", "username", "password", "prefix", "queue"),
    }
    assert (files["type"], files["prefix"], files["queue"]) == ("redis", "shop", "emails")
    assert files["username"] == acl.user_name("c1", "shop", "emails")
    mount(tmp_path / "emails", files)
    async with Client(environment(tmp_path)) as client:
        await client.queue("emails").enqueue("welcome", {})
        assert await client.queue("emails").counts()
    with contextlib.closing(
        redis.Redis.from_url(files["uri"], protocol=2)
    ) as node:  # as clients of any language read it
        assert node.llen("shop:emails:wait") == 1
    # the same again: nothing is written, and hardly anything is read
    reads = room.secrets.reads
    assert await room.ensure() == files
    assert (len(room.secrets.applied), room.secrets.reads - reads) == (1, 0)
    assert files["password"] not in repr(room.grants._given)


def environment(root: Path) -> RedisSettings:
    return RedisSettings.from_environment({"SERVICE_BINDING_ROOT": str(root)})


async def test_what_redis_forgets_is_back_within_five_seconds(own: embedded.Server, room: Room) -> None:
    await room.ensure("emails")
    await room.ensure("images")
    names = room.names()
    assert len(names) == 2
    own.restart()  # with the same data and without the users
    await eventually(lambda: room.names() == names, 5)
    with contextlib.closing(room.raw) as raw:
        raw.acl_deluser(next(iter(names)))
    await eventually(lambda: room.names() == names, 5)


async def test_a_login_that_is_refused_has_its_user_set_again(room: Room) -> None:
    files = await room.ensure()
    with contextlib.closing(room.raw) as raw:
        raw.execute_command("ACL", "SETUSER", files["username"], "resetpass")
    with (
        contextlib.closing(redis.Redis.from_url(files["uri"], protocol=2)) as tenant,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        tenant.ping()
    await eventually(lambda: room.hashes() == {acl.password_hash(files["password"])}, 5)


async def test_an_operator_that_knows_nothing_keeps_the_password_of_the_secret(
    own: embedded.Server, room: Room
) -> None:
    files = await room.ensure()
    async with make_room(own.url) as successor:
        successor.grants._kube = room.secrets
        successor.secrets = room.secrets
        assert await successor.ensure() == files
        assert len(room.secrets.applied) == 1


async def test_both_passwords_are_valid_until_everybody_has_the_new_one(room: Room) -> None:
    first = await room.ensure()
    assert room.again == {}
    second = await room.ensure(**{"bullpen.dev/rotate": "1"})
    assert second["password"] != first["password"]
    (wait,) = room.again.values()
    assert wait == pytest.approx(binding.OVERLAP.total_seconds(), abs=2)
    assert room.hashes() == {acl.password_hash(first["password"]), acl.password_hash(second["password"])}
    assert first["password"] not in str(room.secrets.applied[-1])
    room.clock[0] += binding.OVERLAP - timedelta(seconds=1)
    assert await room.ensure(**{"bullpen.dev/rotate": "1"}) == second
    assert len(room.hashes()) == 2
    room.clock[0] += timedelta(seconds=1)
    assert await room.ensure(**{"bullpen.dev/rotate": "1"}) == second
    assert room.hashes() == {acl.password_hash(second["password"])}
    room.clock[0] += binding.ROTATE_AFTER
    assert (await room.ensure(**{"bullpen.dev/rotate": "1"}))["password"] != second["password"]


async def test_both_are_valid_also_for_a_redis_that_restarts_meanwhile(own: embedded.Server, room: Room) -> None:
    await room.ensure()
    await room.ensure(**{"bullpen.dev/rotate": "1"})
    both = room.hashes()
    own.restart()
    await eventually(lambda: room.hashes() == both, 5)


emails = Handlers("emails")


@emails.handler("double")
async def double(number: int) -> int:
    return 2 * number


async def test_a_running_worker_and_client_take_a_new_password_up(room: Room, tmp_path: Path) -> None:
    folder = mount(tmp_path / "emails", await room.ensure())
    async with Client(environment(tmp_path)) as client, asyncio.timeout(60):
        worker = Worker(client, queue="emails", handlers=[emails])
        working = asyncio.create_task(worker.run())
        assert await (await client.enqueue(double.job(1))).result(timeout="60s") == 2
        changed = await room.ensure(**{"bullpen.dev/rotate": "1"})
        room.clock[0] += binding.OVERLAP
        await room.ensure(**{"bullpen.dev/rotate": "1"})
        assert room.hashes() == {acl.password_hash(changed["password"])}
        # who is connected stays so with the old password gone
        assert await (await client.enqueue(double.job(2))).result(timeout="60s") == 4
        mount(folder, changed)
        with contextlib.closing(room.raw) as raw:
            raw.client_kill_filter(user=changed["username"])
        await client.queue("emails").counts()  # may be repeated, as an enqueue may not
        assert await (await client.enqueue(double.job(3))).result(timeout="60s") == 6
        worker.stop()
        await working


async def test_a_worker_whose_login_is_refused_waits_until_it_is_not(
    own: embedded.Server, room: Room, tmp_path: Path
) -> None:
    files = await room.ensure()
    mount(tmp_path / "emails", files)
    async with Client(environment(tmp_path)) as client, asyncio.timeout(60):
        worker = Worker(client, queue="emails", handlers=[emails])
        working = asyncio.create_task(worker.run())
        assert await (await client.enqueue(double.job(1))).result(timeout="60s") == 2
        own.restart()
        await eventually(room.names, 5)
        assert await (await client.enqueue(double.job(2))).result(timeout="60s") == 4
        worker.stop()
        await working


async def test_an_operator_that_leads_anew_takes_up_what_another_changed(own: embedded.Server, room: Room) -> None:
    await room.ensure()
    async with make_room(own.url) as other:  # which led meanwhile
        other.grants._kube = other.secrets = room.secrets
        changed = await other.ensure(**{"bullpen.dev/rotate": "1"})
    valid = room.hashes()
    room.grants.renew()
    if room.found.ref in room.users._servers:
        await room.users.look(room.found.ref)
    assert room.hashes() == valid
    assert await room.ensure(**{"bullpen.dev/rotate": "1"}) == changed
    assert room.hashes() == valid


async def test_without_the_lead_no_user_is_touched(room: Room) -> None:
    await room.ensure()
    room.users._leading = lambda: False
    with pytest.raises(NotLeading):
        await room.ensure("images")
    with pytest.raises(NotLeading):
        await room.grants.drop(Key(kinds.JOBQUEUE, "shop", "emails"), room.found, await room.redis())
    assert room.names() == {acl.user_name("c1", "shop", "emails")}


async def test_a_queue_that_moves_to_another_connection_has_another_password(room: Room) -> None:
    first = await room.ensure()
    moved = replace(room.found, connection_key=Key(kinds.REDIS_CONNECTION, "shop", "own"))
    assert (await room.ensure(found=moved))["password"] != first["password"]


OWNED = {"queue": {"name": "dead", "prefix": "shop"}, "conditions": [{"type": "QueueOwned", "status": "True"}]}


@pytest.mark.parametrize(
    ("elsewhere", "status", "reached"),
    [
        ({}, OWNED, {"shop:emails:*", "shop:dead:*"}),
        ({}, {}, {"shop:emails:*"}),
        ({}, OWNED | {"conditions": [{"type": "QueueOwned", "status": "False"}]}, {"shop:emails:*"}),
        ({}, OWNED | {"queue": {"name": "dead", "prefix": "bull"}}, {"shop:emails:*"}),
        ({"queueName": "theirs"}, OWNED, {"shop:emails:*"}),
        ({"redisRef": {"name": "other"}}, OWNED, {"shop:emails:*"}),
        (None, {}, {"shop:emails:*"}),
    ],
    ids=[
        *("on the same connection", "not declared yet", "owned by another", "of another prefix", "of another name"),
        *("on another connection", "not there"),
    ],
)
async def test_a_dead_letter_queue_is_reached_where_it_is_on_the_same_connection(
    room: Room, elsewhere: dict[str, object] | None, status: dict[str, object], reached: set[str]
) -> None:
    cache = Cache()
    room.grants._cache = cache
    endpoint = room.found.ref.endpoint
    for name, default in (("main", "true"), ("other", "false")):
        metadata = {"name": name, "namespace": "shop", "annotations": {"bullpen.dev/default": default}}
        cache.put(kinds.REDIS_CONNECTION, {"metadata": metadata, "spec": {"endpoints": [endpoint], "prefix": "shop"}})
    if elsewhere is not None:
        if (
            "redisRef" in elsewhere
        ):  # the same server by another account: another tenant's business, for all that is known
            other = cache.get(kinds.REDIS_CONNECTION, "shop", "other")
            assert other is not None
            other["spec"]["auth"] = {"password": {"secretKeyRef": {"name": "a", "key": "b"}}}
        cache.put(kinds.JOBQUEUE, manifest("dead") | {"spec": elsewhere, "status": status})
    obj = manifest("emails") | {"spec": {"deadLetter": {"jobQueueRef": {"name": "dead"}}}}
    jobqueue = JobQueue.model_validate(obj, extra="ignore")
    found = resolve(jobqueue, cache, operator_namespace="infra")
    assert isinstance(found, Resolved)
    redis = await room.redises.of(found.ref)
    await eventually(lambda: redis.up)
    await room.grants.ensure(obj, jobqueue, found, redis)
    with contextlib.closing(room.raw) as raw:
        user = raw.acl_getuser(room.users.name("shop", "emails"))
    assert {pattern.removeprefix("~") for pattern in user["keys"]} == reached


async def test_drop_takes_the_user_and_ends_its_connections(room: Room) -> None:
    files = await room.ensure()
    with contextlib.closing(redis.Redis.from_url(files["uri"], protocol=2)) as tenant:
        tenant.ping()
        await room.grants.drop(Key(kinds.JOBQUEUE, "shop", "emails"), room.found, await room.redis())
        tenant.ping()  # there are pods yet, which have jobs to finish
        room.existing.clear()
        await eventually(lambda: room.names() == set(), 5)
        with pytest.raises(redis.exceptions.RedisError):
            tenant.ping()


async def test_users_of_jobqueues_that_are_gone_are_taken_away_and_those_of_others_are_not(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bullpen_operator.connections.users.ORPHAN_SECONDS", 0.0)
    await room.ensure("emails")
    with contextlib.closing(room.raw) as raw:
        for user in (acl.user_name("c1", "gone", "q"), acl.user_name("c2", "gone", "q"), "somebody"):
            raw.acl_setuser(user, enabled=True)
    await room.users.look(room.found.ref)
    assert room.names() == {acl.user_name("c1", "shop", "emails"), acl.user_name("c2", "gone", "q"), "somebody"}


async def test_an_account_that_may_not_manage_users_is_told_what_it_needs(room: Room) -> None:
    with contextlib.closing(room.raw) as raw:
        raw.execute_command("ACL", "SETUSER", "default", "-acl")
    with pytest.raises(UsersRefused, match=r"allow it ACL SETUSER.*or set spec.users to Shared"):
        await room.ensure()
    assert room.secrets.applied == []


async def test_shared_hands_the_connections_own_account_to_the_tenant(own: embedded.Server, room: Room) -> None:
    own.execute(b"CONFIG", b"SET", b"requirepass", b"everybodys")
    room.secrets.put("infra", "redis", password="everybodys")
    source = DataRef("Secret", "redis", "password", "spec.auth.password.secretKeyRef")
    shared = replace(room.found, users="Shared", ref=replace(room.found.ref, password_from=source))
    files = await room.ensure(found=shared)
    assert (files["password"], "username" in files) == ("everybodys", False)


async def test_another_shared_password_is_handed_on_when_it_is_asked_for(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bullpen_operator.connections.credentials.REFUSED_PAUSE_SECONDS", 0.0)
    own.execute(b"CONFIG", b"SET", b"requirepass", b"first")
    room.secrets.put("infra", "redis", password="first")
    source = DataRef("Secret", "redis", "password", "spec.auth.password.secretKeyRef")
    shared = replace(room.found, users="Shared", ref=replace(room.found.ref, password_from=source))
    assert (await room.ensure(found=shared))["password"] == "first"
    room.secrets.put("infra", "redis", password="second")
    assert (await room.ensure(found=shared))["password"] == "first"  # a Secret is not read each time
    assert (await room.ensure(found=shared, **{"bullpen.dev/rotate": "1"}))["password"] == "second"
    reads = room.secrets.reads
    assert (await room.ensure(found=shared, **{"bullpen.dev/rotate": "1"}))["password"] == "second"
    assert room.secrets.reads == reads


async def test_a_secret_of_somebody_elses_is_not_overwritten(room: Room) -> None:
    room.secrets.put("shop", "emails-binding", password="theirs")
    with pytest.raises(BindingNameTaken, match='Secret "emails-binding" in namespace "shop" is not of Bullpen'):
        await room.ensure()
    assert room.secrets.data("shop", "emails-binding") == {"password": "theirs"}
    assert room.names() == set()


@pytest.fixture
def with_file(redis_binary: embedded.Binary, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A Redis that keeps its users in a file."""
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all\n")
    (port,) = free_ports(1)
    options = ["--port", str(port), "--aclfile", str(users), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([str(redis_binary.path), *options], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0", users
    finally:
        process.terminate()
        process.wait()


async def test_where_redis_has_a_file_for_users_they_are_saved_there(with_file: tuple[str, Path]) -> None:
    url, users = with_file
    async with make_room(url) as room:
        redis = await room.redis()
        await eventually(lambda: redis.up)
        await room.ensure("emails")
        await room.ensure("images")
        await eventually(lambda: "shop.images" in users.read_text(), 10)
        assert "shop.emails" in users.read_text()
