"""The probes' server, asked by raw sockets: what a kubelet, a scraper, and a hostile client send."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bullpen.errors import ConfigurationError
from bullpen_worker.reports import probes
from bullpen_worker.reports.exposition import WorkerMetrics
from bullpen_worker.reports.probes import Address, Answers, ProbeServer, Verdict


class State:
    """What the server is asked about."""

    def __init__(self) -> None:
        self.health = Verdict(ok=True, text="ok")
        self.ready = Verdict(ok=False, text="not connected to Redis yet")
        self.metrics = WorkerMetrics("emails")

    def answers(self) -> Answers:
        return Answers(lambda: self.health, lambda: self.ready, self.metrics.render)


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
async def server(state: State) -> AsyncIterator[ProbeServer]:
    async with ProbeServer(Address("127.0.0.1", 0), state.answers(), request_seconds=0.3) as server:
        yield server


async def send(server: ProbeServer, request: bytes) -> tuple[int, dict[str, str], str]:
    """Send bytes, give status, headers and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *fields = head.split("\r\n")
    return int(status.split()[1]), dict(field.lower().split(": ", 1) for field in fields), body


async def get(server: ProbeServer, path: str, *headers: str) -> tuple[int, dict[str, str], str]:
    lines = [f"GET {path} HTTP/1.1", "Host: worker", *headers]
    return await send(server, ("\r\n".join(lines) + "\r\n\r\n").encode())


async def cut_off(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends without an answer, by a reset or an end of file."""
    try:
        return not await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:
        return True


async def test_health_and_readiness_say_what_they_are_told(server: ProbeServer, state: State) -> None:
    assert await get(server, "/healthz") == (
        200,
        {
            "content-type": "text/plain; charset=utf-8",
            "content-length": "3",
            "cache-control": "no-store",
            "connection": "close",
        },
        "ok\n",
    )
    status, _, body = await get(server, "/readyz?verbose")
    assert (status, body) == (503, "not connected to Redis yet\n")
    state.health = Verdict(ok=False, text="nothing fetched for 61 s")
    state.ready = Verdict(ok=True, text="ok")
    assert (await get(server, "/healthz"))[::2] == (503, "nothing fetched for 61 s\n")
    assert (await get(server, "/readyz"))[0] == 200


async def test_metrics_in_the_format_that_is_asked_for(server: ProbeServer, state: State) -> None:
    state.metrics.slots = 12
    _, headers, body = await get(server, "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'bullpen_worker_slots{queue="emails"} 12.0' in body
    _, headers, body = await get(server, "/metrics", "accept: application/openmetrics-text;version=1.0.0;q=0.9")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 404, id="another path"),
        pytest.param(b"GET /healthz/ HTTP/1.1\r\n\r\n", 404, id="a longer path"),
        pytest.param(b"POST /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, id="another method"),
        pytest.param(b"hello\r\n\r\n", 400, id="not HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\r\n\r\n", 400, id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * probes.MAX_HEAD_BYTES + b"\r\n\r\n", 431, id="too long"),
        pytest.param(b"GET /healthz HTTP/1.0\r\n\r\n", 200, id="HTTP/1.0"),
    ],
)
async def test_what_else_is_sent(server: ProbeServer, request_: bytes, status: int) -> None:
    assert (await send(server, request_))[0] == status


async def test_head_is_get_without_the_body(server: ProbeServer) -> None:
    status, headers, body = await send(server, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert (status, headers["content-length"], body) == (200, "3", "")


async def test_a_probe_that_raises_is_answered_with_what_went_wrong(server: ProbeServer, state: State) -> None:
    state.metrics.absorb(1, {"durations": {}, "waits": {"welcome": []}})
    status, _, body = await get(server, "/metrics")
    assert status == 500
    assert body
    assert (await get(server, "/healthz"))[0] == 200


async def test_a_request_that_never_ends_is_ended(server: ProbeServer) -> None:
    status, _, body = await send(server, b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    assert (status, body) == (408, "no request within 0.3 s\n")


async def test_a_check_that_connects_and_leaves_is_no_error(server: ProbeServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.close()
    await writer.wait_closed()
    assert (await get(server, "/healthz"))[0] == 200


async def test_silent_connections_are_bounded_and_do_not_keep_others_out(state: State) -> None:
    async with ProbeServer(Address("127.0.0.1", 0), state.answers(), request_seconds=4) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(probes.MAX_CONNECTIONS)]
        late, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert await cut_off(late)
        writer.close()
        for reader, other in silent:  # each is told off after its time
            assert b" 408 " in await asyncio.wait_for(reader.read(), 60)
            other.close()
        assert (await get(server, "/healthz"))[0] == 200


async def test_closing_ends_open_connections(state: State) -> None:
    async with ProbeServer(Address("127.0.0.1", 0), state.answers(), request_seconds=60) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /heal")
        await writer.drain()
        assert (await get(server, "/healthz"))[0] == 200
    assert await cut_off(reader)
    writer.close()
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = server.port


async def test_a_port_that_is_taken_is_said_so(server: ProbeServer, state: State) -> None:
    with pytest.raises(ConfigurationError, match=rf"cannot listen on 127.0.0.1:{server.port}: .*; choose another"):
        async with ProbeServer(Address("127.0.0.1", server.port), state.answers()):
            pass


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("localhost:0", ("localhost", 0)),
        (":8080", ("", 8080)),
        ("[::]:8080", ("::", 8080)),
        ("[fe80::1]:65535", ("fe80::1", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert probes.parse_address(text) == address


@pytest.mark.parametrize("text", ["", "8080", "localhost", "localhost:http", "::1:8080", "a:65536", "a:-1", "a:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write HOST:PORT"):
        probes.parse_address(text)
