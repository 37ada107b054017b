"""Performs operations on Redis, for the blocking client: over redis-py.

Model: one pool of connections; a call borrows one and gives it back. Threads share the pool; redis-py sees to that.
redis-py repeats nothing: whether a command may be sent again is the operation's to say. Credentials and certificates are
read anew at each connect, and the address every few seconds, as the async client does.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any, Final, TypeVar

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, UnixDomainSocketConnection
from redis.credentials import CredentialProvider
from redis.retry import Retry

from bullpen.errors import ConfigurationError
from bullpen.queue.operations import packing
from bullpen.queue.operations.base import Call, Eval, Operation, Reply
from bullpen.redis import endpoints, failures, handshake
from bullpen.redis.failures import AuthenticationRefused, ConnectFailed, ConnectionLost, ReplyError, ReplyTimeout
from bullpen.redis.settings import RedisSettings, TlsSettings

T = TypeVar("T")

_STAMP_SECONDS: Final = 5.0
_MOST_CONNECTIONS: Final = 10_000
_CODES: Final = {  # redis-py takes the first word of an error away, and gives its class in exchange
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.NoPermissionError: "NOPERM",
    exceptions.NoScriptError: "NOSCRIPT",
    exceptions.BusyLoadingError: "LOADING",
}


class BlockingShell:
    """See the module. `timeout` (seconds) is for connecting and for each answer."""

    def __init__(self, settings: RedisSettings, *, timeout: float) -> None:
        self._timeout = timeout
        self._settings = settings
        self._call = _Call()
        self._pool = _pool(settings, timeout, self._call)
        self._stamp = endpoints.stamp(settings)
        self._stamp_read = time.monotonic()

    def perform(self, operation: Operation[T], *, timeout: float, waiting: float = 0) -> T:
        """Do it; see `bullpen.clients.shell.SyncShell`."""
        calls = operation.commands()
        deadline = time.monotonic() + timeout
        for attempt in (1, 2):
            try:
                return operation.read(self._exchange(calls, deadline, waiting))
            except ConnectionLost as error:
                late = isinstance(error, ReplyTimeout) or time.monotonic() >= deadline
                if attempt == 1 and not late and (operation.repeatable or not error.sent):
                    continue
                sure = ConnectionLost(str(error), sent=False) if operation.repeatable else error
                raise failures.unavailable(sure, where=self._settings.where) from error
            except ConnectFailed as error:
                raise failures.unavailable(error, where=self._settings.where) from error
            except ReplyError as error:
                if error.code not in failures.UNAVAILABLE_CODES:
                    raise
                raise failures.unavailable(error, where=self._settings.where) from error
        raise AssertionError  # the second attempt returns or raises

    def close(self) -> None:
        """Close the connections that nobody uses; those in use close when they are given back."""
        self._pool.disconnect(inuse_connections=False)

    def _exchange(self, calls: Sequence[Call], deadline: float, waiting: float) -> Sequence[Reply]:
        with self._connection(deadline) as connection:
            packed = b"".join(map(packing.pack, calls))
            replies = self._ask(connection, packed, len(calls), deadline + waiting)
            if any(isinstance(reply, ReplyError) and reply.code == "NOSCRIPT" for reply in replies):
                # Redis did nothing at that command: tell it the scripts, and ask again.
                scripts = {call.script.sha: call.script for call in calls if isinstance(call, Eval)}
                load = b"".join(map(packing.pack_load, scripts.values()))
                count = len(scripts) + len(calls)
                replies = self._ask(connection, load + packed, count, deadline + waiting)[len(scripts) :]
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return replies

    def _ask(self, connection: Any, packed: bytes, count: int, deadline: float) -> list[Reply]:
        """Send, and read so many replies; errors of Redis are values."""
        began = time.monotonic()
        try:
            connection.settimeout(_left(deadline))
            connection.send_packed_command([packed], check_health=False)
            replies = []
            for _ in range(count):
                connection.settimeout(_left(deadline))
                replies.append(_reply(connection))
        except exceptions.TimeoutError as error:
            msg = f"it did not answer within {max(0.0, deadline - began):.3g} s"
            raise ReplyTimeout(msg, sent=True) from error
        except (exceptions.ConnectionError, OSError) as error:
            msg = f"the connection was lost: {_explain(error)}"
            raise ConnectionLost(msg, sent=True) from error
        return replies

    @contextlib.contextmanager
    def _connection(self, deadline: float) -> Generator[Any]:
        self._follow()
        pool = self._pool
        began = time.monotonic()
        try:
            with self._call.until(deadline):
                connection: Any = pool.get_connection()
        except (exceptions.AuthenticationError, exceptions.AuthorizationError) as error:
            msg = f"{self._who} refuses the user name or password: {error}"
            raise AuthenticationRefused(msg) from error
        except (exceptions.TimeoutError, TimeoutError) as error:
            msg = f"{self._who} cannot be reached: nothing within {max(0.0, deadline - began):.3g} s"
            raise ConnectFailed(msg) from error
        except (exceptions.RedisError, OSError) as error:
            what = "cannot be reached" if _cause(error) is not None else "cannot be used"
            msg = f"{self._who} {what}: {_explain(error)}"
            raise ConnectFailed(msg) from error
        try:
            yield connection
        except BaseException:  # of a signal's handler, too: an answer may be on its way that is not the next call's
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    @property
    def _who(self) -> str:
        return f"Redis at {self._settings.where} ({self._settings.origin})"

    def _follow(self) -> None:
        """Look now and then whether Redis is somewhere else by now."""
        now = time.monotonic()
        if now - self._stamp_read < _STAMP_SECONDS:
            return
        self._stamp_read = now
        stamp = endpoints.stamp(self._settings)
        if stamp == self._stamp:
            return
        try:
            fresh = endpoints.current(self._settings)
        except ConfigurationError:
            return  # half written, perhaps; what there is may be good meanwhile
        self._stamp = stamp
        if fresh.endpoint != self._settings.endpoint:
            self._settings = fresh
            self._pool = _pool(fresh, self._timeout, self._call)


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _cause(error: BaseException) -> OSError | None:
    """Give the system's own error, of which redis-py made one in words of its own."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _explain(error: Exception) -> str:
    cause = _cause(error)
    if cause is not None:
        return handshake.explain(cause)
    return "the server closed it" if "closed by server" in str(error) else str(error)


def _reply(connection: Any) -> Reply:
    try:
        reply: Reply = connection.read_response()
    except exceptions.ResponseError as error:
        code = _CODES.get(type(error))
        return ReplyError(f"{code} {error}" if code else str(error))
    except exceptions.BusyLoadingError as error:
        return ReplyError(f"LOADING {error}")
    return reply


class _Credentials(CredentialProvider):
    """Reads the user name and password at each connect, so that a rotated one is taken up."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> Any:
        """Give what AUTH takes; nothing where there is no password."""
        now = endpoints.current(self._settings)
        if now.password is None:
            return ()
        password = now.password.get_secret_value()
        return (password,) if now.username is None else (now.username, password)


class _Call(threading.local):
    """Until when the call of this thread wants an answer: a connection that is made for it has no more time than that."""

    deadline = 0.0

    @contextlib.contextmanager
    def until(self, deadline: float) -> Generator[None]:
        """Have connections be made until then."""
        self.deadline = deadline
        yield


class _Punctual:
    """A connection of redis-py's that is made within what is left of the call, however many addresses its host has."""

    _sock: Any  # redis-py's own, and of the same meaning
    socket_timeout: Any

    def __init__(self, *, call: _Call, **options: Any) -> None:
        super().__init__(**options)
        self._call = call

    def settimeout(self, seconds: float) -> None:
        """Allow so much for each read and write."""
        if self._sock is not None:
            self._sock.settimeout(seconds)

    def _connect(self) -> socket.socket:
        left = self.socket_timeout = _left(self._call.deadline)  # of each answer while it logs in, too
        opened = self._open(left)
        opened.settimeout(_left(self._call.deadline))
        return opened

    def _open(self, left: float) -> socket.socket:
        raise NotImplementedError


class _UnixConnection(_Punctual, UnixDomainSocketConnection):
    path: str

    def _open(self, left: float) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(left)
            made.connect(self.path)
        except BaseException:
            made.close()
            raise
        return made


class _TcpConnection(_Punctual, redis.Connection):
    host: str
    port: int

    def _open(self, left: float) -> socket.socket:  # noqa: ARG002 - counted anew for each address
        failed: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM):
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(_left(self._call.deadline))
                made.connect(address)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            except OSError as error:
                made.close()
                failed = error
            except BaseException:
                made.close()
                raise
            else:
                return made
        raise failed or OSError(f"{self.host} has no address")


class _TlsConnection(_TcpConnection):
    """A connection whose TLS is ours: the same certificates, read at the same moments, as the async client's."""

    def __init__(self, *, tls: TlsSettings, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _open(self, left: float) -> socket.socket:
        plain = super()._open(left)
        try:
            plain.settimeout(_left(self._call.deadline))
            return self._tls.context().wrap_socket(plain, server_hostname=self._tls.server_name or self.host)
        except BaseException:
            plain.close()
            raise


def _pool(settings: RedisSettings, timeout: float, call: _Call) -> ConnectionPool:
    options: dict[str, Any] = {
        "call": call,
        "db": settings.db,
        "credential_provider": _Credentials(settings),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "decode_responses": False,
        "protocol": 2,
        "client_name": settings.client_name,
        "max_connections": _MOST_CONNECTIONS,
    }
    if settings.path is not None:
        return ConnectionPool(connection_class=_UnixConnection, path=str(settings.path), **options)
    options |= {"host": settings.host, "port": settings.port}
    if settings.tls is not None:
        return ConnectionPool(connection_class=_TlsConnection, tls=settings.tls, **options)
    return ConnectionPool(connection_class=_TcpConnection, **options)
