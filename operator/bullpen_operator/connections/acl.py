"""The smallest rights that a queue's clients and workers need, as rules of Redis' ACL. Pure.

A script runs with the rights of who calls it, command by command and key by key, so all that BullMQ's Lua and ours call has
to be allowed. docs/reference/redis-acl.md shows the same, for those who make users by hand.
"""

import functools
import hashlib
import re
from dataclasses import dataclass
from typing import Final

CONNECTION: Final = (
    "ping",
    "info",
    "client|setname",
    "script|load",
    "script|exists",
    "eval",
    "evalsha",
    "multi",
    "exec",
    "time",
)
"""What names no key. Node's client asks for INFO before it does anything, and adds many jobs in a MULTI."""

SINCE_7_2: Final = ("client|setinfo",)
"""Older servers refuse a rule about a command that they do not know."""

CHANNELS: Final = ("publish", "subscribe", "unsubscribe")

KEYS: Final = (
    *(
        "del",
        "exists",
        "get",
        "mget",
        "set",
        "incr",
        "incrby",
        "persist",
        "pexpire",
        "pexpireat",
        "pttl",
        "rename",
        "type",
    ),
    *("unlink", "hdel", "hexists", "hget", "hgetall", "hincrby", "hkeys", "hlen", "hmget", "hmset", "hscan", "hset"),
    *("lindex", "llen", "lpop", "lpos", "lpush", "lrange", "lrem", "lset", "ltrim", "rpop", "rpoplpush", "rpush"),
    *("sadd", "scard", "sismember", "smembers", "srem", "sscan"),
    *("xadd", "xdel", "xlen", "xrange", "xread", "xrevrange", "xtrim"),
    *("bzpopmin", "zadd", "zcard", "zcount", "zlexcount", "zpopmin", "zrange", "zrangebylex", "zrangebyscore", "zrem"),
    *("zremrangebyrank", "zremrangebyscore", "zrevrange", "zrevrangebyscore", "zscore"),
)
"""What is done to a queue's keys. None of them lists keys: SCAN and KEYS would name everybody's."""

_SPECIAL: Final = re.compile(r"[*?\[\]\\]")


@dataclass(frozen=True, slots=True)
class Confines:
    """What one user may touch: the keys of these queues under the prefix, on one database."""

    prefix: str
    queues: tuple[str, ...]
    """The queue, then its dead-letter queue where there is one."""
    database: int = 0


def can_confine(prefix: str, queue: str) -> bool:
    """Say whether a pattern of Redis' can name this queue's keys: it must have no blanks."""
    return not any(character.isspace() or character == "\0" for character in f"{prefix}{queue}" if character.isascii())


def rules(confines: Confines, password_hashes: tuple[str, ...], *, version: tuple[int, ...]) -> tuple[str, ...]:
    """Give what comes after ``ACL SETUSER <name>``: the whole user, whatever it was before.

    `password_hashes` are the SHA-256 of the passwords that are valid, in hex; `version` the server's.
    """
    keys = [f"~{pattern(confines.prefix, queue)}" for queue in confines.queues]
    channels = [f"&{escaped(confines.prefix)}:{escaped(queue)}:bullpen:nudge" for queue in confines.queues]
    commands = [*CONNECTION, *(SINCE_7_2 if version >= (7, 2) else ()), *CHANNELS, *KEYS]
    if confines.database:
        commands.append(f"select|{confines.database}")  # patterns of keys say nothing of databases
    return (
        "reset",
        "on",
        *(f"#{each}" for each in password_hashes),
        *keys,
        "resetchannels",
        *channels,
        "-@all",
        *(f"+{each}" for each in commands),
    )


def pattern(prefix: str, queue: str) -> str:
    """Give the pattern of a queue's keys. The names are texts, whatever of globs is in them."""
    return f"{escaped(prefix)}:{escaped(queue)}:*"


def escaped(name: str) -> str:
    """Give a name such that Redis' globs take it by the letter."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], name)


def password_hash(password: str) -> str:
    """Give a password as ACL takes it after ``#``."""
    return hashlib.sha256(password.encode()).hexdigest()


def user_name(cluster: str, namespace: str, name: str) -> str:
    """Give the name of a JobQueue's user: unlike that of any other JobQueue, of any cluster that shares the Redis.

    Namespaces and names of JobQueues have no dots, so the parts cannot run into one another.
    """
    return f"{user_prefix(cluster)}{namespace}.{name}"


@functools.cache
def user_prefix(cluster: str) -> str:
    """Give what the names of this cluster's users begin with, and nobody else's."""
    return f"bullpen.{hashlib.sha256(cluster.encode()).hexdigest()[:10]}."


def owner_of(user: str, cluster: str) -> tuple[str, str] | None:
    """Give namespace and name of the JobQueue whose user this is; None where it is not one of this cluster's."""
    head = user_prefix(cluster)
    if not user.startswith(head):
        return None
    namespace, dot, name = user.removeprefix(head).partition(".")
    return (namespace, name) if dot and namespace and name and "." not in name else None
