"""What the `test_prove_*` modules share: workers that record, and the questions that are asked of the record."""

from __future__ import annotations

import itertools
import re
import time

from tests.chaos import recorded
from tests.chaos.conftest import KEYS


def record(lab):
    """The file that handlers write to."""
    return lab.folder / "record"


def work(lab, **options):
    """Start a worker whose handlers record."""
    environ = {recorded.RECORD: str(record(lab))} | options.pop("environ", {})
    return lab.work(**{"handlers": "tests.chaos.recorded", "environ": environ} | options)


def runs(lab):
    """All runs so far, by job."""
    return recorded.read(record(lab))


def running(lab):
    """The ids whose latest run has not said that it ended."""
    return {job_id for job_id, each in runs(lab).items() if each[-1].ended is None}


def began(lab):
    """How many runs have begun, by job."""
    return {job_id: len(each) for job_id, each in runs(lab).items()}


def never_twice_at_once(found, killed=None):
    """No job may begin before its run before has ended; a killed process has ended when it was killed."""
    for each in found.values():
        for before, after in itertools.pairwise(each):
            ended = before.ended if before.ended is not None else (killed or {}).get(before.pid)
            assert ended is not None, f"{before} never ended, and {after} began"
            assert ended <= after.began, f"{before} still ran when {after} began"


def spent_nothing(lab, handles):
    """Each job completed, at its first attempt, and was never taken for stalled."""
    pipe = lab.redis.pipeline(transaction=False)
    for handle in handles:
        pipe.hmget(KEYS.job(handle.id), "atm", "stc", "bullpen:deaths", "finishedOn", "failedReason")
    for handle, (atm, stc, deaths, finished, reason) in zip(handles, pipe.execute(), strict=True):
        assert (atm, stc or "0", deaths, reason) == ("1", "0", None, None), handle.id
        assert finished, handle.id


def completed(lab, count):
    """Whether so many have completed; fails at once when one has failed."""
    failed = lab.redis.zrange(KEYS.failed, 0, 0)
    assert not failed or lab.count("failed") == 0, lab.job(failed[0])
    return lab.count("completed") == count


def letters_for(seconds):
    """How many letters make `recorded.match` take at least so long."""
    length, took = 16, 0.0
    while took < 0.2:
        length += 1
        start = time.process_time()
        re.match(r"(a+)+$", "a" * length + "b")
        took = time.process_time() - start
    while took < seconds * 1.15:
        took *= 2
        length += 1
    return length
