"""From settings to a connection that is authenticated, named, on its database, and answers."""

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Any

from bullpen import _version
from bullpen.redis import wire
from bullpen.redis.failures import AuthenticationRefused, ConnectFailed, ConnectionLost, NotReady, ReplyError
from bullpen.redis.limits import BoundedConnection, ReplyLimits
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import Connection, pack_command

_REFUSED = frozenset({"WRONGPASS", "NOAUTH"})
_NOT_READY = frozenset({"LOADING", "MASTERDOWN", "BUSY"})


async def connect(
    settings: RedisSettings,
    *,
    name: str | None = None,
    eager: bool = True,
    reply_timeout: float | None = None,
    max_reply_bytes: int = wire.MAX_REPLY_BYTES,
    timeout: float | None = None,
    limits: ReplyLimits | None = None,
) -> Connection:
    """Connect within `timeout` seconds (absent: the settings'), log in, and see that Redis serves commands.

    `reply_timeout`: the connection gives itself up when something waits and nothing is answered for so many seconds;
    leave it away for connections that block. `limits` bound every reply, for a Redis that somebody else named. Raises `ConnectFailed`, as `AuthenticationRefused` or `NotReady` where
    that is why, and `ConfigurationError` for certificates that cannot be read.
    """
    limit = settings.timeout.total_seconds() if timeout is None else timeout
    connection = _connection(
        limits, where=settings.where, eager=eager, reply_timeout=reply_timeout, max_reply_bytes=max_reply_bytes
    )
    try:
        async with asyncio.timeout(limit):
            await _open(settings, connection)
            await _introduce(settings, connection, name or settings.client_name)
    except TimeoutError:
        connection.abort("connecting took too long")
        hint = " (does it speak TLS at this port?)" if settings.tls else ""
        msg = f"Redis at {settings.where} ({settings.origin}) cannot be reached: nothing within {limit:.3g} s{hint}"
        raise ConnectFailed(msg) from None
    except ConnectionLost as error:
        hint = " (does it expect TLS? then the URL begins with rediss://)"
        if settings.tls is not None:
            hint = " (does it ask for a client certificate?)" if settings.tls.certificate is None else ""
        msg = f"Redis at {settings.where} ({settings.origin}) cannot be used: {error}{hint}"
        raise ConnectFailed(msg) from error
    except OSError as error:
        msg = f"Redis at {settings.where} ({settings.origin}) cannot be reached: {explain(error)}"
        raise ConnectFailed(msg) from error
    except BaseException:
        connection.abort("connecting was given up")
        raise
    connection.established = True
    return connection


def _connection(limits: ReplyLimits | None, **options: Any) -> Connection:
    return Connection(**options) if limits is None else BoundedConnection(limits=limits, **options)


async def _open(settings: RedisSettings, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    if settings.path is not None:
        await loop.create_unix_connection(lambda: connection, str(settings.path))
        return
    tls = settings.tls
    # In a thread: the system's authorities alone take some 20 ms to read.
    context = await asyncio.to_thread(tls.context) if tls is not None else None
    host = settings.looked_up or settings.host
    # asyncio's own loops know it; uvloop, which web servers bring, does not. One address runs no race: one that is
    # cancelled leaves a socket open (CPython's staggered_race, up to 3.12 at least).
    races = isinstance(loop, asyncio.BaseEventLoop) and not _is_address(host)
    eyeballs: dict[str, Any] = {"happy_eyeballs_delay": 0.25} if races else {}
    transport, _ = await loop.create_connection(
        lambda: connection,
        host,
        settings.port,
        **eyeballs,
        ssl=context,
        server_hostname=(tls.server_name or settings.host) if tls is not None else None,
    )
    opened: socket.socket | None = transport.get_extra_info("socket")
    if opened is not None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False


async def _introduce(settings: RedisSettings, connection: Connection, name: str | None) -> None:
    """Log in, name the connection, choose the database and ask for a sign of life: one write, one answer."""
    steps: list[tuple[str, bytes]] = []
    if settings.username is not None or settings.password is not None:
        password = settings.password.get_secret_value() if settings.password is not None else ""
        login = (settings.username, password) if settings.username is not None else (password,)
        steps.append(("AUTH", pack_command("AUTH", *login)))
    if settings.db:
        steps.append(("SELECT", pack_command("SELECT", settings.db)))
    if name is not None:
        steps.append(("CLIENT SETNAME", pack_command("CLIENT", "SETNAME", name)))
    steps.append(("CLIENT SETINFO", pack_command("CLIENT", "SETINFO", "LIB-NAME", "bullpen")))
    steps.append(("CLIENT SETINFO", pack_command("CLIENT", "SETINFO", "LIB-VER", _version.__version__)))
    steps.append(("PING", pack_command("PING")))
    # One by one: a server that turns us away says why in a single reply, and hangs up.
    waiting = [connection.call(packed) for _, packed in steps]
    replies = await asyncio.gather(*waiting, return_exceptions=True)
    for (step, _), reply in zip(steps, replies, strict=True):
        if isinstance(reply, ReplyError):
            _judge(step, reply, settings, connection)
        elif isinstance(reply, BaseException):
            raise reply


def _judge(step: str, reply: ReplyError, settings: RedisSettings, connection: Connection) -> None:
    """Raise what an error in the handshake means; naming the connection may fail (old servers, ACLs)."""
    where = f"Redis at {settings.where} ({settings.origin})"
    failure: ConnectFailed | None = None
    if reply.code == "DENIED" or "max number of clients" in str(reply):
        failure = ConnectFailed(f"{where} turns connections away: {reply}")
    elif step == "AUTH" and reply.code in {"ERR", *_REFUSED, "NOPERM"}:
        failure = AuthenticationRefused(f"{where} refuses the user name or password: {reply}")
    elif reply.code in _REFUSED:
        failure = AuthenticationRefused(f"{where} asks for a password: {reply}")
    elif reply.code in _NOT_READY:
        failure = NotReady(f"{where} serves no commands now: {reply}")
    elif step == "SELECT":
        failure = ConnectFailed(f"{where}: database {settings.db} cannot be used: {reply}")
    if failure is not None:
        connection.abort(str(failure))
        raise failure


def explain(error: OSError) -> str:
    """Say in few words why no connection could be made, or why one ended."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        hint = (
            "; does it speak TLS at this port?"
            if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
            else ""
        )
        return f"TLS: {error.reason or error}{hint}"
    if isinstance(error, socket.gaierror):
        return f"the host name cannot be resolved: {error.strerror}"
    if error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
