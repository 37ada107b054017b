"""What holds for a job that was fetched, without a Redis."""

import json

import pytest

from bullpen import Handlers
from bullpen.handling.catalogue import Catalogue
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import BUILT_IN
from bullpen.queue.records import StoredJob
from bullpen_worker.running.acks import PutOff
from bullpen_worker.running.admission import Admission
from bullpen_worker.running.templates import Templates

NOW = 1_795_000_000_000


@pytest.fixture
def admission() -> Admission:
    q = Handlers("q")

    @q.handler("known")
    async def known() -> None: ...

    pack = Templates(QueueKeys("bull", "q"), worker_name="w", lock_ms=1000, metrics_points=0)
    return Admission(catalogue=Catalogue([q], "q"), policy=BUILT_IN, pack=pack)


def fields(**given: object) -> dict[bytes, bytes]:
    return {b"name": b"x", b"opts": json.dumps(given, separators=(",", ":")).encode()}


def test_jobs_of_one_kind_share_their_terms(admission: Admission) -> None:
    first = admission.terms(fields(jobId="1", attempts=7))
    assert admission.terms(fields(jobId="2", attempts=7)) is first
    assert admission.terms(fields(jobId="2", attempts=8)) is not first
    assert first.settings.retry.attempts == 7


def test_of_options_that_are_large_nothing_is_kept(admission: Admission) -> None:
    """Thousands of kinds are: what is kept must be small, whatever producers write."""
    for number in range(50):
        terms = admission.terms(fields(attempts=7, tm=f"{number}" + "x" * 100_000))
        assert terms.settings.retry.attempts == 7
    assert admission._terms == {}


@pytest.mark.parametrize("since", [0, NOW - 5_000, NOW + 10**12])
def test_a_clock_that_was_ahead_does_not_put_a_job_off_for_longer(admission: Admission, since: int) -> None:
    found = fields() | {b"bullpen:unknown": str(since).encode()}
    verdict = admission.verdict(StoredJob("1", found), admission.terms(found), NOW, alone=False)
    assert verdict == PutOff(NOW if since in {0, NOW + 10**12} else since)
