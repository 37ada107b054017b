"""One connection to each Redis; a bad one costs the others nothing and is told of without what it said or was told."""

import asyncio
import contextlib
import resource
import socketserver
import ssl
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bullpen import embedded
from bullpen.errors import RedisUnavailable
from bullpen.queue.keys import QueueKeys
from bullpen.queue.observation import Observe
from bullpen_operator.connections.pool import Redises
from bullpen_operator.connections.references import DataRef, RedisRef
from support.secrets import Secrets
from tests.support import loops
from tests.support.certificates import Authority
from tests.support.proxy import proxy as proxied
from tests.support.waiting import eventually

HIDDEN = "hunter2-is-my-password"


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


@pytest.fixture
async def redises(secrets: Secrets) -> AsyncIterator[Redises]:
    async with Redises(secrets) as redises:
        yield redises


def reference(url: str, *, password: bool = False, id: str = "shop/main") -> RedisRef:
    source = DataRef("Secret", "redis", "password", "spec.auth.password.secretKeyRef") if password else None
    return RedisRef(url.rsplit("/", 1)[0] + "/0", "shop", password_from=source, id=id)


class Hostile(asyncio.Protocol):
    """Says this to whoever connects; with `after_hello` it behaves until the first command behind the handshake."""

    def __init__(self, answer: bytes, *, after_hello: bool) -> None:
        self._answer = answer
        self._good = after_hello
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._good:
            transport.write(self._answer)

    def data_received(self, data: bytes) -> None:
        if not self._good:
            self._transport.write(self._answer)
            return
        self._heard += data
        if self._heard.endswith(b"PING\r\n"):
            self._transport.write(b"+OK\r\n" * (self._heard.count(b"*") - 1) + b"+PONG\r\n")
            self._good = False


@contextlib.asynccontextmanager
async def hostile(answer: bytes, *, after_hello: bool = False) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    made: list[Hostile] = []

    def make() -> Hostile:
        made.append(Hostile(answer, after_hello=after_hello))
        return made[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        await loops.turns()  # whom it has accepted is told so by then
        for each in made:
            each._transport.abort()


async def test_equal_references_are_one_connection(own: embedded.Server, redises: Redises) -> None:
    first = await redises.of(reference(own.url))
    assert await redises.of(reference(own.url, id="another name")) is first
    assert await redises.of(replace(reference(own.url), namespace="other")) is not first
    reading = await first.run(Observe(QueueKeys("bull", "q"), 0))
    assert (reading.backlog, first.up, first.why, first.id) == (0, True, "", "shop/main")


async def test_the_password_comes_from_the_secret_and_a_new_one_is_read_when_it_is_refused(
    own: embedded.Server, redises: Redises, secrets: Secrets
) -> None:
    own.execute(b"CONFIG", b"SET", b"requirepass", b"first")
    secrets.put("shop", "redis", password="stale")
    redis = await redises.of(reference(own.url, password=True))
    with pytest.raises(RedisUnavailable, match="refuses the user name or password"):
        await redis.call("PING")
    assert redis.trouble is not None
    assert redis.trouble.reason == "AuthenticationRefused"
    secrets.put("shop", "redis", password="first\n")
    await eventually(lambda: redis.up, 15)
    assert await redis.call("PING") == b"PONG"


async def test_what_is_missing_is_told_by_field_and_object(redises: Redises, secrets: Secrets) -> None:
    redis = await redises.of(reference("redis://127.0.0.1:1/0", password=True))
    with pytest.raises(
        RedisUnavailable, match=r'spec.auth.password.secretKeyRef: there is no Secret "redis" in namespace "shop"'
    ):
        await redis.call("PING")
    assert redis.trouble is not None
    assert redis.trouble.reason == "CredentialsUnreadable"
    secrets.put("shop", "redis", other="x")
    await eventually(lambda: 'has no key "password"' in redis.why, 10)
    secrets.put("shop", "redis", password="two\nlines" + HIDDEN)
    await eventually(lambda: "must be one line" in redis.why, 10)
    assert HIDDEN not in redis.why


@pytest.mark.parametrize(
    ("answer", "after_hello", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "cannot be used"),
        (b"*4000000000\r\n", False, "sent too much"),
        (b"$600000000\r\n", False, "sent too much"),
        ((b"-ERR you said " + HIDDEN.encode() + b"\r\n") * 4, False, "refuses the user name or password"),
        (b"\x15\x03\x01\x00\x02\x02\x16", False, "cannot be used"),
    ],
    ids=["web server", "endless list", "endless text", "echoes the password", "TLS"],
)
async def test_a_server_that_is_no_redis_is_told_of_and_tells_no_secret(
    redises: Redises, secrets: Secrets, answer: bytes, after_hello: bool, says: str
) -> None:
    secrets.put("shop", "redis", password=HIDDEN)
    async with hostile(answer, after_hello=after_hello) as url:
        redis = await redises.of(reference(url, password=True))
        with pytest.raises(RedisUnavailable, match=says) as caught:
            await redis.call("PING")
        assert HIDDEN not in f"{caught.value!r}{caught.value.__context__!r}{redis.why}"


class Flood(socketserver.BaseRequestHandler):
    """Behaves until the handshake is over, and then sends 600 MB."""

    def handle(self) -> None:
        heard = b""
        while not heard.endswith(b"PING\r\n"):
            heard += self.request.recv(1000)
        self.request.sendall(b"+OK\r\n" * (heard.count(b"*") - 1) + b"+PONG\r\n")
        self.request.recv(1000)
        with contextlib.suppress(ConnectionError):
            self.request.sendall(b"*600\r\n")
            for _ in range(600):
                self.request.sendall(b"$1048576\r\n" + b"x" * 1048576 + b"\r\n")


@pytest.mark.parametrize(
    "endpoint",
    [
        "redis://a..b:1/0",
        f"redis://{'a' * 70}:1/0",
        "redis://x\x00y:1/0",
        "redis://[::1:1/0",
        "redis://h:99999/0",
        "redis://%zz:1/0",
        "rediss://127.0.0.1:1/0",
    ],
)
async def test_an_endpoint_that_can_be_none_is_told_of_and_tried_again(redises: Redises, endpoint: str) -> None:
    redis = await redises.of(RedisRef(endpoint, "shop", id="shop/main"))
    with pytest.raises(RedisUnavailable):
        await redis.call("PING")
    assert redis.trouble is not None
    assert redis.trouble.reason in {"Unreachable", "CredentialsUnreadable"}
    assert redis.link._task is not None
    assert not redis.link._task.done()


async def test_600_megabytes_are_cut_off_early_and_not_asked_for_again_at_once(redises: Redises) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Flood) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            redis = await redises.of(reference(f"redis://127.0.0.1:{server.server_address[1]}/0"))
            with pytest.raises(RedisUnavailable, match="sent too much"):
                await redis.call("GET", "x")
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB
            assert redis.trouble is not None
            assert redis.trouble.reason == "ReplyTooLarge"
            with pytest.raises(RedisUnavailable, match="left alone for a while"):
                await redis.call("GET", "x")
            await redis.close()
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()


async def test_one_that_answers_nothing_costs_one_timeout_and_then_fails_at_once(
    own: embedded.Server, redises: Redises
) -> None:
    async with hostile(b"", after_hello=True) as url:
        good, bad = await redises.of(reference(own.url)), await redises.of(reference(url, id="bad"))
        with pytest.raises(RedisUnavailable):
            await bad.call("PING", timeout=0.3)
        for _ in range(100):
            with pytest.raises(RedisUnavailable, match="left alone for a while"):
                await bad.call("PING")
            assert await good.call("PING") == b"PONG"
        assert (good.up, bad.up) == (True, False)


async def test_what_is_away_fails_at_once_and_is_back_when_it_is(own: embedded.Server, redises: Redises) -> None:
    told: list[bool] = []
    redises.subscribe(lambda redis: told.append(redis.up))
    redis = await redises.of(reference(own.url))
    await redis.call("PING")
    own.kill()
    await eventually(lambda: not redis.up)
    with pytest.raises(RedisUnavailable):
        await redis.call("PING")
    own.restart()
    await eventually(lambda: redis.up, 5)
    assert await redis.call("PING") == b"PONG"
    assert told == [True, False, *[False] * (len(told) - 3), True]


async def test_the_api_server_may_be_away_while_what_was_read_does(
    own: embedded.Server, redises: Redises, secrets: Secrets
) -> None:
    own.execute(b"CONFIG", b"SET", b"requirepass", b"first")
    secrets.put("shop", "redis", password="first")
    redis = await redises.of(reference(own.url, password=True))
    await redis.call("PING")
    secrets.away = True
    assert redis.link.connection is not None
    redis.link.connection.abort("cut")
    await eventually(lambda: redis.up, 5)


async def test_what_nobody_refers_to_any_more_is_closed(own: embedded.Server) -> None:
    now = [0.0]
    async with Redises(Secrets(), monotonic=lambda: now[0]) as redises:
        kept, gone = reference(own.url), replace(reference(own.url), namespace="gone")
        for ref in (kept, gone):
            await (await redises.of(ref)).call("PING")
        assert await redises.retain({kept}) == ()
        now[0] = 301.0
        assert [redis.ref for redis in await redises.retain({kept})] == [gone]
        assert [redis.ref for redis in redises.known()] == [kept]


async def test_tls_takes_authorities_and_certificate_from_secrets_and_leaves_no_file(
    own: embedded.Server, redises: Redises, secrets: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server", hosts=("127.0.0.1",)), authority.issue("client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    context.load_cert_chain(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    files = tmp_path / "tmp"
    files.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(files))
    secrets.put("shop", "ca", **{"ca.crt": authority.certificate.read_text()})
    ca = DataRef("Secret", "ca", "ca.crt", "spec.tls.ca.secretKeyRef")
    async with proxied(own.url, tls=context) as proxy:
        ref = replace(reference(proxy.url), ca_from=ca, certificate_from="client")
        redis = await redises.of(ref)
        with pytest.raises(
            RedisUnavailable, match=r"spec.tls.clientCertificate.secretName: there is no Secret \"client\""
        ):
            await redis.call("PING")
        wrong = {"tls.crt": client.certificate.read_text(), "tls.key": server.key.read_text()}
        secrets.put("shop", "client", **wrong)
        await eventually(lambda: "cannot be used with its key" in redis.why, 10)
        secrets.put("shop", "client", **wrong | {"tls.key": client.key.read_text()})
        await redises.retain(())
        async with Redises(secrets) as fresh:
            redis = await fresh.of(ref)
            assert await redis.call("PING") == b"PONG"
            assert redis.settings is not None
            assert "PRIVATE" not in repr(redis.settings)
            await redis.close()
    assert list(files.iterdir()) == []
