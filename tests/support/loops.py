"""Event loops of tests: what a loop leaves open is said of the test that left it, not of a later one that the collector meets."""

import asyncio
from asyncio import sslproto, transports
from collections.abc import Iterator
from typing import Any

_SAYING_GOODBYE = (sslproto.SSLProtocolState.FLUSHING, sslproto.SSLProtocolState.SHUTDOWN)


class WatchedLoop(asyncio.SelectorEventLoop):
    """A loop that fails to close while a connection of it is open."""

    def close(self) -> None:
        """Close the loop; raises AssertionError, after it, where somebody left a connection open."""
        if self.is_running() or self.is_closed():
            super().close()
            return
        self.run_until_complete(end_goodbyes())
        left = [(transport, _peer(transport)) for transport in _open(self)]
        for transport, _ in left:
            transport.abort()
        if left:
            self.run_until_complete(turns())
        super().close()
        assert not left, f"connections that nobody closed: {left}"


async def end_goodbyes() -> None:
    """Cut off the connections of this loop that were closed and wait for the TLS goodbye of the other side.

    aiohttp leaves those of requests that were cancelled to it, for up to half a minute. In a process that ends it does not
    matter; a test's loop ends before its process.
    """
    for transport in _open(asyncio.get_running_loop()):
        protocol = transport.get_protocol()
        if isinstance(protocol, sslproto.SSLProtocol) and protocol._state in _SAYING_GOODBYE:  # type: ignore[attr-defined]
            transport.abort()
    await turns()


async def turns() -> None:
    """Let the loop end what it has begun: who is cut off, or was accepted, is told so in its next turns."""
    for _ in range(3):
        await asyncio.sleep(0)


def _open(loop: asyncio.AbstractEventLoop) -> Iterator[transports.Transport]:
    known: list[Any] = list(loop._transports.values())  # type: ignore[attr-defined]
    for transport in known:
        if transport._sock is not None:
            yield transport


def _peer(transport: transports.Transport) -> object:
    return transport.get_extra_info("peername") or transport.get_extra_info("sockname")
