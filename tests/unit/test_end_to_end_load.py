"""What end-to-end tests read out of the logs of their jobs."""

import pytest

from tests.support.e2e.load import Ended, cut, twice_at_once
from tests.support.kubernetes.watching import Happened


def job(*log: str) -> Ended:
    return Ended.of("job-1", {"finishedOn": "1", "failedReason": None, "atm": "1", "ats": "1", "stc": "0", "returnvalue": None, "log": log})  # fmt: skip


@pytest.mark.parametrize(
    ("log", "twice"),
    [
        (("began 1.0 a", "ended 2.0 a"), False),
        (("began 1.0 a", "ended 2.0 a", "began 2.5 b", "ended 3.0 b"), False),
        (("began 2.5 b", "ended 3.0 b", "began 1.0 a", "ended 2.0 a"), False),
        (("began 1.0 a", "began 1.5 b", "ended 2.0 a", "ended 3.0 b"), True),
        (("began 1.0 a", "began 1.5 a", "ended 2.0 a", "ended 3.0 a"), True),
        (("began 1.0 a", "began 1.5 b", "ended 3.0 b"), True),
        (("began 1.0 a",), False),
        ((), True),
    ],
)
def test_a_job_that_ran_at_two_places_at_once_is_seen(log, twice):
    assert bool(twice_at_once([job(*log)])) is twice


def test_a_run_is_cut_also_where_another_finished_the_job():
    moved = job("began 1.0 a", "ended 2.0 a", "began 2.5 b", "ended 3.0 b")
    gone = {"a": Happened(1.5, "MODIFIED", {})}
    assert cut([moved], gone) == [(moved, 1.5)]
    assert cut([moved], {"a": Happened(2.1, "MODIFIED", {})}) == []
