"""A mail server that keeps what it gets: each message a file, to be opened with any mail program."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailbox:
    """Catches mails on a free port of the loopback and writes them to a folder as ``.eml`` files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["Mailbox"]:
        """Serve until the block ends; `address` is the server's host and port."""
        self.folder.mkdir(parents=True, exist_ok=True)
        server = await asyncio.get_running_loop().create_server(lambda: SMTP(self), "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()[:2]
            self.address = f"{host}:{port}"
            yield self

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802
        """Keep one message (aiosmtpd calls this by name)."""
        content = envelope.content or b""
        data = content if isinstance(content, bytes) else content.encode()
        self.folder.joinpath(f"{len(self.messages()) + 1:04d}.eml").write_bytes(data)
        return "250 kept"

    def messages(self) -> list[Path]:
        """List the files of all messages so far."""
        return sorted(self.folder.glob("*.eml"))
