"""Watches the event streams of quiet queues on one Redis: `XREAD BLOCK`, from the last id read before the counts.

Concurrency model: `Streams.run` owns a task for each reader, and each reader a connection that is used for nothing else. A
reader waits on up to 250 streams at a time. What is to be watched from now on goes to the *nursery*, a reader that blocks
briefly and so takes new streams up within 0.2 s; the others block for 10 s and take over what the nursery has whenever they
come round. A stream may be waited for by two readers for a moment; the first hit counts, the second is passed over.

No event is lost between: the id was read with the counts, in one script, so that whatever came after them is behind it
and answers the next XREAD at once. What is not yet taken up is polled meanwhile, by whoever put it here.

The entry of a hit is dropped unread: it says that something happened, and the counts say what.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from bullpen.redis.failures import ConnectFailed, ConnectionLost, ReplyError
from bullpen.redis.link import Link
from bullpen.redis.wire import pack_command

K = TypeVar("K", bound=Hashable)

MOST_STREAMS: Final = 250
NURSERY_MS: Final = 200
BLOCK_MS: Final = 10_000
_SPAWN_AT: Final = 50
"""So many in the nursery are worth a reader of their own."""
_SPAWN_AFTER: Final = 50
"""So many rounds of the nursery, too, in which none could take what is left in it: 10 s."""
_REFUSED_SECONDS: Final = 5.0

MakeLink = Callable[[], Link]


@dataclass(slots=True)
class _Watched(Generic[K]):
    key: K
    stream: bytes
    last: bytes
    taken: bool = False
    """Whether a reader waits for it."""


class Streams(Generic[K]):
    """The streams that are watched on one Redis; see the module.

    `hit` is told the key of each that has news, once; `lapsed` the key of each for which nobody waits for a while, since a
    connection was lost: it is taken up again by itself, and must be polled meanwhile. Neither may block or raise.
    """

    def __init__(self, make_link: MakeLink, hit: Callable[[K], None], lapsed: Callable[[K], None]) -> None:
        self._make_link = make_link
        self._hit = hit
        self._lapsed = lapsed
        self._watched: dict[K, _Watched[K]] = {}
        self._by_stream: dict[bytes, dict[K, None]] = {}
        self._nursery: dict[K, _Watched[K]] = {}
        self._readers: list[dict[K, _Watched[K]]] = []
        self._news = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._taken = 0
        self.calls = 0
        """How often XREAD was sent: round trips."""
        self.refused = ""
        """Why Redis does not let us watch, where it does not: then all is polled."""

    def __len__(self) -> int:
        return len(self._watched)

    @property
    def taken(self) -> int:
        """For how many of them a reader waits."""
        return self._taken

    def watches(self, key: K) -> bool:
        """Whether a reader waits for it now; before that it must be polled."""
        watched = self._watched.get(key)
        return watched is not None and watched.taken

    def watch(self, key: K, stream: str, last: bytes) -> None:
        """Watch a stream from behind the event `last`; for one that is watched already only the id counts."""
        known = self._watched.get(key)
        if known is not None:
            known.last = last
            return
        name = stream.encode()
        watched = _Watched(key, name, last)
        self._watched[key] = watched
        self._by_stream.setdefault(name, {})[key] = None
        self._nursery[key] = watched
        self._news.set()

    def forget(self, key: K) -> None:
        """Watch it no more. Idempotent; what a reader waits for already is passed over when it comes."""
        watched = self._watched.pop(key, None)
        if watched is None:
            return
        self._taken -= watched.taken
        keys = self._by_stream[watched.stream]
        del keys[key]
        if not keys:
            del self._by_stream[watched.stream]
        self._nursery.pop(key, None)
        for reader in self._readers:
            reader.pop(key, None)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._nurse(), name="nursery of streams")

    # -- readers -------------------------------------------------------------------------------------------------

    async def _nurse(self) -> None:
        rounds = 0
        async with self._make_link() as link:
            while True:
                if not self._nursery:
                    rounds = 0
                    self._news.clear()
                    await self._news.wait()
                rounds += 1
                self._spawn(at=1 if rounds > _SPAWN_AFTER else _SPAWN_AT)
                if self._nursery:
                    some = list(self._nursery.values())[:MOST_STREAMS]
                    await self._read(link, some, NURSERY_MS)

    def _spawn(self, at: int) -> None:
        """Make readers of what waits in the nursery, as far as those there are could not take it."""
        room = sum(MOST_STREAMS - len(reader) for reader in self._readers)
        while self._tasks is not None and len(self._nursery) >= at and len(self._nursery) > room:
            reader: dict[K, _Watched[K]] = {}
            self._readers.append(reader)
            self._take_over(reader)
            self._tasks.create_task(self._block(reader), name="reader of streams")

    async def _block(self, reader: dict[K, _Watched[K]]) -> None:
        async with self._make_link() as link:
            while True:
                self._take_over(reader)
                if not reader:
                    break
                await self._read(link, list(reader.values()), BLOCK_MS)
        # By identity: all that are empty are equal, and one that goes on must not be taken for the one that ends.
        self._readers = [other for other in self._readers if other is not reader]

    def _take_over(self, reader: dict[K, _Watched[K]]) -> None:
        for key in list(self._nursery)[: MOST_STREAMS - len(reader)]:
            reader[key] = self._nursery.pop(key)

    async def _read(self, link: Link, watched: Iterable[_Watched[K]], block_ms: int) -> None:
        """Wait for the first news of these streams, and tell it."""
        connection = await link.ready()
        streams = [stream for stream in watched if self._watched.get(stream.key) is stream]
        if not streams:
            return
        ids = [stream.last for stream in streams]
        packed = pack_command(
            "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *(stream.stream for stream in streams), *ids
        )
        self.calls += 1
        for stream in streams:
            self._taken += not stream.taken
            stream.taken = True
        try:
            reply = await link.block(packed, seconds=block_ms / 1_000)
        except (ConnectionLost, ConnectFailed):
            connection.abort("waiting for events ended")
            self._lapse(streams)
            return
        except ReplyError as error:
            # One stream that is none, or an account that may not: all of these are polled, and tried again later.
            self.refused = str(error)
            self._lapse(streams)
            await asyncio.sleep(_REFUSED_SECONDS)
            return
        self.refused = ""
        if not isinstance(reply, list):
            return
        for entry in reply:
            name = entry[0] if isinstance(entry, list) and entry else None
            for key in tuple(self._by_stream.get(name, ())) if isinstance(name, bytes) else ():
                self.forget(key)
                self._hit(key)

    def _lapse(self, streams: Iterable[_Watched[K]]) -> None:
        for stream in streams:
            if self._watched.get(stream.key) is stream:
                self._taken -= stream.taken
                stream.taken = False
                self._lapsed(stream.key)
