"""Who leads: one of several operators, by a Lease (coordination.k8s.io) that it holds and renews.

Not promised: that two never believe to lead at the same instant. What is: one that could not renew for `renew_seconds`
believes no more, by a clock that goes on while the process is frozen; so it stops before the others, who wait for
`lease_seconds` of silence, begin. `leads()` looks at the clock each time, so a process that wakes from a freeze knows at
its first write. What a write could still spoil is guarded by resource versions.

Others' clocks are not trusted: a lease is free when it has not changed for its own duration *since we first saw it so*.
One task (`run`) owns the election; it ends when it is cancelled, and then lets the lease go, so that another takes it up
at once.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bullpen_operator.kube import kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import Conflict, KubeError, NotFound
from bullpen_operator.kube.kinds import Object

log = logging.getLogger("bullpen.operator.lease")

RELEASE_SECONDS: Final = 2.0
"""How long letting go may take at the end."""


def boot_clock() -> float:
    """Give seconds that never go back, and go on while the process, or the machine, is asleep."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Name of the lease, and its times in seconds; see `Settings`."""

    namespace: str
    name: str
    identity: str
    lease_seconds: float = 10.0
    renew_seconds: float = 7.0
    retry_seconds: float = 2.0


class Election:
    """One candidate. `kube` must be unfenced, and best has connections of its own. Belongs to one event loop."""

    def __init__(
        self,
        kube: Kube,
        terms: Terms,
        *,
        changed: Callable[[bool], None],
        clock: Callable[[], float] = boot_clock,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        random: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self._kube = kube
        self._terms = terms
        self._changed = changed
        self._clock = clock
        self._now = now
        self._random = random
        self._until = float("-inf")
        self._told = False
        self._seen: tuple[str, float] = ("", float("-inf"))

    def leads(self) -> bool:
        """Whether this operator may write: it holds the lease, and renewed it not too long ago."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Stand for election, and lead, until cancelled; then let the lease go."""
        try:
            while True:
                began = self._clock()
                try:
                    async with asyncio.timeout(self._terms.renew_seconds):
                        held = await self._try()
                except (KubeError, TimeoutError) as error:
                    log.warning("lease_unreachable", extra={"lease": self._terms.name, "error": str(error)})
                else:
                    self._until = began + self._terms.renew_seconds if held else float("-inf")
                self._tell()
                await self._pause(began)
        finally:
            held = self.leads()
            self._until = float("-inf")
            self._tell()
            if held:
                await self._release()

    async def _pause(self, began: float) -> None:
        """Wait for the next try, but tell at once when the lead ends meanwhile. Who does not lead looks twice as often."""
        seconds = self._terms.retry_seconds if self._told else self._terms.retry_seconds / 2
        until = began + seconds * (0.8 + 0.4 * self._random())
        while (left := until - self._clock()) > 0:
            if self._told:
                left = min(left, max(0.0, self._until - self._clock()) + 0.001)
            await asyncio.sleep(left)
            self._tell()

    def _tell(self) -> None:
        leads = self.leads()
        if leads != self._told:
            self._told = leads
            log.info("leads" if leads else "leads_no_more", extra={"identity": self._terms.identity})
            self._changed(leads)

    async def _try(self) -> bool:
        """Take the lease where it is free, renew it where it is ours. Gives whether it is ours now. Raises `KubeError`.

        Overtaken once, it reads again: a write that was repeated, because its answer was lost, meets itself.
        """
        for _ in range(2):
            with contextlib.suppress(
                Conflict, NotFound
            ):  # somebody was quicker, or it went between reading and writing
                return await self._take()
        return False

    async def _take(self) -> bool:
        terms = self._terms
        found = await self._kube.get(kinds.LEASE, terms.namespace, terms.name)
        if found is None:
            await self._kube.create(self._lease(None))
            return True
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", terms.identity) and not self._is_stale(found, spec):
            return False
        await self._kube.replace(self._lease(found))
        return True

    def _is_stale(self, lease: Object, spec: Object) -> bool:
        version = str(lease["metadata"].get("resourceVersion"))
        now = self._clock()
        if self._seen[0] != version:
            self._seen = (version, now)
        duration = float(spec.get("leaseDurationSeconds") or self._terms.lease_seconds)
        return now - self._seen[1] > duration

    def _lease(self, found: Object | None, *, holder: str | None = None) -> Object:
        """Give the lease as it is to be written: ours, or let go where `holder` is empty."""
        terms = self._terms
        before = (found or {}).get("spec") or {}
        mine = before.get("holderIdentity") == terms.identity
        now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": terms.identity if holder is None else holder,
            "leaseDurationSeconds": max(1, round(terms.lease_seconds)) if holder is None else 1,
            "acquireTime": before.get("acquireTime") or now if mine else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not mine and found is not None),
        }
        metadata = {"name": terms.name, "namespace": terms.namespace}
        if found is not None:
            metadata = {**found["metadata"]}
            metadata.pop("managedFields", None)
        return {"apiVersion": kinds.LEASE.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}

    async def _release(self) -> None:
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                found = await self._kube.get(kinds.LEASE, self._terms.namespace, self._terms.name)
                if found is not None and (found.get("spec") or {}).get("holderIdentity") == self._terms.identity:
                    await self._kube.replace(self._lease(found, holder=""))
                    log.info("lease_released", extra={"lease": self._terms.name})
