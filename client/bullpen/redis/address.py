"""The text of a Redis URL, taken apart. Pure.

An error names the setting and what is allowed and never repeats a part of the URL: which part is the password is
what a mistyped URL leaves open.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TypedDict
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bullpen import durations, errors

DEFAULT_PORT = 6379
SCHEMES = ("redis", "rediss", "unix")
_LATER = {"redis+sentinel": "Redis Sentinel", "rediss+sentinel": "Redis Sentinel", "redis+cluster": "Redis Cluster"}
_LATER |= {"rediss+cluster": "Redis Cluster"}
_OPTIONS = {
    "db": "db",
    "timeout": "timeout",
    "client_name": "client_name",
    "ca": "ca",
    "cert": "certificate",
    "key": "key",
    "server_name": "server_name",
    # redis-py's names for the same, so that a URL written for it does
    "ssl_ca_certs": "ca",
    "ssl_certfile": "certificate",
    "ssl_keyfile": "key",
}
_TLS_OPTIONS = frozenset({"ca", "certificate", "key", "server_name"})
_SCHEME = re.compile(r"^([a-z][a-z+]*)://")
_ENCODE_HINT = "in a user name or password write / ? # @ : % as %2F %3F %23 %40 %3A %25"


class TlsParts(TypedDict, total=False):
    """The TLS options of a URL: paths as text."""

    ca: str
    certificate: str
    key: str
    server_name: str


class Parts(TypedDict, total=False):
    """What a URL says; what it does not say is absent."""

    host: str
    port: int
    path: str
    db: int
    username: str
    password: str
    tls: TlsParts
    timeout: timedelta
    client_name: str


def parse(url: str, *, named: str) -> Parts:
    """Take a URL apart; `named` is what errors call it. Raises `ConfigurationError`."""
    match = _SCHEME.match(url.strip())
    scheme = match[1] if match else ""
    if scheme in _LATER:
        msg = f"{named}: {_LATER[scheme]} is not supported yet; name the primary with redis:// or rediss://"
        raise errors.ConfigurationError(msg)
    if scheme not in SCHEMES:
        msg = f"{named}: not a Redis URL; it begins with redis://, rediss:// (TLS) or unix:// (a socket's path)"
        raise errors.ConfigurationError(msg)
    try:
        split = urlsplit(url.strip())
        port = split.port
    except ValueError:
        msg = f"{named}: the host and port cannot be read; the port is a number from 1 to 65535, and {_ENCODE_HINT}"
        raise errors.ConfigurationError(msg) from None
    parts = _options(split, named=named)
    if scheme == "unix":
        _socket(parts, split, named=named)
    else:
        _host(parts, split, port, named=named)
    if split.username:
        parts["username"] = unquote(split.username)
    if split.password is not None:
        parts["password"] = unquote(split.password)
    if scheme == "rediss":
        parts.setdefault("tls", {})
    elif "tls" in parts:
        msg = f"{named}: the options {_words(sorted(_TLS_OPTIONS))} go with rediss:// only"
        raise errors.ConfigurationError(msg)
    return parts


def number(text: str, *, named: str, least: int, most: int) -> int:
    """Read a whole number within bounds. Raises `ConfigurationError` without repeating the text."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
        msg = f"{named}: must be a whole number from {least} to {most}"
        raise errors.ConfigurationError(msg)
    return int(text)


def _host(parts: Parts, split: SplitResult, port: int | None, *, named: str) -> None:
    if not split.hostname:
        msg = f"{named}: there is no host in it; write it like redis://host:6379/0"
        raise errors.ConfigurationError(msg)
    if port == 0:
        msg = f"{named}: the port must be a number from 1 to 65535"
        raise errors.ConfigurationError(msg)
    if split.fragment:
        msg = f"{named}: there is a # in it, which ends a URL; {_ENCODE_HINT}"
        raise errors.ConfigurationError(msg)
    parts["host"] = split.hostname
    parts["port"] = port or DEFAULT_PORT
    database = split.path.strip("/")
    if database:
        parts["db"] = number(database, named=f"{named}: the database after the host", least=0, most=2**31 - 1)


def _socket(parts: Parts, split: SplitResult, *, named: str) -> None:
    if split.hostname or not split.path.startswith("/"):
        msg = (
            f"{named}: a socket needs an absolute path: unix:///run/redis.sock or unix://user:password@/run/redis.sock"
        )
        raise errors.ConfigurationError(msg)
    parts["path"] = unquote(split.path)


def _options(split: SplitResult, *, named: str) -> Parts:
    parts: Parts = {}
    tls: dict[str, str] = {}
    found = dict(parse_qsl(split.query, keep_blank_values=True))
    if not set(found) <= set(_OPTIONS):
        msg = f"{named}: there is an unknown option after the ?; known are {_words(_OPTIONS)}; and {_ENCODE_HINT}"
        raise errors.ConfigurationError(msg)
    for name, value in found.items():
        field = _OPTIONS[name]
        if not value:
            msg = f"{named}: the option {name} has no value"
            raise errors.ConfigurationError(msg)
        if field in _TLS_OPTIONS:
            tls[field] = value
        elif field == "db":
            parts["db"] = number(value, named=f"{named}: the option db", least=0, most=2**31 - 1)
        elif field == "timeout":
            parts["timeout"] = _duration(value, named=named)
        else:
            parts["client_name"] = value
    if tls:
        parts["tls"] = TlsParts(**tls)  # type: ignore[typeddict-item]  # the keys are those of _TLS_OPTIONS
    return parts


def _duration(value: str, *, named: str) -> timedelta:
    try:
        duration = durations.parse(value)
    except ValueError:
        duration = timedelta()
    if not duration:
        msg = f'{named}: the option timeout must be a duration above zero such as "500ms" or "5s"'
        raise errors.ConfigurationError(msg)
    return duration


def _words(names: Mapping[str, str] | list[str]) -> str:
    return ", ".join(names)
