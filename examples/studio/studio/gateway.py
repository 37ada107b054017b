"""A payment gateway to practise with: real HTTP, idempotency keys, and failures as real ones have them.

By a seeded die it answers 503, hangs up after it has charged (so that the client cannot know), or is slow. Cards that end
in ``0002`` are declined.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Gateway:
    """The gateway's books, for the account at the end."""

    seed: int = 7
    charges: dict[str, str] = field(default_factory=dict)
    declined: set[str] = field(default_factory=set)
    requests: int = 0
    failures: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._die = random.Random(self.seed)

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator["Gateway"]:
        """Serve until the block ends, on a free port where none is given; `url` says where."""
        server = await asyncio.start_server(self._connection, host, port)
        async with server:
            self.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while answer := await self._answer(reader):
                status, body = answer
                payload = json.dumps(body).encode()
                head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
                writer.write(head.encode() + payload)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
        """Read one request and decide; None hangs up."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))))
        key = headers["idempotency-key"]
        self.requests += 1
        die = self._die.random()
        if key not in self.charges and str(body["card"]).endswith("0002"):
            self.declined.add(key)
            return "402 Payment Required", {"error": "declined"}
        if die < 0.15:
            self.failures += 1
            return "503 Service Unavailable", {"error": "try again"}
        charge = self.charges.setdefault(key, f"ch_{len(self.charges) + 1:05d}")
        if die < 0.25:
            self.failures += 1
            return None  # charged, and the answer is lost
        await asyncio.sleep(0.01 + 0.05 * die)
        return "201 Created", {"charge": charge}
