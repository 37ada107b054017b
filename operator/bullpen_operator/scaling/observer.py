"""Observes all queues of one Redis: reads those that are due in one round trip, and hears the quiet ones wake.

Concurrency model: `Observer.run` owns three tasks until it is cancelled: one that polls (a tick is a batch of queues that are
due, in chunks that Redis answers within a few milliseconds each), one that reads queues which have just woken, and the watch
over event streams (`streams`), which has a task for each of its connections. Everything else is called in the same loop and returns at once.
The listener is told each reading, and says nothing: how a queue is followed is its `Rhythm`'s business.

What cannot be read is told as trouble, with the reason, never as zeros; while Redis is away each queue is told so once,
and read again as soon as it is back. One queue that cannot be read (a key of another type, an account that may not)
keeps no other from being read.
"""

import asyncio
import contextlib
import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from bullpen.errors import BullpenError, RedisUnavailable
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations import packing
from bullpen.queue.operations.base import Operation
from bullpen.redis.failures import ConnectFailed, ReplyError
from bullpen.redis.link import Link
from bullpen.scaling.observation import FIRST_STARTUP_MS
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling.looking import ROOM_BYTES, Look, Sight, look_script
from bullpen_operator.scaling.streams import Streams
from bullpen_operator.scaling.wake import Phase, Rhythm, poll_ms

T = TypeVar("T")

CHUNK: Final = 64
"""Queues that are read in one pipeline: some 3 ms of Redis."""
YIELD_EVERY: Final = 8
ANSWER_SECONDS: Final = 3.0
READY_SECONDS: Final = 1.0
AWAY_SECONDS: Final = 0.25
"""How often it is asked whether a Redis that was away is back."""
_CONNECTION_CODES: Final = frozenset({"LOADING", "BUSY", "MASTERDOWN", "READONLY", "NOAUTH", "WRONGPASS"})
"""Error replies that are about the server, not about the queue."""


class Server(Protocol):
    """One Redis of the pool of connections (`bullpen_operator.connections.pool.Redis`)."""

    id: str
    """A stable, short name for metrics and messages, without credentials."""
    link: Link
    """The patient link for commands."""

    @property
    def up(self) -> bool:
        """Whether commands are sent now."""
        ...

    @property
    def why(self) -> str:
        """Why not, in words."""
        ...

    async def exchange(self, packed: bytes, count: int, *, timeout: float) -> Sequence[object]:
        """Send `count` packed commands; error replies are values of the list. Raises `RedisUnavailable`."""
        ...

    async def run(self, operation: Operation[T], *, timeout: float) -> T:
        """Do one operation. Raises `RedisUnavailable`, `ReplyError`, and what the operation raises."""
        ...

    def blocking_link(self, name: str) -> Link:
        """Give another patient link, for commands that block; the caller enters and leaves it."""
        ...

    def redacted(self, text: str) -> str:
        """Give a text that may be shown."""
        ...


class Listener(Protocol):
    """Who is told what was seen. Called in the observer's loop; must return at once, and not raise."""

    def seen(self, key: Key, sight: Sight, waited_ms: float | None) -> None:
        """Take a reading on which to decide; `waited_ms` since the queue woke, where it did."""
        ...

    def unseen(self, key: Key, why: str) -> None:
        """Take it that the queue cannot be read."""
        ...

    def polled(self, server: str, seconds: float, queues: int) -> None:
        """Note how long a tick took."""
        ...


@dataclass(slots=True, eq=False)
class Post:
    """One queue that is observed, and how it is followed."""

    key: Key
    keys: QueueKeys
    crew: bool
    rhythm: Rhythm
    horizon_ms: int = FIRST_STARTUP_MS
    memory: bool = True
    """Whether what was remembered is still to be read."""
    large: bool = False
    """Whether what its workers say of themselves takes more than its share of a chunk: it is read by itself."""
    away: bool = False
    """Whether it was told that the queue cannot be read."""
    asked_ms: float = 0.0
    """When it was last asked for."""
    queued_ms: float = field(default=float("inf"))
    """For when it stands in the heap; an entry for another time is void."""


class Observer:
    """The queues of one Redis; see the module. Belongs to one event loop. `clock_ms` never jumps."""

    def __init__(
        self,
        server: Server,
        listener: Listener,
        *,
        clock_ms: Callable[[], float] = lambda: time.monotonic() * 1_000,
    ) -> None:
        self.server = server
        self._listener = listener
        self._clock_ms = clock_ms
        self._posts: dict[Key, Post] = {}
        self._heap: list[tuple[float, int, Post]] = []
        self._entries = 0
        self._settling: dict[Key, Post] = {}
        self._busy = 0
        self._turn = asyncio.Event()
        self._wake = asyncio.Event()
        self._streams: Streams[Key] = Streams(
            lambda: server.blocking_link("bullpen:operator:wake"), self._woken, self.nudge
        )
        self._redis_offset_ms: float | None = None
        self.ticks = 0
        """Round trips to read queues."""
        self.readings = 0

    # -- what is observed ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._posts)

    @property
    def waits(self) -> int:
        """How often streams were waited for: round trips as well."""
        return self._streams.calls

    @property
    def watched(self) -> int:
        """How many queues are quiet, and their streams waited for."""
        return sum(self._streams.watches(key) for key in self._posts)

    def now_ms(self) -> int:
        """Give the time by Redis' clock, as far as it was heard; between readings it goes on by ours."""
        if self._redis_offset_ms is None:
            return time.time_ns() // 1_000_000
        return int(self._clock_ms() + self._redis_offset_ms)

    def add(self, key: Key, keys: QueueKeys, *, crew: bool) -> None:
        """Observe a queue from now on, or go on with it; one that was there is read at once."""
        post = self._posts.get(key)
        if post is not None and post.keys != keys:
            self.drop(key)
            post = None
        if post is None:
            post = self._posts[key] = Post(key, keys, crew, Rhythm.begin(self._clock_ms()))
            self._busy += 1
            self._schedule(post)
        else:
            post.crew = crew
            self.nudge(key)

    def drop(self, key: Key) -> None:
        """Observe it no more. Idempotent."""
        post = self._posts.pop(key, None)
        if post is None:
            return
        self._settling.pop(key, None)
        self._busy -= post.rhythm.phase is Phase.BUSY
        self._streams.forget(key)
        post.queued_ms = float("inf")

    def nudge(self, key: Key) -> None:
        """Read it at once."""
        post = self._posts.get(key)
        if post is not None:
            self._follow(post, post.rhythm.nudged(self._clock_ms()))

    def look_again(self, key: Key, at_ms: int) -> None:
        """Read it no later than at this time, by Redis' clock."""
        post = self._posts.get(key)
        if post is not None:
            in_ms = max(at_ms - self.now_ms(), 0)
            self._follow(post, post.rhythm.look_again(self._clock_ms() + in_ms))

    def expect(self, key: Key, horizon_ms: int) -> None:
        """Count delayed jobs as due when they start within so long: a pod's start-up time."""
        post = self._posts.get(key)
        if post is not None:
            post.horizon_ms = horizon_ms

    # -- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Observe until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._streams.run(), name=f"streams of {self.server.id}")
            tasks.create_task(self._poll_for_ever(), name=f"polls of {self.server.id}")
            tasks.create_task(self._settle_for_ever(), name=f"wakes of {self.server.id}")

    async def _poll_for_ever(self) -> None:
        """Read what is due."""
        while True:
            if due := self._due():
                await self._read(due)
            else:
                await self._wait(self._turn, self._next_ms())

    async def _settle_for_ever(self) -> None:
        """Read what has just woken, apart from the others, whose number must not delay it."""
        while True:
            now_ms = self._clock_ms()
            settling = self._settling.values()
            if due := [post for post in settling if post.rhythm.read_at_ms <= now_ms][:CHUNK]:
                await self._read(due)
            else:
                await self._wait(self._wake, min((post.rhythm.read_at_ms for post in settling), default=None))

    async def _wait(self, event: asyncio.Event, until_ms: float | None) -> None:
        event.clear()
        if until_ms is None:
            await event.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, (until_ms - self._clock_ms()) / 1_000)):
                await event.wait()

    def _due(self) -> list[Post]:
        """Give the next chunk of queues to read."""
        now_ms = self._clock_ms()
        due: list[Post] = []
        while self._heap and self._heap[0][0] <= now_ms and len(due) < CHUNK:
            at_ms, _, post = heapq.heappop(self._heap)
            if post.queued_ms == at_ms:
                post.queued_ms = float("inf")
                due.append(post)
        return due

    def _next_ms(self) -> float | None:
        while self._heap and self._heap[0][2].queued_ms != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    @property
    def _poll_ms(self) -> float:
        return poll_ms(self._busy + len(self._streams) - self._streams.taken)

    async def _read(self, posts: Sequence[Post]) -> None:
        """Read them together, and those with large fleets one by one: a Redis that says too much in one go is left alone."""
        together = [post for post in posts if not post.large]
        alone = [post for post in posts if post.large]
        if together:
            await self._read_together(together)
        for post in alone:
            await self._read_together((post,))

    async def _read_together(self, posts: Sequence[Post]) -> None:
        began_ms = self._clock_ms()
        room = ROOM_BYTES // len(posts)
        looks = [Look(post.keys, post.horizon_ms, post.crew, post.memory, room) for post in posts]
        for post in posts:
            post.asked_ms = began_ms
        try:
            replies = await self._ask(looks)
        except RedisUnavailable as error:
            await self._be_away(posts, str(error))
            return
        self.ticks += 1
        self.readings += len(posts)
        now_ms = self._clock_ms()
        self._listener.polled(self.server.id, (now_ms - began_ms) / 1_000, len(posts))
        for number, (post, look, reply) in enumerate(zip(posts, looks, replies, strict=True), 1):
            if self._posts.get(post.key) is not post or post.asked_ms > began_ms:
                continue  # it has gone, or was asked for again meanwhile: the later answer counts
            try:
                if isinstance(reply, ReplyError):
                    raise reply
                sight = look.read((reply,))
            except BullpenError as error:
                self._unread(post, f"the queue cannot be read: {self.server.redacted(str(error))}")
                continue
            woken_ms = post.rhythm.woken_ms
            if woken_ms is not None and woken_ms > began_ms:
                continue  # it woke after it was read: what was read may be from before that
            if number == 1:
                self._redis_offset_ms = sight.reading.at_ms - (began_ms + now_ms) / 2
            post.large = not 0 <= sight.crew_bytes <= ROOM_BYTES // CHUNK
            if sight.crew_bytes < 0 and len(posts) > 1:
                self._follow(post, post.rhythm.nudged(now_ms))  # there will be room for it when it is read by itself
                continue
            self._take(post, sight, now_ms)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)  # what woke meanwhile has its turn

    async def _ask(self, looks: Sequence[Look]) -> Sequence[object]:
        """Send the readings, and the script with them where Redis does not know it."""
        packed = b"".join(packing.pack(call) for look in looks for call in look.commands())
        replies = await self.server.exchange(packed, len(looks), timeout=ANSWER_SECONDS)
        if any(isinstance(reply, ReplyError) and reply.code == "NOSCRIPT" for reply in replies):
            packed = packing.pack_load(look_script()) + packed
            replies = (await self.server.exchange(packed, len(looks) + 1, timeout=ANSWER_SECONDS))[1:]
        for reply in replies:
            if isinstance(reply, ReplyError) and reply.code in _CONNECTION_CODES:
                msg = f"Redis serves nothing now: {self.server.redacted(str(reply))}"
                raise RedisUnavailable(msg)
        return replies

    def _take(self, post: Post, sight: Sight, now_ms: float) -> None:
        reading = sight.reading
        count = reading.backlog + reading.due + reading.active
        idle = reading.active == 0 and (reading.paused or not (reading.backlog or reading.due))
        waited_ms = None if post.rhythm.woken_ms is None else now_ms - post.rhythm.woken_ms
        found = post.rhythm.seen(count, now_ms, idle=idle, poll_ms=self._poll_ms)
        rhythm = found.rhythm
        if rhythm.watchable:
            self._streams.watch(post.key, post.keys.events, sight.last_event)
            if not self._streams.watches(post.key):
                rhythm = rhythm.look_again(now_ms + self._poll_ms)
            if reading.next_due_ms is not None:
                in_ms = reading.next_due_ms - post.horizon_ms - reading.at_ms
                rhythm = rhythm.look_again(now_ms + max(in_ms, 1))
        else:
            self._streams.forget(post.key)
        self._follow(post, rhythm)
        if post.away or found.decide:
            post.away = False
            self._listener.seen(post.key, sight, waited_ms if found.decide else None)
            post.memory = False

    async def _be_away(self, posts: Iterable[Post], why: str) -> None:
        """Redis is away: each queue is told so, once; then wait for it, and read all."""
        for post in list(posts):
            self._unread(post, why)
        while True:
            for post in list(self._posts.values()):
                if not post.away:
                    self._unread(post, why)
            await asyncio.sleep(AWAY_SECONDS)
            with contextlib.suppress(ConnectFailed):
                await self.server.link.ready(within=READY_SECONDS)
            if self.server.up:
                break
            why = self.server.why or why
        for key in list(self._posts):
            self.nudge(key)

    def _unread(self, post: Post, why: str) -> None:
        if self._posts.get(post.key) is not post:
            return
        self._streams.forget(post.key)
        self._follow(post, post.rhythm.unreadable(self._clock_ms()))
        if not post.away:
            post.away = True
            self._listener.unseen(post.key, why)

    # -- how each is followed --------------------------------------------------------------------------------------

    def _woken(self, key: Key) -> None:
        post = self._posts.get(key)
        if post is not None:
            self._follow(post, post.rhythm.woken(self._clock_ms()))

    def _follow(self, post: Post, rhythm: Rhythm) -> None:
        self._busy += (rhythm.phase is Phase.BUSY) - (post.rhythm.phase is Phase.BUSY)
        post.rhythm = rhythm
        if rhythm.phase is Phase.SETTLING:
            self._settling[post.key] = post
            post.queued_ms = float("inf")
            self._wake.set()
        else:
            self._settling.pop(post.key, None)
            self._schedule(post)

    def _schedule(self, post: Post) -> None:
        at_ms = post.rhythm.read_at_ms
        if post.queued_ms == at_ms:
            return
        post.queued_ms = at_ms
        self._entries += 1
        if not self._heap or at_ms < self._heap[0][0]:
            self._turn.set()
        heapq.heappush(self._heap, (at_ms, self._entries, post))
