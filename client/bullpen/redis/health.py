"""Examines a Redis for what Bullpen needs of it: on a connection of its own, in a few round trips, changing nothing."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from bullpen import errors
from bullpen.redis import endpoints, findings, handshake
from bullpen.redis.failures import AuthenticationRefused, ConnectFailed, ConnectionLost, NotReady, ReplyError
from bullpen.redis.findings import Finding, Observation, Status
from bullpen.redis.limits import ReplyLimits
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import Connection, Reply, pack_command

_CONFIG: Final = ("maxmemory-policy", "maxmemory", "appendonly", "appendfsync", "save")
_CLOCK_SAMPLES: Final = 5
# What BullMQ's scripts use: msgpack and JSON; and a key, only looked at.
_SCRIPT: Final = "cmsgpack.pack({1}) cjson.encode({1}) return 1"
_KEY_SCRIPT: Final = "return redis.call('EXISTS', KEYS[1])"


@dataclass(frozen=True)
class HealthReport:
    """What was found at one Redis."""

    where: str
    origin: str
    """Which setting named it."""
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The worst of the findings."""
        return findings.worst(self.findings)

    @property
    def healthy(self) -> bool:
        """Whether nothing failed; warnings and unknowns are no failure."""
        return self.status is not Status.FAIL

    def as_dict(self) -> dict[str, object]:
        """Give it as plain values, for JSON and YAML."""
        listed = [
            {"name": one.name, "status": str(one.status), "found": one.found, "advice": one.advice}
            for one in self.findings
        ]
        return {"where": self.where, "origin": self.origin, "status": str(self.status), "findings": listed}


async def examine(
    settings: RedisSettings,
    *,
    queue: str | None = None,
    timeout: float | None = None,
    clock: Callable[[], float] = time.time,
    limits: ReplyLimits | None = None,
) -> HealthReport:
    """Examine the Redis of these settings within `timeout` seconds (absent: the settings').

    With `queue`, see also that the account may touch that queue's keys; without, those of any queue of the prefix.
    `limits` bound the replies, for a Redis that somebody else named.

    Never raises for what is wrong with Redis: that is a finding. Raises `ConfigurationError` for settings that cannot
    be used at all. Where the account may not read something, that finding is unknown.
    """
    limit = settings.timeout.total_seconds() if timeout is None else timeout
    settings = endpoints.current(settings)
    ends = asyncio.get_running_loop().time() + limit
    try:
        connection = await handshake.connect(settings, name="bullpen:doctor", timeout=limit, limits=limits)
        try:
            async with asyncio.timeout_at(ends):
                reachable, seen = await _observe(connection, settings.prefix, queue, clock)
        finally:
            connection.close()
    except (ConnectFailed, ConnectionLost) as error:
        return _unreachable(settings, str(error), error)
    except TimeoutError:
        return _unreachable(settings, f"Redis at {settings.where} took longer than {limit:.3g} s to answer", None)
    return HealthReport(settings.where, settings.origin, (reachable, *findings.judge(seen)))


def _unreachable(settings: RedisSettings, found: str, error: errors.BullpenError | None) -> HealthReport:
    advice = "see that the server runs, and that this machine may reach it (address, port, firewall, network policy)"
    if isinstance(error, AuthenticationRefused):
        advice = f"correct the user name and password in {settings.origin}, or the user's ACL in Redis"
    elif isinstance(error, NotReady):
        advice = "wait until it has loaded its data; see its log when that takes long"
    elif "TLS" in found.replace(f" {settings.where} ", "") or "certificate" in found:  # the address says (TLS), too
        advice = (
            f"compare the TLS options in {settings.origin} (rediss://, ca, cert, key, server_name) with the server's"
        )
    return HealthReport(settings.where, settings.origin, (Finding("reachable", Status.FAIL, found, advice),))


async def _observe(
    connection: Connection, prefix: str, queue: str | None, clock: Callable[[], float]
) -> tuple[Finding, Observation]:
    seen, round_trip = await _skew(connection, clock)
    commands = (
        pack_command("INFO"),
        pack_command("HELLO", 2),
        pack_command("EVAL", _SCRIPT, 0),
        pack_command("EVAL", _KEY_SCRIPT, 1, f"{prefix}:{queue or 'bullpen-doctor'}:meta"),
        pack_command("ACL", "WHOAMI"),
        *(pack_command("CONFIG", "GET", name) for name in _CONFIG),
    )
    replies = await connection.call_many(b"".join(commands), len(commands))
    info, hello, script, keys, user = replies[:5]
    reachable = Finding("reachable", Status.OK, f"answers in {round_trip * 1000:.2f} ms")
    return reachable, replace(
        seen,
        info=_info(info),
        hello=_pairs(hello),
        config=_config(replies[5:]),
        script_error=str(script) if isinstance(script, ReplyError) else None,
        keys_error=str(keys) if isinstance(keys, ReplyError) else None,
        user=user.decode(errors="replace") if isinstance(user, bytes) else None,
        prefix=prefix,
        queue=queue,
    )


async def _skew(connection: Connection, clock: Callable[[], float]) -> tuple[Observation, float]:
    """Compare the clocks by the quickest of some round trips: Redis read its clock in the middle of it, more or less."""
    ping, ask = pack_command("PING"), pack_command("TIME")
    best = Observation(skew_error_seconds=float("inf"))
    quickest = float("inf")
    for _ in range(_CLOCK_SAMPLES):
        before, started = clock(), time.perf_counter()
        try:
            reply: Reply = await connection.call(ask)
        except ReplyError:
            reply = None
            await connection.call_many(ping, 1)
        took = time.perf_counter() - started
        quickest = min(quickest, took)
        if isinstance(reply, list) and took / 2 < best.skew_error_seconds:
            seconds, microseconds = (int(part) for part in reply if isinstance(part, bytes))
            skew = seconds + microseconds / 1e6 - (before + took / 2)
            best = Observation(skew_seconds=skew, skew_error_seconds=took / 2)
    return best, quickest


def _info(reply: Reply) -> Mapping[str, str] | None:
    if not isinstance(reply, bytes):
        return None
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _pairs(reply: Reply) -> Mapping[str, str] | None:
    if not isinstance(reply, list):
        return None
    flat = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in reply]
    return dict(zip(flat[::2], flat[1::2], strict=False))


def _config(replies: list[Reply]) -> Mapping[str, str] | None:
    found: dict[str, str] = {}
    for reply in replies:
        found |= _pairs(reply) or {}
    return found or None
