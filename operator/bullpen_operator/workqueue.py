"""Keys that wait for work: each at most once, none twice at the same time, later after each failure.

Belongs to one event loop. `run` is the one owner: it starts so many workers and ends, when it is cancelled, once they
have. A key that comes while it is worked on waits behind all others, so none keeps the rest waiting. Keys are in lanes, such
as their namespaces: first in, first out within a lane, and the lanes take turns; no lane has all the workers, so that keys
whose work is slow, however many, keep those of other lanes from nothing.
"""

import asyncio
import heapq
import itertools
import math
from collections import Counter, OrderedDict
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
    """A deduplicating queue with delays. `clock` is the event loop's; `lane` says in which lane a key is; absent: all in one."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        lane: Callable[[K], Hashable] | None = None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._lane: Callable[[K], Hashable] = lane or (lambda _: None)
        self._has_lanes = lane is not None
        self._lanes: OrderedDict[Hashable, OrderedDict[K, None]] = OrderedDict()
        self._at_work: Counter[Hashable] = Counter()
        self._most_of_lane: float = math.inf
        self._waiting = 0
        self._working: set[K] = set()
        self._again: OrderedDict[K, None] = OrderedDict()
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._serial = itertools.count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return self._waiting + len(self._again)

    @property
    def idle(self) -> bool:
        """Whether nothing is worked on and nothing waits, delayed keys left out."""
        return not (self._waiting or self._working or self._again)

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
        elif key not in (keys := self._lanes.setdefault(self._lane(key), OrderedDict())):
            keys[key] = None
            self._waiting += 1
            self._changed.set()

    def failed(self, key: K, *, longest: float = LONGEST_BACKOFF_SECONDS) -> float:
        """Have the key worked on again, later than after its last failure, but within `longest` seconds. Gives the delay."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(longest, backoff(failures, self._random))
        self.add(key, delay=delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """Forget the key: its failures, and that it was to be worked on."""
        self._failures.pop(key, None)
        self._due.pop(key, None)
        self._again.pop(key, None)
        lane = self._lane(key)
        keys = self._lanes.get(lane)
        if keys is not None and key in keys:
            self._remove(lane, keys, key)

    async def take(self) -> K:
        """Give the next key, and wait for one where there is none. Call `done` when it was worked on."""
        while True:
            self._promote()
            for lane, keys in self._lanes.items():
                if self._at_work[lane] < self._most_of_lane:
                    key = next(iter(keys))
                    self._lanes.move_to_end(lane)
                    self._remove(lane, keys, key)
                    self._working.add(key)
                    self._at_work[lane] += 1
                    return key
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._next_due()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: K) -> None:
        """Say that a key is worked on no more; where it was added meanwhile it waits again."""
        if key in self._working:
            self._working.discard(key)
            lane = self._lane(key)
            if self._at_work[lane] >= self._most_of_lane:
                self._changed.set()  # it may have another again
            self._at_work[lane] -= 1
            if not self._at_work[lane]:
                del self._at_work[lane]
        if key in self._again:
            del self._again[key]
            self.add(key)

    async def run(self, work: Callable[[K], Awaitable[None]], workers: int) -> None:
        """Work, `workers` keys at a time, until cancelled. What `work` raises ends it all: it has to take care itself."""
        if self._has_lanes:
            self._most_of_lane = max(1, workers - 1 - workers // 8)
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
            # Thousands of keys that wait for nothing would hold up all else: the lease, the probes.
            await asyncio.sleep(0)

    def _remove(self, lane: Hashable, keys: "OrderedDict[K, None]", key: K) -> None:
        del keys[key]
        self._waiting -= 1
        if not keys:
            del self._lanes[lane]

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
