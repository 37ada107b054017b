"""Keys that wait for work: each at most once, none twice at the same time, later after each failure.

Belongs to one event loop. `run` is the one owner: it starts so many workers and ends, when it is cancelled, once they
have. First in, first out; a key that comes while it is worked on waits behind all others, so none keeps the rest waiting.
"""

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF_SECONDS: Final = 0.5
LONGEST_BACKOFF_SECONDS: Final = 300.0


def backoff(failures: int, random: Callable[[], float]) -> float:
    """Give the seconds to wait after so many failures in a row: doubled each time, with jitter, up to five minutes."""
    bound: float = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 20))
    return bound * (0.5 + 0.5 * random())


class WorkQueue(Generic[K]):
    """A deduplicating queue with delays. `clock` is the event loop's."""

    def __init__(self, *, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._ready: OrderedDict[K, None] = OrderedDict()
        self._working: set[K] = set()
        self._again: OrderedDict[K, None] = OrderedDict()
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._serial = itertools.count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready) + len(self._again)

    @property
    def idle(self) -> bool:
        """Whether nothing is worked on and nothing waits, delayed keys left out."""
        return not (self._ready or self._working or self._again)

    def add(self, key: K, *, delay: float = 0.0) -> None:
        """Have the key worked on, now or after so many seconds; the sooner of several delays counts."""
        if delay > 0:
            at = self._clock() + delay
            if self._due.get(key, float("inf")) > at:
                self._due[key] = at
                heapq.heappush(self._delayed, (at, next(self._serial), key))
                self._changed.set()
            return
        if key in self._working:
            self._again[key] = None
        elif key not in self._ready:
            self._ready[key] = None
            self._changed.set()

    def failed(self, key: K) -> float:
        """Have the key worked on again, later than after its last failure. Gives the delay in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = backoff(failures, self._random)
        self.add(key, delay=delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """Forget the key: its failures, and that it was to be worked on."""
        self._failures.pop(key, None)
        self._due.pop(key, None)
        self._ready.pop(key, None)
        self._again.pop(key, None)

    async def take(self) -> K:
        """Give the next key, and wait for one where there is none. Call `done` when it was worked on."""
        while True:
            self._promote()
            if self._ready:
                key, _ = self._ready.popitem(last=False)
                self._working.add(key)
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._next_due()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: K) -> None:
        """Say that a key is worked on no more; where it was added meanwhile it waits again."""
        self._working.discard(key)
        if key in self._again:
            del self._again[key]
            self.add(key)

    async def run(self, work: Callable[[K], Awaitable[None]], workers: int) -> None:
        """Work, `workers` keys at a time, until cancelled. What `work` raises ends it all: it has to take care itself."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(workers):
                tasks.create_task(self._worker(work), name=f"worker {number}")

    async def _worker(self, work: Callable[[K], Awaitable[None]]) -> None:
        while True:
            key = await self.take()
            try:
                await work(key)
            finally:
                self.done(key)

    def _promote(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            at, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == at:
                del self._due[key]
                self.add(key)

    def _next_due(self) -> float | None:
        while self._delayed and self._due.get(self._delayed[0][2]) != self._delayed[0][0]:
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None
