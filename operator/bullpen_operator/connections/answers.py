"""What a server says of itself and of its users, read with care: it may be one that a tenant named. Pure.

Replies are bounded in all (`bullpen.redis.limits`), and may still be a million of anything, or of any form. Nothing here raises,
and nothing takes longer than a reply of an honest server is worth.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Final

from bullpen.redis.wire import Reply

_LONGEST_INFO: Final = 65_536
"""Bytes of INFO that are read; a server at its most talkative says a third of that."""
_MOST_USERS: Final = 50_000
_MOST_ENTRIES: Final = 64
_VERSION: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,3}")


def fields_of(info: Reply) -> dict[str, str]:
    """Read the reply to INFO: field to value."""
    if not isinstance(info, bytes):
        return {}
    lines = info[:_LONGEST_INFO].decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def version_of(info: Mapping[str, str]) -> tuple[int, ...]:
    """Give the version whose commands the server has; Valkey says which of Redis' it is like. Empty where it is none."""
    if "valkey_version" in info:
        return (7, 2)
    version = info.get("redis_version", "")
    return tuple(map(int, version.split("."))) if _VERSION.fullmatch(version) else ()


def names(users: Reply, prefix: str) -> set[str]:
    """Give those of the users that are this cluster's."""
    if not isinstance(users, list):
        return set()
    head = prefix.encode()
    ours = (name for name in users if isinstance(name, bytes) and name.startswith(head))
    return {name.decode(errors="replace") for name in itertools.islice(ours, _MOST_USERS)}


def refused_logins(entries: Reply) -> frozenset[tuple[str, str]]:
    """Give the logins that were refused: the user, and what tells this entry of the log from others of the same user."""
    found = set()
    for entry in entries[:_MOST_ENTRIES] if isinstance(entries, list) else ():
        if not isinstance(entry, list):
            continue
        fields = {name: value for name, value in zip(entry[::2], entry[1::2], strict=False) if isinstance(name, bytes)}
        user = fields.get(b"username")
        if fields.get(b"reason") == b"auth" and isinstance(user, bytes):
            what = f"{fields.get(b'entry-id')!r} {fields.get(b'count')!r} {fields.get(b'client-info')!r}"
            found.add((user.decode(errors="replace"), what))
    return frozenset(found)
