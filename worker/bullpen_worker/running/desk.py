"""What a worker packs its commands with and judges jobs by, made anew whenever that changes: policy, rate limits."""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from bullpen.handling.catalogue import Catalogue
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import QueuePolicy
from bullpen.redis.wire import Connection, Reply, pack_command
from bullpen_worker.running.admission import Admission
from bullpen_worker.running.templates import Templates

METRICS_POINTS: Final = 10_080
"""Minutes of ``metrics:*`` counts that BullMQ's tools can show: a week."""

_LONGER_S: Final = 0.1  # the limit begins a little later than its timer here
_PERIOD_MS: Final = 1_000  # of no meaning where nothing but that key limits
_PERIOD: Final = re.compile(rb"[1-9][0-9]{0,15}")


class Desk:
    """Makes templates and admission from the policy of now; `on_change` gets both when they are others.

    A handler's `RateLimited` sets the queue's ``limiter`` key. BullMQ's scripts look at that key only where the queue has a
    rate limit of its own; elsewhere our fetches ask them to, for as long as the limit lasts (`arm`). A rate limit that somebody else
    set (Node's ``setGlobalRateLimit``) goes on meanwhile: the scripts take its number from the queue and its period from us.
    """

    def __init__(
        self,
        keys: QueueKeys,
        *,
        name: str,
        catalogue: Catalogue,
        policy: QueuePolicy,
        metrics_points: int,
        on_change: Callable[[Templates, Admission], None],
    ) -> None:
        self._keys = keys
        self._name = name
        self._catalogue = catalogue
        self._policy = policy
        self._metrics_points = metrics_points
        self._on_change = on_change
        self._armed = False
        self._period_ms = _PERIOD_MS
        self._timer: asyncio.TimerHandle | None = None

    @property
    def policy(self) -> QueuePolicy:
        """What holds for the queue."""
        return self._policy

    @policy.setter
    def policy(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._on_change(*self.prepare())

    def prepare(self) -> tuple[Templates, Admission]:
        """Make both."""
        pack = Templates(
            self._keys,
            worker_name=self._name,
            lock_ms=self._policy.recovery.lock_duration_ms,
            metrics_points=self._metrics_points,
            armed_limiter_ms=self._period_ms if self._armed else None,
        )
        return pack, Admission(catalogue=self._catalogue, policy=self._policy, pack=pack)

    def arm(self, delay_ms: int, connection: Connection | None) -> None:
        """Look at the ``limiter`` key for so long, where the queue has no rate limit of our policy that does so anyway."""
        if self._policy.rate_limit is not None:
            return
        ends = asyncio.get_running_loop().time() + delay_ms / 1000 + _LONGER_S
        if self._timer is not None:
            ends = max(ends, self._timer.when())
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(ends, self._disarm)
        if not self._armed:
            self._armed = True
            self._on_change(*self.prepare())
        if connection is not None and connection.lost is None:
            asked = connection.call(pack_command("HMGET", self._keys.meta, "max", "duration"))
            asked.add_done_callback(self._learn_period)

    def close(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _learn_period(self, asked: "asyncio.Future[Reply]") -> None:
        if asked.cancelled() or asked.exception() is not None:
            return
        found = asked.result()
        most, period = found if isinstance(found, list) else (None, None)
        period_ms = _PERIOD_MS
        if most is not None and isinstance(period, bytes) and _PERIOD.fullmatch(period):
            period_ms = int(period)
        if period_ms != self._period_ms:
            self._period_ms = period_ms
            self._on_change(*self.prepare())

    def _disarm(self) -> None:
        self._timer = None
        self._armed = False
        self._on_change(*self.prepare())
