"""A look at a real Redis, as the operator has it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bullpen import embedded
from bullpen.api.v1alpha1 import JobQueue
from bullpen.queue.declaration import Owner, ReadOwnership, WriteDeclaration, declare
from bullpen.queue.ending import ReleaseQueue, purge
from bullpen.queue.keys import QueueKeys
from bullpen.redis.wire import pack_command
from bullpen_operator.connections import health
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import DataRef, RedisRef
from bullpen_operator.connections.users import Users, Wanted
from bullpen_operator.scaling.looking import GiveOrders, Look, Remember, Retiree
from support.secrets import Secrets
from tests.redis.tenants.conftest import Shared


@pytest.fixture
async def as_operator(server: embedded.Server, shared: Shared) -> AsyncIterator[Redis]:
    """The operator with the rights that docs/reference/redis-acl.md lists."""
    rights = "~* &* +@all -@admin -@dangerous +info +config|get"
    acl = "+acl|setuser +acl|deluser +acl|users +acl|getuser +acl|log +acl|save"
    shared.raw.execute_command("ACL", "SETUSER", "bullpen", "reset", "on", ">operators", *rights.split(), *acl.split())
    secrets = Secrets()
    secrets.put("infra", "redis", password="operators")
    source = DataRef("Secret", "redis", "password", "spec.auth.password.secretKeyRef")
    ref = RedisRef(server.url.rsplit("/", 1)[0] + "/0", "infra", username="bullpen", password_from=source, id="shared")
    async with Redises(secrets) as redises:
        yield await redises.of(ref)
    shared.raw.config_set("appendonly", "no")
    shared.raw.execute_command("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")
    shared.raw.acl_deluser("bullpen")


async def test_it_sees_all_it_has_to_with_the_rights_that_are_documented(as_operator: Redis, shared: Shared) -> None:
    shared.raw.config_set("appendonly", "yes")
    seen = await health.look(as_operator)
    verdicts = health.judge(seen, None, users="Managed")
    assert {name: verdict.status for name, verdict in verdicts.items()} == dict.fromkeys(verdicts, "True")
    assert seen.version.startswith("Redis ")


@pytest.mark.parametrize("rule", ["-@all", "resetkeys", "-@dangerous -@all +get"])
async def test_a_default_user_that_would_lose_the_append_only_file_is_told_of(
    as_operator: Redis, shared: Shared, rule: str
) -> None:
    shared.raw.config_set("appendonly", "yes")
    assert not (await health.look(as_operator)).loses_data_at_restart
    shared.raw.execute_command("ACL", "SETUSER", "default", *rule.split())
    seen = await health.look(as_operator)
    assert seen.loses_data_at_restart
    assert health.judge(seen, None, users="Managed")["WellConfigured"].reason == "DefaultUserRestricted"
    shared.raw.close()  # its user, too, was just taken its rights
    await as_operator.call("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")
    await as_operator.call("ACL", "SETUSER", "default", "off")
    assert not (await health.look(as_operator)).loses_data_at_restart
    await as_operator.call("ACL", "SETUSER", "default", "on")


async def test_it_does_all_it_has_to_with_the_rights_that_are_documented(as_operator: Redis, shared: Shared) -> None:
    keys, owner, now_ms = QueueKeys("shop", "emails"), Owner("c1", "shop", "emails"), 1_800_000_000_000
    spec = {
        "paused": True,
        "schedules": [{"name": "sweep", "every": "5m", "job": "sweep"}],
        "rateLimit": {"jobs": 9, "per": "1s"},
    }
    manifest = {"apiVersion": "bullpen.dev/v1alpha1", "kind": "JobQueue", "metadata": {"name": "emails"}}
    paused, plain = (JobQueue.model_validate({**manifest, "spec": each}) for each in (spec, {}))
    await as_operator.run_steps(declare(WriteDeclaration.of(paused, keys, owner), now_ms))
    await as_operator.run_steps(declare(WriteDeclaration.of(plain, keys, owner), now_ms))
    assert (await as_operator.run(ReadOwnership(keys))).owner == owner.id
    assert (await as_operator.run(Look(keys, 0, crew=True, memory=True))).reading.active == 0
    await as_operator.run(GiveOrders(keys, {"a@0123456789ab": Retiree("uid", 1)}, ["b@0123456789ab"]))
    await as_operator.run(Remember(keys, "{}"))
    async with as_operator.blocking_link("bullpen:operator:wake") as link:
        packed = pack_command("XREAD", "COUNT", 1, "BLOCK", 10, "STREAMS", keys.events, "0-0")
        await link.block(packed, seconds=0.01)
    async with asyncio.TaskGroup() as tasks:
        redises = Redises(Secrets())
        redises._known[as_operator.ref] = as_operator
        users = Users(redises, cluster=lambda: "c1", exists=lambda *_: False, leading=lambda: True)
        looking = tasks.create_task(users.run())
        user = users.name("shop", "emails")
        await users.put(as_operator, user, Wanted(Confines("shop", ("emails",)), ("0" * 64,)))
        await users.look(as_operator.ref)
        assert user in shared.raw.acl_users()
        await users.drop(as_operator.ref, user)
        assert user not in shared.raw.acl_users()
        looking.cancel()
    await as_operator.run_steps(purge(keys, owner))
    await as_operator.run(ReleaseQueue(keys, owner))
    assert shared.denied() <= {
        "command client"
    }  # which is dangerous as a whole to Redis 6.2: no names for connections then
