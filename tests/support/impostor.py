"""A server that says it is Redis: it answers each command as a test likes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import hiredis

from tests.support import loops

Answer = Callable[[list[bytes]], bytes]
"""Gives the bytes that are answered to a command."""


@contextlib.asynccontextmanager
async def impostor(answer: Answer) -> AsyncIterator[str]:
    """Serve as long as the context lasts; gives the URL."""
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None]] = []
    is_over = False

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_over:
            writer.transport.abort()
            return
        writers.append(writer)
        tasks.append(asyncio.get_running_loop().create_task(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    writer.write(answer(command))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        is_over = True
        server.close()
        await loops.turns()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks)


def text(words: bytes) -> bytes:
    """Write a text as Redis does."""
    return b"$%d\r\n%s\r\n" % (len(words), words)


def several(*replies: bytes) -> bytes:
    """Write a list of replies."""
    return b"*%d\r\n%s" % (len(replies), b"".join(replies))


def number(value: int) -> bytes:
    """Write a number."""
    return b":%d\r\n" % value
