"""How a Redis is set up, read in one round trip over the operator's own connection, and judged as conditions.

No condition holds figures that change by themselves, so that a Redis at rest costs no write; and nothing that a server says
of itself stands in one but a version number and the names of settings that we know.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from bullpen.redis import findings
from bullpen.redis.failures import ReplyError
from bullpen.redis.findings import Finding, Observation, Status
from bullpen.redis.wire import Reply, pack_command
from bullpen_operator.conditions import Verdict
from bullpen_operator.connections.answers import fields_of
from bullpen_operator.connections.pool import Redis, Trouble

_SETTINGS: Final = ("maxmemory-policy", "maxmemory", "appendonly", "appendfsync", "save")
_SECTIONS: Final = ("server", "memory", "persistence", "replication")
"""Of INFO. Not all of it: before Redis 7 there is no end to the kinds of errors that it tells of, and tenants make them."""
_SCRIPT: Final = "cmsgpack.pack({1}) cjson.encode({1}) return 1"  # what BullMQ's scripts use
_VERSION: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6}){1,3}")

_REASONS: Final = {
    "version": "TooOld",
    "role": "NotPrimary",
    "eviction": "Evicts",
    "persistence": "NotPersistent",
    "memory": "MemoryFull",
    "scripts": "ScriptsRefused",
}
"""What is judged, worst first, and the reason where it is not as it has to be."""

_SAID: Final = {
    "version": "it is older than Redis 6.2: upgrade it, or take Valkey",
    "role": "it is no primary that stands alone (a replica, a Sentinel, or a node of a cluster): name the primary",
    "eviction": "maxmemory-policy is not noeviction: Redis removes jobs and locks when its memory is full; set it to noeviction",
    "persistence": "nothing is written to disk, or not successfully: all jobs are gone when it restarts; set appendonly to yes, and "
    "see its log",
    "memory": "its memory is nearly full: it will refuse new jobs; give it more, or keep fewer finished jobs",
    "scripts": "the account may not run scripts: allow it EVAL, EVALSHA and SCRIPT LOAD",
}
_WARNED: Final = {
    "persistence": "snapshots alone, or without fsync: a crash loses what came since; appendonly yes with appendfsync everysec is safer",
    "memory": "three quarters of its memory are used",
}
_OPEN: Final = (
    "the user default needs no password, so whoever reaches the server may do anything, and users of their own keep no tenant from "
    "another's queue; set it to `off resetpass ~* &* +@all`"
)
_UNREAD: Final = "the account may not read {names}: allow it INFO and CONFIG GET to have that looked at"

_USELESS: Final = frozenset({"version", "role", "scripts"})
"""Without these nothing works; the rest is dangerous, and works."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read off a Redis."""

    findings: Mapping[str, Finding]
    version: str = ""
    may_manage_users: bool = True
    loses_data_at_restart: bool = False
    """Whether it will not read all of its append-only file: Redis reads that as the user `default`, and drops what that may not
    do, in silence."""
    open_to_all: bool = False
    """Whether the user `default` is let in without a password."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many connections all workers may open together, and how many they are to open at most."""

    wanted: int = 0
    most: int | None = None


def connections_of(spec: Mapping[str, Any]) -> int:
    """Give how many connections the workers of a JobQueue open at most, by its spec as the API server has it.

    A worker's supervisor has two, each of its processes three; what handlers enqueue with comes on top. Workers that are not
    ours are not counted.
    """
    worker = spec.get("worker")
    if not isinstance(worker, dict):
        return 0
    scaling = spec.get("scaling") or {}
    manual = scaling.get("mode", "Auto" if scaling else "Manual") == "Manual"
    replicas = spec.get("replicas", 1) if manual else scaling.get("maxReplicas", 0)
    return int(replicas) * (2 + 3 * int(worker.get("processes", 1)))


async def look(redis: Redis) -> Seen:
    """Look at a Redis. Raises `RedisUnavailable`."""
    commands = (
        *(pack_command("INFO", section) for section in _SECTIONS),
        pack_command("HELLO", 2),
        pack_command("EVAL", _SCRIPT, 0),
        pack_command("ACL", "USERS"),
        pack_command("ACL", "GETUSER", "default"),
        *(pack_command("CONFIG", "GET", name) for name in _SETTINGS),
    )
    replies = await redis.exchange(b"".join(commands), len(commands))
    infos, (hello, script, users, default, *settings) = replies[: len(_SECTIONS)], replies[len(_SECTIONS) :]
    fields: dict[str, str] = {}
    for info in infos:
        fields |= fields_of(info)
    config: dict[str, str] = {}
    for reply in settings:
        config |= _pairs(reply)
    seen = Observation(
        info=fields or None,
        hello=_pairs(hello) or None,
        config=config or None,
        script_error=str(script) if isinstance(script, ReplyError) else None,
    )
    found = {each.name: each for each in findings.judge(seen) if each.name in _REASONS}
    loses = fields.get("aof_enabled") == "1" and _is_weak(default)
    return Seen(found, _version(fields, seen.hello or {}), not isinstance(users, ReplyError), loses, _is_open(default))


def judge(
    seen: Seen | None,
    trouble: Trouble | None,
    *,
    users: Literal["Managed", "Shared"],
    problem: Verdict | None = None,
    crowd: Crowd | None = None,
) -> dict[str, Verdict]:
    """Give the conditions of a connection. `problem`: why its spec cannot be used at all."""
    if problem is not None:
        unknown = Verdict("Unknown", "NotAsked", "Redis was not asked: see the condition Ready.")
        return {"Ready": problem, "Reachable": unknown, "WellConfigured": unknown}
    if trouble is not None:
        unknown = Verdict("Unknown", "NotReachable", "Redis cannot be asked: see the condition Reachable.")
        down = Verdict("False", trouble.reason, trouble.message)
        return {"Ready": down, "Reachable": down, "WellConfigured": unknown}
    if seen is None:
        unknown = Verdict("Unknown", "NotAsked", "Redis was not asked yet.")
        return {"Ready": unknown, "Reachable": unknown, "WellConfigured": unknown}
    configured = _configured(seen, crowd or Crowd())
    return {
        "Ready": _ready(seen, configured, users),
        "Reachable": Verdict("True", "Answers", "Redis answers."),
        "WellConfigured": configured,
    }


def _configured(seen: Seen, crowd: Crowd) -> Verdict:
    wrong = [name for name in _REASONS if _is_wrong(seen.findings.get(name))]
    if wrong:
        return Verdict("False", _REASONS[wrong[0]], _sentences(_SAID[name] for name in wrong))
    if seen.loses_data_at_restart:
        text = (
            "Redis reads its append-only file as the user default, who may not do everything: at a restart it drops what was "
            "written by scripts, all jobs; set the user default to `off resetpass ~* &* +@all`"
        )
        return Verdict("False", "DefaultUserRestricted", _sentences([text]))
    if crowd.most is not None and crowd.wanted > crowd.most:
        text = (
            f"the JobQueues that use it may open {crowd.wanted} connections together, by their maxReplicas, and "
            f"spec.limits.connections is {crowd.most}: lower maxReplicas, or raise the limit (and maxclients of Redis)"
        )
        return Verdict("False", "ConnectionsOverLimit", _sentences([text]))
    unread = [name for name in _REASONS if (found := seen.findings.get(name)) and found.status is Status.UNKNOWN]
    if unread:
        return Verdict("Unknown", "NotReadable", _sentences([_UNREAD.format(names=", ".join(unread))]))
    warned = [
        text for name, text in _WARNED.items() if (found := seen.findings.get(name)) and found.status is Status.WARN
    ]
    if seen.open_to_all:
        warned.append(_OPEN)
    text = "Version, eviction policy, persistence and memory are as they have to be."
    return Verdict("True", "AsNeeded", f"{text} Worth knowing: {'; '.join(warned)}." if warned else text)


def _is_wrong(found: Finding | None) -> bool:
    if found is None:
        return False
    if found.name == "eviction":
        return found.status in {Status.WARN, Status.FAIL}
    # Without a file of any sort; snapshots alone are a warning.
    nothing = found.name == "persistence" and found.status is Status.WARN and found.found == "none"
    return nothing or found.status is Status.FAIL


def _ready(seen: Seen, configured: Verdict, users: Literal["Managed", "Shared"]) -> Verdict:
    useless = [name for name in _REASONS if name in _USELESS and _is_wrong(seen.findings.get(name))]
    if useless:
        return Verdict("False", _REASONS[useless[0]], _sentences(_SAID[name] for name in useless))
    if users == "Managed" and not seen.may_manage_users:
        text = "the account may not manage users: allow it ACL SETUSER, DELUSER, USERS, LOG and SAVE, or set spec.users to Shared"
        return Verdict("False", "UsersRefused", _sentences([text]))
    if configured.status == "False":
        return Verdict("True", "Usable", "Redis can be used, and jobs may get lost: see the condition WellConfigured.")
    return Verdict("True", "Usable", "Redis can be used.")


def _is_weak(default: Reply) -> bool:
    """Say whether the user `default`, on or off, may not run all commands on all keys. Unknown is not weak."""
    if not isinstance(default, list):
        return False
    fields = _by_name(default)
    commands, keys = fields.get(b"commands"), fields.get(b"keys")
    patterns: list[Reply] = [*keys.split()] if isinstance(keys, bytes) else keys if isinstance(keys, list) else []
    all_commands = isinstance(commands, bytes) and b"+@all" in commands.split()
    return not (all_commands and (b"~*" in patterns or b"*" in patterns))


def _is_open(default: Reply) -> bool:
    """Say whether the user `default` is let in without a password. Unknown is not open."""
    flags = _by_name(default).get(b"flags") if isinstance(default, list) else None
    return isinstance(flags, list) and b"on" in flags and b"nopass" in flags


def _by_name(flat: list[Reply]) -> dict[bytes, Reply]:
    return {name: value for name, value in zip(flat[::2], flat[1::2], strict=False) if isinstance(name, bytes)}


def _sentences(parts: Iterable[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def _version(info: Mapping[str, str], hello: Mapping[str, str]) -> str:
    """Give name and version; a text of another form is not repeated."""
    valkey = info.get("valkey_version") or (hello.get("version") if hello.get("server") == "valkey" else None)
    text = valkey or info.get("redis_version") or hello.get("version") or ""
    if not _VERSION.fullmatch(text):
        return ""
    return f"{'Valkey' if valkey else 'Redis'} {text}"


def _pairs(reply: Reply) -> dict[str, str]:
    if not isinstance(reply, list):
        return {}
    flat = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in reply]
    return dict(zip(flat[::2], flat[1::2], strict=False))
