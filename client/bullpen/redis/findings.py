"""What is read off a Redis, judged: each finding with what to do. Pure.

Limits are ours; why each matters stands in its advice.
"""

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

OLDEST_REDIS = (6, 2)
MEMORY_WARN_PERCENT = 75
MEMORY_FAIL_PERCENT = 95
SKEW_WARN_SECONDS = 0.5
SKEW_FAIL_SECONDS = 5.0
_WHOLE = re.compile(r"[0-9]{1,18}")


class Status(enum.StrEnum):
    """How a finding is to be taken, from good to bad; unknown is what could not be read."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """What to do; empty where nothing is to be done."""


@dataclass(frozen=True)
class Observation:
    """What could be read; None where Redis does not let us."""

    info: Mapping[str, str] | None = None
    """``INFO``, by field."""
    hello: Mapping[str, str] | None = None
    """``HELLO``: version, mode, role. Allowed where ``INFO`` is not."""
    config: Mapping[str, str] | None = None
    """``CONFIG GET`` of what is judged here."""
    skew_seconds: float | None = None
    """Redis' clock less ours, in the middle of the round trip."""
    skew_error_seconds: float = 0.0
    """Half of that round trip."""
    script_error: str | None = None
    """What Redis has against a script that touches no key; None: it ran."""
    keys_error: str | None = None
    """What Redis has against a script that looks at a key of the queue, or of the prefix."""
    user: str | None = None
    prefix: str = "bull"
    queue: str | None = None
    """The queue that was asked about; None: the Redis as a whole."""


def judge(seen: Observation) -> tuple[Finding, ...]:
    """Judge everything that was observed, in the order in which a person reads it."""
    info = seen.info or {}
    config = seen.config or {}
    return (
        _version(info, seen.hello or {}),
        _role(info, seen.hello or {}),
        _eviction(info, config),
        _persistence(info, config),
        _memory(info),
        _clock(seen),
        _scripts(seen),
        _keys(seen),
        _account(seen),
    )


def _version(info: Mapping[str, str], hello: Mapping[str, str]) -> Finding:
    valkey = info.get("valkey_version") or (hello.get("version") if hello.get("server") == "valkey" else None)
    if valkey:
        return Finding("version", Status.OK, f"Valkey {valkey}")
    text = info.get("redis_version") or hello.get("version")
    if not text:
        return _unread("version", "INFO")
    numbers = tuple(int(part) for part in text.split(".")[:2] if _WHOLE.fullmatch(part))
    if numbers < OLDEST_REDIS:
        return Finding("version", Status.FAIL, f"Redis {text}", "upgrade to Redis 6.2 or newer, or to Valkey")
    return Finding("version", Status.OK, f"Redis {text}")


def _role(info: Mapping[str, str], hello: Mapping[str, str]) -> Finding:
    mode = info.get("redis_mode") or hello.get("mode")
    role = info.get("role") or hello.get("role")
    if mode == "sentinel":
        return Finding("role", Status.FAIL, "a Sentinel, which keeps no data", "name the primary that it watches")
    if mode == "cluster":
        advice = "Redis Cluster is not supported yet; use a server that is not part of one"
        return Finding("role", Status.FAIL, "a node of a Redis Cluster", advice)
    if not role:
        return _unread("role", "INFO")
    if role in {"slave", "replica"}:
        primary = f" of {info['master_host']}:{info.get('master_port', '?')}" if info.get("master_host") else ""
        return Finding("role", Status.FAIL, f"a replica{primary}", "it takes no writes: name the primary")
    return Finding("role", Status.OK, "primary")


def _eviction(info: Mapping[str, str], config: Mapping[str, str]) -> Finding:
    policy = info.get("maxmemory_policy") or config.get("maxmemory-policy")
    if not policy:
        return _unread("eviction", "INFO and CONFIG", "see to it that maxmemory-policy is noeviction")
    if policy == "noeviction":
        return Finding("eviction", Status.OK, policy)
    advice = "set maxmemory-policy to noeviction: Redis would remove jobs and locks when its memory is full"
    limited = (info.get("maxmemory") or config.get("maxmemory") or "0") != "0"
    return Finding("eviction", Status.FAIL if limited else Status.WARN, policy, advice)


def _persistence(info: Mapping[str, str], config: Mapping[str, str]) -> Finding:
    name = "persistence"
    append_only = info.get("aof_enabled") or {"yes": "1", "no": "0"}.get(config.get("appendonly", ""))
    if append_only is None:
        return _unread(name, "INFO and CONFIG", "see to it that appendonly is on")
    if append_only == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(
                name, Status.FAIL, "append-only file, and the last write failed", "look at Redis' log and disk"
            )
        fsync = config.get("appendfsync")
        if fsync == "no":
            advice = "set appendfsync to everysec: a crash of the machine loses what the system had not written"
            return Finding(name, Status.WARN, "append-only file, appendfsync no", advice)
        return Finding(name, Status.OK, f"append-only file{f', appendfsync {fsync}' if fsync else ''}")
    return _snapshots(info, config)


def _snapshots(info: Mapping[str, str], config: Mapping[str, str]) -> Finding:
    name = "persistence"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Finding(name, Status.FAIL, "snapshots, and the last one failed", "look at Redis' log and disk")
    advice = "set appendonly to yes"
    snapshots = config.get("save")
    if snapshots is None:
        found = "no append-only file; whether there are snapshots cannot be read"
        return Finding(name, Status.WARN, found, f"{advice}: after a crash, jobs since the last snapshot are gone")
    if snapshots:
        return Finding(name, Status.WARN, "snapshots only", f"{advice}: a crash loses all jobs since the last snapshot")
    return Finding(name, Status.WARN, "none", f"{advice}: when Redis restarts, all jobs are gone")


def _memory(info: Mapping[str, str]) -> Finding:
    used = _number(info, "used_memory")
    if used is None:
        return _unread("memory", "INFO")
    limit = _number(info, "maxmemory")
    whose = "maxmemory"
    if not limit:
        limit = _number(info, "total_system_memory")
        whose = "its machine's memory, no maxmemory"
    if not limit:
        return Finding("memory", Status.OK, f"{_size(used)} used, no limit known")
    percent = 100 * used / limit
    found = f"{_size(used)} used, {percent:.0f} % of {_size(limit)} ({whose})"
    advice = "give Redis more memory, or keep fewer finished jobs (retention): when it is full, it refuses new jobs"
    if percent >= MEMORY_FAIL_PERCENT:
        return Finding("memory", Status.FAIL, found, advice)
    if percent >= MEMORY_WARN_PERCENT:
        return Finding("memory", Status.WARN, found, advice)
    return Finding("memory", Status.OK, found)


def _clock(seen: Observation) -> Finding:
    if seen.skew_seconds is None:
        return _unread("clock", "TIME")
    skew = seen.skew_seconds
    sure = max(0.0, abs(skew) - seen.skew_error_seconds)
    found = "in step with this machine's"
    if sure > 0.001:
        found = f"{_seconds(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's"
    found += f" (± {_seconds(max(seen.skew_error_seconds, 0.001))})"
    if sure <= SKEW_WARN_SECONDS:
        return Finding("clock", Status.OK, found)
    advice = "have both machines follow NTP: delays and schedules are off by as much"
    return Finding("clock", Status.FAIL if sure > SKEW_FAIL_SECONDS else Status.WARN, found, advice)


def _scripts(seen: Observation) -> Finding:
    if seen.script_error is None:
        return Finding("scripts", Status.OK, "allowed")
    advice = "allow the user EVAL, EVALSHA and SCRIPT LOAD (+@scripting)"
    return Finding("scripts", Status.FAIL, f"refused: {seen.script_error}", advice)


def _keys(seen: Observation) -> Finding:
    pattern = f"{seen.prefix}:{seen.queue}:*" if seen.queue else f"{seen.prefix}:*"
    if seen.script_error is not None:
        return Finding("keys", Status.UNKNOWN, "not to be tried without scripts", "allow scripts first")
    if seen.keys_error is None:
        return Finding("keys", Status.OK, f"{pattern} allowed")
    if seen.queue:
        return Finding(
            "keys", Status.FAIL, f"refused: {seen.keys_error}", f"allow the user the keys {pattern} (~{pattern})"
        )
    advice = (
        f"right for an account of one queue: examine that queue; else allow the user the keys {pattern} (~{pattern})"
    )
    return Finding("keys", Status.UNKNOWN, f"not every key of {pattern} is allowed", advice)


def _account(seen: Observation) -> Finding:
    if seen.user is None:
        return _unread("account", "ACL WHOAMI")
    return Finding("account", Status.OK, seen.user)


def _unread(name: str, command: str, advice: str = "") -> Finding:
    hint = advice or f"allow the user {command} to have this examined"
    return Finding(name, Status.UNKNOWN, f"not to be read: {command} is not allowed", hint)


def _number(info: Mapping[str, str], field: str) -> int | None:
    text = info.get(field, "")
    return int(text) if _WHOLE.fullmatch(text) else None


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def worst(findings: Iterator[Finding] | tuple[Finding, ...]) -> Status:
    """Give the worst status; ok where there is no finding."""
    order = list(Status)
    return max((finding.status for finding in findings), key=order.index, default=Status.OK)
