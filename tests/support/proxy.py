"""A TCP proxy in front of Redis, to end TLS, to cut connections, and to lose replies."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from bullpen.redis.settings import RedisSettings
from tests.support import loops


class Proxy:
    """Listens on the loopback and hands bytes on, as long as it is told to."""

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        self._upstream = RedisSettings.from_url(upstream)
        self._tls = tls
        self._pairs: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0
        self.lose_replies = False
        """True: commands reach Redis, its replies reach nobody."""
        self.refuse = False
        """True: new connections are closed at once."""

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/{self._upstream.db}"

    def cut(self) -> None:
        """End every connection now."""
        for writer in list(self._pairs):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            if self._upstream.path is not None:
                back_reader, back_writer = await asyncio.open_unix_connection(str(self._upstream.path))
            else:
                back_reader, back_writer = await asyncio.open_connection(self._upstream.host, self._upstream.port)
            ends.add(back_writer)
            self._pairs |= ends
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back_writer, replies=False))
                group.create_task(self._pump(back_reader, writer, replies=True))
        finally:
            self._pairs -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if not (replies and self.lose_replies):
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        self.accepted += 1
        self._pairs.add(writer)  # from here on: its task may be cancelled before it has begun
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.refuse = True
        if self._server is not None:
            self._server.close()
        await loops.turns()
        self.cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy(upstream: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """Give a proxy in front of the Redis at `upstream`."""
    made = Proxy(upstream, tls)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
