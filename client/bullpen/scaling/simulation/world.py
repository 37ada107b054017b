"""Jobs, pods and a clock that jumps from event to event.

What is as in a cluster: a pod takes its start-up until it works; a job goes to any pod with a free slot; a pod that is told
to go takes no new job and is there, and paid for, until its last one has ended. What is left out: pods that fail, nodes that
are full, jobs that are retried, Redis' and the network's own time.
"""

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

LEAVE_MS: Final = 2_000
"""From the order to retire to the end of an idle pod: it hears, turns unready, is seen so, is taken away."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job, by when it comes and how long it runs."""

    at_ms: int
    run_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is the same for all who scale."""

    slots: int = 10
    """Jobs that one pod runs at a time."""
    startup_ms: int = 5_000
    """From the wish for a pod to its first job."""
    until_ms: int
    """How long pods are paid for; jobs that have not started by then have waited until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a scaler sees at one moment. Times are milliseconds since the begin."""

    now_ms: int
    waiting: int
    active: int
    oldest_ms: int | None
    added: int
    finished: int
    replicas: int
    """What the target is set to: pods that start, work or retire, but none that was told to go."""
    ready: int
    starting: int
    busy: int
    leaving: int
    """Jobs that run on pods that were told to go."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a scaler wants, and when it looks again."""

    replicas: int
    again_ms: int
    wake_ms: int | None = None
    """How soon it looks after a job has come to a queue without any; None: not before `again_ms`."""


class Scaler(Protocol):
    """A way of scaling."""

    retires: bool
    """Whether a pod that is to go ends its jobs first and is taken away by name; else any is told to go at once."""

    def look(self, seen: Seen) -> Look:
        """Say how many replicas there shall be."""
        ...


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    waits_ms: list[int] = field(default_factory=list)
    """How long each job waited for its start, in their order."""
    pod_ms: int = 0
    """Time of all pods together, start-up and going included."""
    writes: int = 0
    """Changes of the number of replicas."""
    started: int = 0
    """Pods that were made."""
    cut: int = 0
    """Pods that were told to go while they ran jobs: what becomes of these is up to the pods' grace."""
    replicas: list[tuple[int, int]] = field(default_factory=list)
    """Pods that were there, by the time of each change."""

    @property
    def pod_hours(self) -> float:
        """Time of all pods together, in hours."""
        return self.pod_ms / 3_600_000

    @property
    def mean_wait_seconds(self) -> float:
        """How long a job waited on the average."""
        return sum(self.waits_ms) / len(self.waits_ms) / 1_000 if self.waits_ms else 0.0

    def wait_seconds(self, share: float) -> float:
        """The wait that this share of the jobs did not exceed."""
        ordered = sorted(self.waits_ms)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] / 1_000 if ordered else 0.0


def simulate(jobs: Sequence[Job], scaler: Scaler, setting: Setting, *, seed: int = 0) -> Outcome:
    """Play the jobs, which come in the order of their times. `seed` chooses which free pod a job goes to."""
    return _World(jobs, scaler, setting, random.Random(seed)).run()  # noqa: S311 (no secret)


@dataclass(slots=True, eq=False)
class _Pod:
    number: int
    since_ms: int
    ready: bool = False
    running: int = 0
    retiring_since_ms: int | None = None
    going: bool = False


@dataclass(slots=True)
class _World:
    jobs: Sequence[Job]
    scaler: Scaler
    setting: Setting
    rng: random.Random
    now_ms: int = 0
    waiting: deque[Job] = field(default_factory=deque)
    pods: dict[int, _Pod] = field(default_factory=dict)
    added: int = 0
    finished: int = 0
    active: int = 0
    leaving: int = 0
    wanted: int = 0
    look_at_ms: int = 0
    wake_ms: int | None = None
    outcome: Outcome = field(default_factory=Outcome)
    _order: int = 0
    _events: list[tuple[int, int, _Pod]] = field(
        default_factory=list
    )  # a start-up (0), a job's end (1), a departure (2)

    def run(self) -> Outcome:
        until_ms = self.setting.until_ms
        coming = iter(self.jobs)
        next_job = next(coming, None)
        order = 0
        while True:
            at_job = next_job.at_ms if next_job is not None else until_ms
            at_event = self._events[0][0] if self._events else until_ms
            self.now_ms = min(at_job, at_event, self.look_at_ms, until_ms)
            if self.now_ms >= until_ms:
                break
            order += 1
            if next_job is not None and at_job == self.now_ms:
                self._arrive(next_job)
                next_job = next(coming, None)
            elif at_event == self.now_ms:
                self._happen()
            else:
                self._look()
        for pod in list(self.pods.values()):
            self._gone(pod)
        self.outcome.waits_ms += [until_ms - job.at_ms for job in self.waiting]
        return self.outcome

    # -- what happens

    def _arrive(self, job: Job) -> None:
        if not self.waiting and not self.active and self.wake_ms is not None:
            self.look_at_ms = min(self.look_at_ms, self.now_ms + self.wake_ms)
        self.added += 1
        self.waiting.append(job)
        self._hand_out()

    def _happen(self) -> None:
        _, _, pod = event = heapq.heappop(self._events)
        if pod.number not in self.pods:
            return
        match event[1] % 3:
            case 0:
                pod.ready = True
            case 1:
                pod.running -= 1
                self.active -= 1
                self.leaving -= pod.going
                self.finished += 1
            case _:
                pass
        if not pod.running and pod.going:
            self._gone(pod)
        elif not pod.running and pod.retiring_since_ms is not None:
            self._leave(pod)
        self._hand_out(pod)

    def _hand_out(self, freed: _Pod | None = None) -> None:
        """Give what waits to free slots: a worker that has just ended a job fetches the next, else any may be first."""
        slots = self.setting.slots
        while self.waiting:
            if freed is not None and self._takes(freed) and freed.running < slots:
                pod = freed
            else:
                free = [pod for pod in self.pods.values() if pod.running < slots and self._takes(pod)]
                if not free:
                    return
                pod = self.rng.choice(free)
            job = self.waiting.popleft()
            self.outcome.waits_ms.append(self.now_ms - job.at_ms)
            pod.running += 1
            self.active += 1
            self._at(self.now_ms + job.run_ms, 1, pod)

    @staticmethod
    def _takes(pod: _Pod) -> bool:
        return pod.ready and not pod.going and pod.retiring_since_ms is None

    # -- scaling

    def _look(self) -> None:
        pods = [pod for pod in self.pods.values() if not pod.going]
        ready = sum(pod.ready for pod in pods)
        look = self.scaler.look(
            Seen(
                now_ms=self.now_ms,
                waiting=len(self.waiting),
                active=self.active,
                oldest_ms=self.waiting[0].at_ms if self.waiting else None,
                added=self.added,
                finished=self.finished,
                replicas=len(pods),
                ready=ready,
                starting=len(pods) - ready,
                busy=sum(pod.running > 0 for pod in pods),
                leaving=self.leaving,
            )
        )
        self.look_at_ms, self.wake_ms = max(look.again_ms, self.now_ms + 1), look.wake_ms
        if look.replicas > len(pods) or (look.replicas < len(pods) and look.replicas != self.wanted):
            self.outcome.writes += 1
        self.wanted = look.replicas
        if self.scaler.retires:
            self._retire(pods, look.replicas)
        else:
            self._tell_to_go(pods, look.replicas)
        for _ in range(look.replicas - len(pods)):
            self._start()

    def _retire(self, pods: list[_Pod], wanted: int) -> None:
        """Order the least busy to take no more jobs, and lift the orders of all others."""
        pods.sort(key=lambda pod: (pod.ready, pod.running > 0, pod.retiring_since_ms is None, pod.running, -pod.number))
        surplus = max(len(pods) - wanted, 0)
        for pod in pods[:surplus]:
            if not pod.ready:
                self._gone(pod)
            elif pod.retiring_since_ms is None:
                pod.retiring_since_ms = self.now_ms
                if not pod.running:
                    self._leave(pod)
        for pod in pods[surplus:]:
            if pod.retiring_since_ms is not None:
                pod.retiring_since_ms = None
                self._hand_out(pod)

    def _leave(self, pod: _Pod) -> None:
        """Take an idle, retired pod away, in the time that this takes."""
        since_ms = pod.retiring_since_ms or 0
        if self.now_ms - since_ms >= LEAVE_MS:
            self._gone(pod)
        else:
            self._at(since_ms + LEAVE_MS, 2, pod)

    def _tell_to_go(self, pods: list[_Pod], wanted: int) -> None:
        """Do as a ReplicaSet: those that are not ready go first, then the youngest."""
        pods.sort(key=lambda pod: (pod.ready, -pod.number))
        for pod in pods[: max(len(pods) - wanted, 0)]:
            if pod.running:
                self.outcome.cut += 1
                pod.going = True
                self.leaving += pod.running
            else:
                self._gone(pod)

    def _start(self) -> None:
        self.outcome.started += 1
        pod = _Pod(self.outcome.started, self.now_ms)
        self.pods[pod.number] = pod
        self._at(self.now_ms + self.setting.startup_ms, 0, pod)
        self.outcome.replicas.append((self.now_ms, len(self.pods)))

    def _gone(self, pod: _Pod) -> None:
        del self.pods[pod.number]
        self.outcome.pod_ms += self.now_ms - pod.since_ms
        self.outcome.replicas.append((self.now_ms, len(self.pods)))

    def _at(self, at_ms: int, kind: int, pod: _Pod) -> None:
        self._order += 3  # keeps the order of what happens at one moment, and the kind in it
        heapq.heappush(self._events, (at_ms, self._order + kind, pod))
