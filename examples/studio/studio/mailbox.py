"""A mail server that keeps what it gets: each message a file, to be opened with any mail program."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailbox:
    """Catches mails and writes them to a folder as ``.eml`` files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator["Mailbox"]:
        """Serve until the block ends, on a free port where none is given; `address` says where."""
        self.folder.mkdir(parents=True, exist_ok=True)
        server = await asyncio.get_running_loop().create_server(lambda: SMTP(self), host, port)
        async with server:
            self.address = f"{host}:{server.sockets[0].getsockname()[1]}"
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
