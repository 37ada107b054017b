"""A proxy in front of Redis that makes it far away."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from tests.support import loops
from tests.support.proxy import Proxy


class Slow(Proxy):
    """Gives each byte on so many seconds after it came."""

    delay_s = 0.0
    """In each direction; for what comes from now on."""

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        arrived: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def give():
            while (held := await arrived.get()) is not None:
                due, data = held
                await asyncio.sleep(max(0.0, due - loop.time()))
                writer.write(data)
                await writer.drain()

        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as group:
                giving = group.create_task(give())
                while not giving.done() and (data := await reader.read(65_536)):
                    arrived.put_nowait((loop.time() + self.delay_s, data))
                arrived.put_nowait(None)
        writer.transport.abort()


@contextlib.contextmanager
def slow(url: str) -> Iterator[Slow]:
    """A proxy in a thread of its own, since these tests block."""
    made = Slow(url)
    loop = loops.WatchedLoop()
    ready = threading.Event()

    def run():
        # All here, since a loop of the test's own may be running.
        loop.run_until_complete(made.start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(made.stop())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
