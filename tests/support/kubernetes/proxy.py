"""A proxy in front of the API server that makes things go wrong.

    with proxy.between(api_server) as faulty:
        login = api_server.service_account("bullpen", "operator", server=faulty.url)
        rule = faulty.inject(Answer(429, retry_after=1), verbs={"patch"}, resources={"deployments/scale"}, times=3)
        ...
        faulty.cut_watches()

It ends TLS and speaks to the server as its front proxy, so that RBAC and audit see the user who logged in to the proxy:
by certificate, or by token, which is handed on as it is. HTTP/1.1 only.

One thread with an event loop of its own carries everything, so that tests with and without a loop use it alike. Rules are
looked at under a lock; a request that is under way keeps what it met at its beginning.
"""

import asyncio
import contextlib
import json
import re
import ssl
import threading
import time
import weakref
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import yarl
from aiohttp import web

from tests.support import loops
from tests.support.certificates import Pair
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.kubernetes.attributes import Attributes, attributes
from tests.support.kubernetes.faults import Answer, Delay, Fault, Hang, LoseReply, Refuse, Rule
from tests.support.kubernetes.processes import free_ports

T = TypeVar("T")

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"}


@dataclass(frozen=True)
class Seen:
    """One request that came by."""

    at: float
    """By `time.monotonic()`."""
    user: str
    wanted: Attributes
    path: str
    """With its query."""
    body: bytes
    status: int
    """What was answered; 0 where nothing was, or not yet."""


class Proxy:
    """Hands requests on, or does to them what its rules say. Made by `between`."""

    def __init__(self, upstream: str, authority: str, serving: Pair, identity: Pair) -> None:
        self._upstream = upstream
        self._authority, self._serving, self._identity = authority, serving, identity
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._seen: list[Seen] = []
        self._watches: dict[web.StreamResponse, web.BaseRequest] = {}
        self._open: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="api-proxy", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self.port = free_ports(1)[0]
        self.url = f"https://127.0.0.1:{self.port}"

    # --- for tests

    def inject(
        self,
        fault: Fault,
        *,
        verbs: Iterable[str] = (),
        resources: Iterable[str] = (),
        path: str = "",
        user: str = "",
        times: int | None = None,
    ) -> Rule:
        """From now on, this happens to requests that fit; the first rule that fits counts. `path`: a regular expression."""
        rule = Rule(fault, frozenset(verbs), frozenset(resources), re.compile(path), user, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """End one rule."""
        with self._lock:
            self._rules.remove(rule)

    def heal(self) -> None:
        """End all rules, a freeze, and a closed port."""
        with self._lock:
            self._rules.clear()
        self.thaw()
        self.listen()

    def cut_watches(self) -> int:
        """End every watch now, without a word; how many there were."""
        return self._do(self._cut_watches())

    def end_watches(self, status: int = 410) -> int:
        """Send every watch an ERROR event with this status, and end it; how many there were."""
        return self._do(self._end_watches(status))

    def freeze(self) -> None:
        """From now on no byte passes, and no connection ends: what a dead load balancer does."""
        self._do(self._set_gate(open=False))

    def thaw(self) -> None:
        """End a freeze; what waited goes on."""
        self._do(self._set_gate(open=True))

    def refuse(self) -> None:
        """Close the port, and reset what is connected: the API server is gone."""
        self._do(self._stop_listening())

    def listen(self) -> None:
        """Open the port again."""
        self._do(self._listen())

    def watching(self, resource: str = "", user: str = "") -> int:
        """How many watches are open now."""
        return self._do(self._count_watches(resource, user))

    def seen(self, *verbs: str, resource: str = "", user: str = "", since: float = 0.0) -> list[Seen]:
        """The requests that came by, in the order in which they ended; those under way are not among them."""
        with self._lock:
            everything = list(self._seen)
        return [
            one
            for one in everything
            if (not verbs or one.wanted.verb in verbs)
            and (not resource or one.wanted.resource == resource)
            and (not user or one.user == user)
            and one.at >= since
        ]

    # --- life

    def start(self) -> None:
        """Start the thread; returns when the port is open."""
        self._thread.start()
        self._ready.wait(60)
        if self._failure is not None or self._loop is None:
            raise RuntimeError("the proxy did not start") from self._failure

    def close(self) -> None:
        """End everything, and the thread."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(60)
        if self._failure is not None:
            raise RuntimeError("the proxy did not end well") from self._failure

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None, "the proxy was not started"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loops.WatchedLoop) as runner:
                runner.run(self._run())
        except BaseException as failure:  # `start` and the test's thread say it
            self._failure = failure
            raise
        finally:
            self._ready.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()
        trusting = ssl.create_default_context(cafile=self._authority)
        trusting.load_cert_chain(self._identity.certificate, self._identity.key)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._authority)
        self._tls.load_cert_chain(self._serving.certificate, self._serving.key)
        self._tls.verify_mode = ssl.CERT_OPTIONAL
        connector = aiohttp.TCPConnector(ssl=trusting, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as self._session:
            server = web.Server(self._handle, access_log=None, handler_cancellation=True)
            self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await self._runner.setup()
            self._site: web.TCPSite | None = None
            await self._listen()
            self._ready.set()
            await self._ending.wait()
            await self._stop_listening()
            await self._runner.cleanup()

    async def _listen(self) -> None:
        if self._site is None:
            self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
            await self._site.start()

    async def _stop_listening(self) -> None:
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()
        for transport in list(self._open):
            transport.abort()

    async def _set_gate(self, *, open: bool) -> None:
        self._gate.set() if open else self._gate.clear()

    async def _cut_watches(self) -> int:
        watches = list(self._watches.values())
        for request in watches:
            _abort(request)
        return len(watches)

    async def _end_watches(self, status: int) -> int:
        watches = dict(self._watches)
        event = json.dumps({"type": "ERROR", "object": Answer(status).body()}).encode() + b"\n"
        for response, request in watches.items():
            with contextlib.suppress(ConnectionError):
                await response.write(event)
                await response.write_eof()
            self._watches.pop(response, None)
            if request.transport is not None:
                request.transport.close()
        return len(watches)

    async def _count_watches(self, resource: str, user: str) -> int:
        found = 0
        for request in self._watches.values():
            wanted = attributes(request.method, request.path, request.query)
            found += (not resource or wanted.resource == resource) and (not user or _user(request)[0] == user)
        return found

    # --- one request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._open.add(transport)
        status = 0
        body = b""
        user, groups = _user(request)
        wanted = attributes(request.method, request.path, request.query)
        at = time.monotonic()
        try:
            body = await request.read()
            await self._gate.wait()
            with self._lock:
                rule = next((r for r in self._rules if r.meets(wanted, request.path_qs, user)), None)
            response = await self._apply(rule.fault if rule else None, request, body, user, groups, wanted)
            status = response.status
            return response
        finally:
            with self._lock:
                self._seen.append(Seen(at, user, wanted, request.path_qs, body, status))

    async def _apply(
        self,
        fault: Fault | None,
        request: web.BaseRequest,
        body: bytes,
        user: str,
        groups: list[str],
        wanted: Attributes,
    ) -> web.StreamResponse:
        match fault:
            case Answer(status=status, retry_after=retry_after):
                headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
                return web.json_response(fault.body(), status=status, headers=headers)
            case Refuse():
                raise _abort(request)
            case Hang():
                await asyncio.Event().wait()  # until the client gives up, or the proxy ends
            case Delay(seconds=seconds):
                await asyncio.sleep(seconds)
            case LoseReply() | None:
                pass
        return await self._forward(request, body, user, groups, wanted, lose=isinstance(fault, LoseReply))

    async def _forward(
        self, request: web.BaseRequest, body: bytes, user: str, groups: list[str], wanted: Attributes, *, lose: bool
    ) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        if "Authorization" not in request.headers and user:
            headers += [("X-Remote-User", user), *(("X-Remote-Group", group) for group in groups)]
        url = f"{self._upstream}{request.raw_path}"
        try:
            async with self._session.request(
                request.method, yarl.URL(url, encoded=True), data=body or None, headers=headers
            ) as answer:
                kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
                if wanted.verb == "watch" and answer.status == 200:
                    return await self._stream(request, answer, kept)
                data = await answer.read()
                await self._gate.wait()
                if lose:
                    raise _abort(request)
                return web.Response(status=answer.status, headers=kept, body=data)
        except (aiohttp.ClientError, ConnectionError):
            raise _abort(request) from None

    async def _stream(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, headers: list[tuple[str, str]]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        self._watches[response] = request
        try:
            async for data in answer.content.iter_any():
                await self._gate.wait()
                if response not in self._watches:
                    break
                await response.write(data)
        finally:
            self._watches.pop(response, None)
        return response


def _user(request: web.BaseRequest) -> tuple[str, list[str]]:
    certificate = request.get_extra_info("peercert")
    if not certificate:
        return "", []
    subject = [pair for part in certificate["subject"] for pair in part]
    names = [value for key, value in subject if key == "commonName"]
    return names[0] if names else "", [value for key, value in subject if key == "organizationName"]


def _abort(request: web.BaseRequest) -> ConnectionResetError:
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError("cut by the test")


@contextlib.contextmanager
def between(server: ApiServer) -> Iterator[Proxy]:
    """Give a proxy in front of this server; log in through it by `server.login(..., server=proxy.url)`."""
    proxy = Proxy(server.url, str(server.authority), server.serving, server.front_proxy)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
