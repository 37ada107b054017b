"""A look at a real Redis, as the operator has it."""

from collections.abc import AsyncIterator

import pytest

from bullpen import embedded
from bullpen_operator.connections import health
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import DataRef, RedisRef
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
