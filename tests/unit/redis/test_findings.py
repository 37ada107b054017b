"""What is read off a Redis, and how it is judged: a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.redis.findings import Finding, Observation, Status, judge, worst

GIB = 1024**3
GOOD = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "used_memory": str(GIB),
    "maxmemory": str(4 * GIB),
    "total_system_memory": str(8 * GIB),
}
SNAPSHOTS = {"aof_enabled": "0"}


def finding(name: str, **changes) -> Finding:
    seen = Observation(**{"info": GOOD, "skew_seconds": 0.0, "skew_error_seconds": 0.001, "user": "default", **changes})
    return next(one for one in judge(seen) if one.name == name)


@pytest.mark.parametrize(
    ("name", "info", "status", "found"),
    [
        ("version", {}, "ok", "Redis 7.2.4"),
        ("version", {"redis_version": "6.2.0"}, "ok", "Redis 6.2.0"),
        ("version", {"redis_version": "6.0.16"}, "fail", "Redis 6.0.16"),
        ("version", {"redis_version": "10.0.1"}, "ok", "Redis 10.0.1"),
        ("version", {"redis_version": "7.2.4", "valkey_version": "8.1.0"}, "ok", "Valkey 8.1.0"),
        ("role", {}, "ok", "primary"),
        ("role", {"role": "slave", "master_host": "a", "master_port": "1"}, "fail", "a replica of a:1"),
        ("role", {"redis_mode": "cluster"}, "fail", "a node of a Redis Cluster"),
        ("role", {"redis_mode": "sentinel"}, "fail", "a Sentinel, which keeps no data"),
        ("eviction", {}, "ok", "noeviction"),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, "fail", "allkeys-lru"),
        ("eviction", {"maxmemory_policy": "volatile-ttl", "maxmemory": "0"}, "warn", "volatile-ttl"),
        ("persistence", {}, "ok", "append-only file"),
        ("persistence", {"aof_last_write_status": "err"}, "fail", "append-only file, and the last write failed"),
        ("persistence", SNAPSHOTS | {"rdb_last_bgsave_status": "err"}, "fail", "snapshots, and the last one failed"),
        ("persistence", SNAPSHOTS, "warn", "no append-only file; whether there are snapshots cannot be read"),
        ("memory", {}, "ok", "1.0 GiB used, 25 % of 4.0 GiB (maxmemory)"),
        ("memory", {"used_memory": str(3 * GIB)}, "warn", "3.0 GiB used, 75 % of 4.0 GiB (maxmemory)"),
        ("memory", {"used_memory": str(4 * GIB)}, "fail", "4.0 GiB used, 100 % of 4.0 GiB (maxmemory)"),
        ("memory", {"maxmemory": "0"}, "ok", "1.0 GiB used, 12 % of 8.0 GiB (its machine's memory, no maxmemory)"),
        ("memory", {"maxmemory": "0", "total_system_memory": ""}, "ok", "1.0 GiB used, no limit known"),
    ],
)
def test_what_info_says(name, info, status, found):
    one = finding(name, info=GOOD | info)
    assert (one.status, one.found) == (status, found)
    assert bool(one.advice) is (status in {"warn", "fail"})


@pytest.mark.parametrize(
    ("name", "changes", "status", "found"),
    [
        ("persistence", {"info": GOOD | SNAPSHOTS, "config": {"save": "3600 1"}}, "warn", "snapshots only"),
        ("persistence", {"info": GOOD | SNAPSHOTS, "config": {"save": ""}}, "warn", "none"),
        ("persistence", {"config": {"appendfsync": "no"}}, "warn", "append-only file, appendfsync no"),
        ("persistence", {"config": {"appendfsync": "always"}}, "ok", "append-only file, appendfsync always"),
        ("persistence", {"info": None, "config": {"appendonly": "yes"}}, "ok", "append-only file"),
        ("eviction", {"info": None, "config": {"maxmemory-policy": "noeviction"}}, "ok", "noeviction"),
        ("version", {"info": None, "hello": {"server": "redis", "version": "6.0.1"}}, "fail", "Redis 6.0.1"),
        ("version", {"info": None, "hello": {"server": "valkey", "version": "8.0.0"}}, "ok", "Valkey 8.0.0"),
        ("role", {"info": None, "hello": {"mode": "standalone", "role": "replica"}}, "fail", "a replica"),
        ("clock", {}, "ok", "in step with this machine's (± 1 ms)"),
        ("clock", {"skew_seconds": 0.4}, "ok", "400 ms ahead of this machine's (± 1 ms)"),
        ("clock", {"skew_seconds": -2.0}, "warn", "2.0 s behind this machine's (± 1 ms)"),
        ("clock", {"skew_seconds": 60.0}, "fail", "60.0 s ahead of this machine's (± 1 ms)"),
        ("clock", {"skew_seconds": 0.9, "skew_error_seconds": 0.8}, "ok", "900 ms ahead of this machine's (± 800 ms)"),
        ("scripts", {}, "ok", "allowed"),
        ("keys", {"prefix": "shop"}, "ok", "shop:* allowed"),
        ("keys", {"queue": "emails"}, "ok", "bull:emails:* allowed"),
        ("keys", {"queue": "emails", "keys_error": "NOPERM no"}, "fail", "refused: NOPERM no"),
        ("keys", {"keys_error": "NOPERM no"}, "unknown", "not every key of bull:* is allowed"),
        ("keys", {"script_error": "NOPERM no"}, "unknown", "not to be tried without scripts"),
        ("scripts", {"script_error": "NOPERM no"}, "fail", "refused: NOPERM no"),
        ("account", {"user": "ada"}, "ok", "ada"),
    ],
)
def test_what_else_is_read(name, changes, status, found):
    one = finding(name, **changes)
    assert (one.status, one.found) == (status, found)


def test_what_may_not_be_read_is_unknown_and_never_fine():
    found = {one.name: one for one in judge(Observation())}
    assert {name for name, one in found.items() if one.status is Status.UNKNOWN} == set(found) - {"scripts", "keys"}
    assert all(one.advice for one in found.values() if one.status is Status.UNKNOWN)
    assert worst(tuple(found.values())) is Status.UNKNOWN


@given(skew=st.floats(-1e6, 1e6), error=st.floats(0, 1e3))
def test_doubt_about_the_clock_never_makes_it_worse(skew, error):
    order = list(Status)
    sure = finding("clock", skew_seconds=skew, skew_error_seconds=0.0)
    unsure = finding("clock", skew_seconds=skew, skew_error_seconds=error)
    assert order.index(unsure.status) <= order.index(sure.status)


def test_the_worst_counts():
    assert worst(()) is Status.OK
    one = [Finding("x", status, "") for status in Status]
    assert worst(tuple(one)) is Status.FAIL
    assert worst(tuple(one[:3])) is Status.WARN
