"""What is read off a Redis, as conditions."""

from dataclasses import replace

import pytest

from bullpen.redis import findings
from bullpen.redis.findings import Observation
from bullpen_operator.conditions import Verdict
from bullpen_operator.connections import health
from bullpen_operator.connections.health import Seen
from bullpen_operator.connections.pool import Trouble

GOOD = {
    "redis_version": "7.0.15",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "maxmemory": "1000000",
    "used_memory": "1000",
    "aof_enabled": "1",
}


def seen(*, manage: bool = True, script: str | None = None, **changes: str | None) -> Seen:
    info = {name: value for name, value in (GOOD | changes).items() if value is not None}
    save = changes.get("save")
    config = {"save": save} if save is not None else {"save": ""}
    observed = Observation(info=info, config=config, script_error=script)
    found = {each.name: each for each in findings.judge(observed)}
    return Seen(found, "Redis 7.0.15", manage)


@pytest.mark.parametrize(
    ("given", "ready", "configured"),
    [
        (seen(), ("True", "Usable"), ("True", "AsNeeded")),
        (seen(redis_version="6.0.9"), ("False", "TooOld"), ("False", "TooOld")),
        (seen(role="slave"), ("False", "NotPrimary"), ("False", "NotPrimary")),
        (seen(redis_mode="cluster"), ("False", "NotPrimary"), ("False", "NotPrimary")),
        (seen(maxmemory_policy="allkeys-lru"), ("True", "Usable"), ("False", "Evicts")),
        (seen(maxmemory_policy="volatile-ttl", maxmemory="0"), ("True", "Usable"), ("False", "Evicts")),
        (seen(aof_enabled="0"), ("True", "Usable"), ("False", "NotPersistent")),
        (seen(aof_enabled="0", save="3600 1"), ("True", "Usable"), ("True", "AsNeeded")),
        (seen(aof_last_write_status="err"), ("True", "Usable"), ("False", "NotPersistent")),
        (seen(used_memory="990000"), ("True", "Usable"), ("False", "MemoryFull")),
        (seen(used_memory="800000"), ("True", "Usable"), ("True", "AsNeeded")),
        (seen(script="NOPERM no"), ("False", "ScriptsRefused"), ("False", "ScriptsRefused")),
        (seen(manage=False), ("False", "UsersRefused"), ("True", "AsNeeded")),
        (seen(maxmemory_policy=None), ("True", "Usable"), ("Unknown", "NotReadable")),
    ],
)
def test_conditions_by_what_was_read(given: Seen, ready: tuple[str, str], configured: tuple[str, str]) -> None:
    verdicts = health.judge(given, None, users="Managed")
    assert (verdicts["Ready"].status, verdicts["Ready"].reason) == ready
    assert (verdicts["WellConfigured"].status, verdicts["WellConfigured"].reason) == configured
    assert verdicts["Reachable"].status == "True"
    for verdict in verdicts.values():
        assert verdict.message.endswith(".")
        assert not any(
            figure in verdict.message for figure in ("1000", "800000", "990000")
        )  # or each look would be a write


def test_a_server_that_lets_everybody_in_is_told_of() -> None:
    verdict = health.judge(replace(seen(), open_to_all=True), None, users="Managed")["WellConfigured"]
    assert (verdict.status, verdict.reason) == ("True", "AsNeeded")
    assert "the user default needs no password" in verdict.message


@pytest.mark.parametrize(
    "version",
    ["9" * 5000, "²", "7.²", "", "x", "7." + "0" * 5000, "7.0.15\nredis_version:6"],
    ids=lambda text: text[:8],
)
def test_a_version_that_is_none_is_judged_all_the_same(version: str) -> None:
    verdicts = health.judge(seen(redis_version=version, used_memory=version, maxmemory=version), None, users="Managed")
    assert verdicts["WellConfigured"].message


@pytest.mark.parametrize(
    ("spec", "connections"),
    [
        ({}, 0),
        ({"worker": {"image": "a"}}, 5),
        ({"worker": {"image": "a", "processes": 2}, "replicas": 3}, 24),
        ({"worker": {"image": "a"}, "replicas": 3, "scaling": {"maxReplicas": 20}}, 100),
        ({"worker": {"image": "a"}, "replicas": 3, "scaling": {"mode": "Manual", "maxReplicas": 20}}, 15),
        ({"scaleTargetRef": {"name": "a"}, "scaling": {"maxReplicas": 20}}, 0),
    ],
)
def test_connections_of_a_jobqueue(spec: dict[str, object], connections: int) -> None:
    assert health.connections_of(spec) == connections


@pytest.mark.parametrize(("most", "reason"), [(None, "AsNeeded"), (100, "AsNeeded"), (99, "ConnectionsOverLimit")])
def test_more_connections_than_the_limit_are_told_of(most: int | None, reason: str) -> None:
    verdicts = health.judge(seen(), None, users="Managed", crowd=health.Crowd(100, most))
    assert (verdicts["WellConfigured"].reason, verdicts["Ready"].status) == (reason, "True")


def test_without_managed_users_their_rights_are_not_needed() -> None:
    assert health.judge(seen(manage=False), None, users="Shared")["Ready"].status == "True"


def test_a_redis_that_is_away_says_nothing_of_its_settings() -> None:
    verdicts = health.judge(None, Trouble("Unreachable", "it is away"), users="Managed")
    assert verdicts["Ready"] == verdicts["Reachable"] == Verdict("False", "Unreachable", "it is away")
    assert verdicts["WellConfigured"].status == "Unknown"


def test_a_spec_that_cannot_be_used_is_told_by_ready_alone() -> None:
    problem = Verdict("False", "InvalidSpec", "spec.endpoints is missing")
    verdicts = health.judge(None, None, users="Managed", problem=problem)
    assert verdicts["Ready"] == problem
    assert {verdicts[name].status for name in ("Reachable", "WellConfigured")} == {"Unknown"}


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"redis_version": "7.2.4"}, "Redis 7.2.4"),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, "Valkey 8.0.1"),
        ({"redis_version": "hunter2"}, ""),
        ({"redis_version": "7.2.4 hunter2"}, ""),
        ({}, ""),
    ],
)
def test_a_version_is_repeated_only_where_it_is_one(info: dict[str, str], version: str) -> None:
    assert health._version(info, {}) == version
