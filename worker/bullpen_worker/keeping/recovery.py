"""Whose fault a death was, and what becomes of the jobs that were running: decisions alone, no I/O.

A job is taken back when its lock is gone. That alone says little: its worker may have died, may have been cut off from
Redis, or Redis may have slept. Only deaths count, and by how alone the job was:

- in company of other jobs: it may have been any of them. At the second such death the job is suspect and runs from then
  on in a process of its own. Such deaths never fail a job.
- alone, in a process of its own or as the only job of its worker: at `maxCrashes` of these it is quarantined.

Quarantine goes BullMQ's own way: the field `defa` makes whoever fetches the job next fail it without running it, so that retention,
events and parents are treated as with any failed job, by a Node worker too.

All locks of a worker are renewed together, at a third of their duration, so those of a dead one run out within a third of
it. The last of them must not be taken for the only job of its worker: as long as one of its locks still runs out, its jobs
wait, which ends before `lockDuration` after the death. And a worker that still has a fresh lock, or was heard of
since, lives: it only lost this lock.
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

SUSPECT_AFTER: Final = 2
"""Deaths in company that make a job suspect."""

_DEATHS_KEPT: Final = 8
_MOST_DIGITS: Final = 16
_AT = re.compile(rb'"at":(\d{1,16})\b')
_OURS = re.compile(r"@[0-9a-f]{12}(?:/\d+)?\Z")


class Death(enum.Enum):
    """What a lost lock says about the job that had it."""

    NONE = "none"
    COMPANY = "company"
    ALONE = "alone"


def worker_name(host: str, nonce: str) -> str:
    """Give the name of a worker, different for every start: it stands in ``pb`` of what it runs.

    `nonce` is 12 random hex digits. They also tell our workers from others, whose names may be shared by many.
    """
    return f"{host}@{nonce}"


def is_ours(name: str) -> bool:
    """Whether a worker's name is one of `worker_name`, and so belongs to one worker alone."""
    return _OURS.search(name) is not None


@dataclass(frozen=True, slots=True)
class Crashes:
    """What a job's hash remembers of the deaths that it was in.

    `deaths` are the latest, each ``c:<worker>`` (in company) or ``a:<worker>`` (alone), so that a worker that was only
    thought dead can take its own back (`bullpen/queue/scripts/beat.lua`).
    """

    company: int = 0
    alone: int = 0
    deaths: tuple[str, ...] = ()

    @property
    def suspect(self) -> bool:
        """Whether the job must run in a process of its own."""
        return self.company >= SUSPECT_AFTER or self.alone > 0

    @classmethod
    def read(cls, company: str, alone: str, deaths: str) -> "Crashes":
        """Read the fields ``bullpen:company``, ``bullpen:crashes``, ``bullpen:deaths``; what is no number counts as 0."""
        return cls(_count(company), _count(alone), tuple(deaths.split()))

    def after(self, death: Death, worker: str) -> "Crashes":
        """Give what is remembered after one more death of `worker`."""
        if death is Death.NONE:
            return self
        alone = death is Death.ALONE
        deaths = (*self.deaths, f"{'a' if alone else 'c'}:{worker}")[-_DEATHS_KEPT:]
        if alone:
            return replace(self, alone=self.alone + 1, deaths=deaths)
        return replace(self, company=self.company + 1, deaths=deaths)

    def fields(self, death: Death, max_crashes: int) -> tuple[str, ...]:
        """Give the fields to set after `death`, flat; nothing when it was none."""
        if death is Death.NONE:
            return ()
        fields = [
            "bullpen:company", str(self.company), "bullpen:crashes", str(self.alone), "bullpen:deaths", " ".join(self.deaths),
        ]  # fmt: skip
        if self.suspect:
            fields += ["bullpen:suspect", "1"]
        if death is Death.ALONE and self.alone >= max_crashes:
            times = "once" if self.alone == 1 else f"{self.alone} times"
            fields += ["defa", f"quarantined: its worker died {times} while it ran"]
        return tuple(fields)


def death_of_child(jobs: int) -> Death:
    """Judge the crash of one child process that ran so many jobs."""
    return Death.ALONE if jobs <= 1 else Death.COMPANY


@dataclass(frozen=True, slots=True)
class StalledJob:
    """A job in `active` whose lock is gone. `worker` is its ``pb``, empty for none; `start` its ``ats``."""

    id: str
    start: str
    worker: str
    crashes: Crashes


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker that has jobs in `active`: how many, how many of them with a lock, and how long the longest lasts.

    `silent_ms` is how long ago it was heard of by Redis' clock; None when nothing is known of it.
    """

    name: str
    active: int
    locked: int
    longest_lock_ms: int
    silent_ms: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a stalled job: put it back to wait with these fields, or (`wait`) look again at the next check."""

    id: str
    start: str
    wait: bool = False
    fields: tuple[str, ...] = ()
    death: Death = Death.NONE

    @property
    def quarantines(self) -> bool:
        """Whether the job will be failed in place of being run again."""
        return "defa" in self.fields

    def wire(self) -> tuple[str, str, str, tuple[str, ...]]:
        """Give what `recover.lua` takes."""
        return self.id, self.start, "wait" if self.wait else "move", self.fields


def judge(job: StalledJob, holder: Holder | None, *, own_name: str, lock_ms: int, max_crashes: int) -> Decision:
    """Decide about one stalled job. `holder` is its worker, `own_name` the worker that decides, which lives."""
    if job.worker == own_name:
        return Decision(job.id, job.start)
    if holder is None or not is_ours(job.worker):
        # Somebody else's worker: its name may stand for many, and nobody says whether it died.
        return _died(job, Death.COMPANY, max_crashes)
    if _lives(holder, lock_ms):
        return Decision(job.id, job.start)
    if holder.locked:
        return Decision(job.id, job.start, wait=True)
    return _died(job, Death.ALONE if holder.active <= 1 else Death.COMPANY, max_crashes)


def judge_all(
    jobs: Iterable[StalledJob], holders: Mapping[str, Holder], *, own_name: str, lock_ms: int, max_crashes: int
) -> list[Decision]:
    """Decide about all that one check found."""
    return [
        judge(job, holders.get(job.worker), own_name=own_name, lock_ms=lock_ms, max_crashes=max_crashes) for job in jobs
    ]


def _died(job: StalledJob, death: Death, max_crashes: int) -> Decision:
    fields = job.crashes.after(death, job.worker).fields(death, max_crashes)
    return Decision(job.id, job.start, fields=fields, death=death)


def _lives(holder: Holder, lock_ms: int) -> bool:
    # A lock that ran out was last set a whole duration ago, and would have been renewed a third (and a renewal's
    # lateness, `keeper.TICKS_PER_LOCK`) later by a worker that lived.
    dead_for_ms = lock_ms - lock_ms // 3 - lock_ms // 12 - 500
    if holder.silent_ms is not None and holder.silent_ms < dead_for_ms:
        return True
    return holder.longest_lock_ms > lock_ms // 2


def _count(text: str) -> int:
    return int(text) if len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit() else 0


def read_dead(
    now_ms: int, jobs: Sequence[Sequence[bytes]], workers: Sequence[tuple[bytes, int, int, int, bytes]]
) -> tuple[list[StalledJob], dict[str, Holder]]:
    """Read `recover.lua`'s answer ``"dead"``."""
    stalled = []
    for raw in jobs:
        job_id, start, worker, company, alone, deaths = (part.decode(errors="surrogateescape") for part in raw)
        stalled.append(StalledJob(job_id, start, worker, Crashes.read(company, alone, deaths)))
    holders = {}
    for raw_name, active, locked, longest, entry in workers:
        name = raw_name.decode(errors="surrogateescape")
        heard = _AT.search(entry)
        silent_ms = None if heard is None else now_ms - int(heard[1])
        holders[name] = Holder(name, active, locked, longest, silent_ms)
    return stalled, holders
