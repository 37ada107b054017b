"""The operator's small HTTP server: ``/healthz``, ``/readyz`` and ``/metrics``.

``/healthz`` says that the event loop turns; an operator that is blind, because there is no API server, is healthy: a restart
would make it no better. ``/readyz`` says that it knows the cluster and could lead. No authentication, no TLS: nothing
of a payload or a Secret is told here.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import web

from bullpen.errors import ConfigurationError

SHUTDOWN_SECONDS = 1.0


@dataclass(frozen=True)
class Answers:
    """What the paths answer; each is called in the event loop and returns at once."""

    ready: Callable[[], str]
    """Why it is not ready; empty when it is."""

    metrics: Callable[[], bytes]
    content_type: str


@contextlib.asynccontextmanager
async def serve(address: str, answers: Answers) -> AsyncIterator[int]:
    """Serve at ``host:port`` and give the port. Raises `ConfigurationError` where that is no address, or is taken."""
    host, port = parse_address(address)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = answers.ready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=answers.metrics(), headers={"Content-Type": answers.content_type})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port)
        try:
            await site.start()
        except OSError as error:
            msg = f"probes cannot be served at {address}: {error.strerror or error}"
            raise ConfigurationError(msg) from error
        addresses = runner.addresses
        yield addresses[0][1] if addresses else port
    finally:
        await runner.cleanup()


def parse_address(text: str) -> tuple[str, int]:
    """Read ``host:port`` or ``:port``. Raises `ConfigurationError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        msg = f"probes is {text!r}; it is an address such as 0.0.0.0:8080 or :8080"
        raise ConfigurationError(msg)
    return host.strip("[]"), int(port)
