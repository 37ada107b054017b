"""A server that says it is Redis: it answers each command as a test likes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import hiredis

Answer = Callable[[list[bytes]], bytes]
"""Gives the bytes that are answered to a command."""


@contextlib.asynccontextmanager
async def impostor(answer: Answer) -> AsyncIterator[str]:
    """Serve as long as the context lasts; gives the URL."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        parser = hiredis.Reader()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):  # cancelled at the end of the loop
            while data := await reader.read(65_536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    writer.write(answer(command))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        for each in writers:
            each.close()


def text(words: bytes) -> bytes:
    """Write a text as Redis does."""
    return b"$%d\r\n%s\r\n" % (len(words), words)


def several(*replies: bytes) -> bytes:
    """Write a list of replies."""
    return b"*%d\r\n%s" % (len(replies), b"".join(replies))


def number(value: int) -> bytes:
    """Write a number."""
    return b":%d\r\n" % value
