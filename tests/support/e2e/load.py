"""Jobs enqueued from a pod, and what became of them."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.support.e2e.shells import Kubectl
from tests.support.kubernetes.watching import Happened


@dataclass(frozen=True)
class Ended:
    """One job, by BullMQ's own fields."""

    id: str
    finished: bool
    failed: str | None
    attempts_made: int
    attempts_started: int
    stalls: int
    pod: str
    version: str
    began: float
    ended: float
    log: tuple[str, ...] = ()
    """A line when a run began, and one when it ended: `began TIME POD`."""

    @classmethod
    def of(cls, id: str, fields: Mapping[str, Any]) -> Self:
        """Read what a pod with load.report printed."""
        value: dict[str, Any] = json.loads(fields["returnvalue"] or "{}")
        return cls(
            id=id,
            finished=fields["finishedOn"] is not None,
            failed=fields["failedReason"],
            attempts_made=int(fields["atm"] or 0),
            attempts_started=int(fields["ats"] or 0),
            stalls=int(fields["stc"] or 0),
            pod=value.get("pod", ""),
            version=value.get("version", ""),
            began=value.get("began", 0.0),
            ended=value.get("ended", 0.0),
            log=tuple(fields.get("log", ())),
        )

    @property
    def runs(self) -> list[tuple[float, float, str]]:
        """All its runs, also those that came to nothing: from when to when, in which pod."""
        open_since: dict[str, float] = {}
        found = []
        for line in sorted(self.log, key=lambda line: float(line.split()[1])):
            word, at, pod = line.split()
            if word == "began":
                if pod in open_since:
                    found.append((open_since[pod], math.inf, pod))
                open_since[pod] = float(at)
            else:
                found.append((open_since.pop(pod, 0.0), float(at), pod))
        return sorted([*found, *((since, math.inf, pod) for pod, since in open_since.items())])


class Toolbox:
    """The pod of an application: it enqueues, and reads what became of its jobs."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._kubectl, self._namespace = kubectl, namespace

    def produce(self, count: int, *, first: int = 0, shortest: float = 0.1, longest: float = 10.0) -> None:
        """Enqueue so many jobs of these lengths in seconds; the same lengths each time."""
        self.run("-m", "load.produce", count, "--first", first, "--shortest", shortest, "--longest", longest)

    def report(self, count: int) -> list[Ended]:
        """What became of the first so many."""
        rows = json.loads(self.run("-m", "load.report", count))
        return [Ended.of(f"job-{number}", row) for number, row in enumerate(rows)]

    def run(self, *words: object) -> str:
        """Run Python in the pod."""
        command = ("exec", "-n", self._namespace, "deploy/toolbox", "--", "python", *map(str, words))
        return self._kubectl(*command, timeout=120)


def spent(jobs: Iterable[Ended]) -> list[Ended]:
    """The jobs that were not done in one attempt that no stall ended: none should be.

    `attempts_started` may be 2: a worker that is told to stop as it fetches gives the job back, and that spends nothing.
    """
    return [
        job for job in jobs if not (job.finished and job.failed is None and (job.attempts_made, job.stalls) == (1, 0))
    ]


def twice_at_once(jobs: Iterable[Ended]) -> list[Ended]:
    """The jobs that ran at two places at the same time, or whose log does not say so much: none should be."""
    return [
        job
        for job in jobs
        if not job.runs or any(first[1] > second[0] for first, second in itertools.pairwise(job.runs))
    ]


def cut(jobs: Iterable[Ended], deleted: Mapping[str, Happened]) -> list[tuple[Ended, float]]:
    """The runs of jobs in a pod when that was deleted, with when it was; `deleted` is by the pod's name."""
    return [
        (job, deleted[pod].at)
        for job in jobs
        for _, ended, pod in job.runs
        if pod in deleted and ended > deleted[pod].at
    ]


def by_version(jobs: Iterable[Ended]) -> Counter[str]:
    """How many jobs each version of the image did."""
    return Counter(job.version for job in jobs)
