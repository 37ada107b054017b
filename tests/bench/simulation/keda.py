"""KEDA and the HorizontalPodAutoscaler, as they are documented.

KEDA polls a trigger and takes the target from zero to one, and to zero from any number once nothing was to do for the
cooldown. From one on the HPA sizes it, every 15 seconds, by the sum of the metric over the target, within a tolerance of a
tenth, by its `behavior`. https://keda.sh/docs/latest/concepts/scaling-deployments/
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
"""

import math
from dataclasses import dataclass, field

from bullpen.scaling.simulation import Look, Seen

TOLERANCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a user of KEDA may set, with KEDA's and the HPA's defaults; times in milliseconds."""

    polling_ms: int = 30_000
    cooldown_ms: int = 300_000
    target: float = 5
    """``listLength``: jobs for which one replica is wanted."""
    counts_active: bool = False
    """Whether running jobs count too: a second trigger, and a formula."""
    down_window_ms: int = 300_000
    up_is_limited: bool = True
    """By the larger of 100 % and 4 pods in 15 seconds."""
    sync_ms: int = 15_000
    """How often the HPA looks: a flag of the cluster's controller manager, out of a user's reach on managed clusters."""
    max_replicas: int = 50


@dataclass(slots=True)
class Keda:
    """Both loops; `phase_ms` is when they begin, which in a cluster has nothing to do with the jobs."""

    settings: Settings
    phase_ms: int = 0
    retires: bool = False
    _poll_at_ms: int = field(init=False)
    _sync_at_ms: int = field(init=False)
    _last_active_ms: int | None = None
    _recommended: list[tuple[int, int]] = field(default_factory=list)
    _ups: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._poll_at_ms = self.phase_ms % self.settings.polling_ms
        self._sync_at_ms = (self.phase_ms * 7) % self.settings.sync_ms

    def look(self, seen: Seen) -> Look:
        """Run the loops that are due."""
        replicas = seen.replicas
        if seen.now_ms >= self._poll_at_ms:
            self._poll_at_ms = seen.now_ms + self.settings.polling_ms
            replicas = self._poll(seen, replicas)
        if seen.now_ms >= self._sync_at_ms:
            self._sync_at_ms = seen.now_ms + self.settings.sync_ms
            if replicas and seen.replicas:  # of a target at zero the HPA keeps away
                replicas = self._sync(seen, replicas)
        return Look(replicas, min(self._poll_at_ms, self._sync_at_ms))

    def _metric(self, seen: Seen) -> int:
        return seen.waiting + (seen.active if self.settings.counts_active else 0)

    def _poll(self, seen: Seen, replicas: int) -> int:
        if self._metric(seen) > 0:
            self._last_active_ms = seen.now_ms
            return max(replicas, 1)
        is_over = self._last_active_ms is None or seen.now_ms - self._last_active_ms > self.settings.cooldown_ms
        return 0 if is_over else replicas

    def _sync(self, seen: Seen, current: int) -> int:
        metric, now_ms, settings = self._metric(seen), seen.now_ms, self.settings
        ratio = metric / (settings.target * current)
        wanted = current if abs(1 - ratio) <= TOLERANCE else math.ceil(metric / settings.target)
        wanted = min(max(wanted, 1), settings.max_replicas)
        self._recommended = [
            (at_ms, number) for at_ms, number in self._recommended if now_ms - at_ms < settings.down_window_ms
        ]
        self._recommended.append((now_ms, wanted))
        if wanted < current:
            wanted = min(max(number for _, number in self._recommended), current)
        if wanted > current and settings.up_is_limited:
            self._ups = [(at_ms, number) for at_ms, number in self._ups if now_ms - at_ms < 15_000]
            at_start = current - sum(number for _, number in self._ups)
            wanted = min(wanted, max(at_start + 4, 2 * at_start, current))
        if wanted > current:
            self._ups.append((now_ms, wanted - current))
        return wanted
