"""The worker's small HTTP server: ``/healthz``, ``/readyz`` and ``/metrics``, for the kubelet and for Prometheus.

It runs in the supervisor's event loop, beside lock renewal and far from handlers, so that a handler that blocks cannot
keep it from answering. One task a connection, each with an end: a request is at most 8 KiB of head and has 5 s to
arrive, its answer has 5 s to leave; a connection carries one request; beyond 64 connections at a time the next are
closed at once. Bodies are not read. `close` ends the connections that are open and returns when they are gone.

No authentication, no TLS: it tells nothing about payloads, and is not for the open internet.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple, Self

from bullpen.errors import ConfigurationError
from bullpen_worker.reports.exposition import Page

MAX_HEAD_BYTES: Final = 8 * 1024
MAX_CONNECTIONS: Final = 64
REQUEST_SECONDS: Final = 5.0

_PLAIN: Final = "text/plain; charset=utf-8"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (\S+) HTTP/1\.[01]")


class Verdict(NamedTuple):
    """What a probe is answered with: 200 or 503, and a line that says why."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Answers:
    """What the paths answer. Each is called in the event loop, must return at once, and may be asked at any time."""

    health: Callable[[], Verdict]
    """``/healthz``: whether the process does its work; after some failures in a row the kubelet restarts it."""

    ready: Callable[[], Verdict]
    """``/readyz``: whether it takes jobs."""

    metrics: Callable[[str], Page]
    """``/metrics``: the page for this ``Accept`` header."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``, ``[IPv6]:PORT``, or ``:PORT`` for all interfaces; port 0 takes a free one.

    Raises `ConfigurationError` for anything else.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    bare_v6 = ":" in host and not text.startswith("[")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535 or bare_v6:
        msg = f'probes: {text!r} is not an address: write HOST:PORT, as in "0.0.0.0:8080", "[::]:8080" or ":8080"'
        raise ConfigurationError(msg)
    return Address(host, int(port))


class ProbeServer:
    """Serves `answers` at `address`. Listens within ``async with``; `port` says where, when 0 was asked for."""

    def __init__(self, address: Address, answers: Answers, *, request_seconds: float = REQUEST_SECONDS) -> None:
        self._address = address
        self._answers = answers
        self._request_seconds = request_seconds
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that is listened on. Raises `RuntimeError` outside of ``async with``."""
        if self._server is None:
            msg = "the probe server does not listen"
            raise RuntimeError(msg)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        """Listen. Raises `ConfigurationError` when the address cannot be had."""
        host, port = self._address
        try:
            self._server = await asyncio.start_server(self._connected, host or None, port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            msg = f"probes: cannot listen on {host or '*'}:{port}: {error.strerror or error}; choose another --probes"
            raise ConfigurationError(msg) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, end what is open."""
        if self._server is not None:
            self._server.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # only `close` cancels, and awaits this task: it ends here, quietly
        except (OSError, TimeoutError):  # the other side has gone, or is too slow to be waited for
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._request_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:  # closed without a request, as a TCP check does
            writer.transport.abort()
            return
        except asyncio.LimitOverrunError:
            answer = _response(431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes\n")
        except TimeoutError:
            answer = _response(408, f"no request within {self._request_seconds:g} s\n")
        else:
            answer = self._answer(head)
        writer.write(answer)
        async with asyncio.timeout(self._request_seconds):
            await writer.drain()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        line, _, fields = head.partition(b"\r\n")
        request = _REQUEST_LINE.fullmatch(line)
        if request is None:
            return _response(400, "this is not an HTTP/1 request\n")
        method, target = request[1].decode(), request[2].decode("latin-1")
        if method not in {"GET", "HEAD"}:
            return _response(405, "only GET and HEAD are answered\n")
        try:
            answer = self._page(target.partition("?")[0], _accept(fields))
        except Exception as error:  # noqa: BLE001  a probe that fails must say so, not hang up
            answer = _response(500, f"{type(error).__name__}: {error}\n")
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else answer

    def _page(self, path: str, accept: str) -> bytes:
        match path:
            case "/healthz":
                return _verdict(self._answers.health())
            case "/readyz":
                return _verdict(self._answers.ready())
            case "/metrics":
                page = self._answers.metrics(accept)
                return _response(200, page.body, page.content_type)
            case _:
                return _response(404, "there are /healthz, /readyz and /metrics\n")


def _accept(fields: bytes) -> str:
    for field in fields.split(b"\r\n"):
        name, _, value = field.partition(b":")
        if name.strip().lower() == b"accept":
            return value.strip().decode("latin-1")
    return ""


def _verdict(verdict: Verdict) -> bytes:
    return _response(200 if verdict.ok else 503, verdict.text.rstrip("\n") + "\n")


def _response(status: int, body: bytes | str, content_type: str = _PLAIN) -> bytes:
    payload = body.encode() if isinstance(body, str) else body
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(payload)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + payload
