"""What a worker follows of the policy that lies in Redis."""

import json

import pytest

from bullpen.queue.policy import BUILT_IN, QueuePolicy, Recovery
from bullpen_worker.keeping.keeper import Terms
from bullpen_worker.running import policies

BEFORE = QueuePolicy.from_json('{"timeout":"7m","recovery":{"lockDuration":"20s"}}')


def doc(**spec: object) -> str:
    return json.dumps(spec)


def test_it_is_followed_as_it_is_written() -> None:
    written = doc(timeout="3m", recovery={"lockDuration": "40s"})
    assert policies.follow(written, BEFORE) == QueuePolicy.from_json(written)
    assert policies.follow("", BEFORE) == BUILT_IN


@pytest.mark.parametrize(
    "written",
    [
        doc(retry={"backoff": {"type": "OfAVersionToCome"}}, timeout="3m", recovery={"lockDuration": "40s"}),
        doc(timeout=3, recovery={"lockDuration": "40s", "checkInterval": "1s", "maxCrashes": 5}),
        doc(timeout="3m", recovery={"lockDuration": "20ms"}),
        doc(timeout="3m", recovery={"checkInterval": "99ms"}),
        "no JSON",
    ],
)
def test_one_that_cannot_be_read_is_not_but_for_how_long_locks_are_renewed_for(
    written: str, caplog: pytest.LogCaptureFixture
) -> None:
    followed = policies.follow(written, BEFORE)
    terms = Terms.of_policy(written)
    assert followed.recovery == Recovery(terms.lock_ms, terms.check_ms, terms.max_crashes)
    assert followed.timeout_ms == BEFORE.timeout_ms
    assert "the policy stays as it was: " in caplog.text


@pytest.mark.parametrize(
    "recovery",
    [
        {"lockDuration": "1s", "checkInterval": "100ms"},
        {"lockDuration": "999ms", "checkInterval": "3s"},
        {"lockDuration": "10s", "checkInterval": "99ms"},
        {"lockDuration": "99999h", "checkInterval": "99999h"},
        {},
    ],
)
def test_who_renews_locks_and_who_takes_them_agree(recovery: dict[str, str]) -> None:
    written = doc(recovery=recovery)
    followed, terms = policies.follow(written, BUILT_IN).recovery, Terms.of_policy(written)
    assert (followed.lock_duration_ms, followed.check_interval_ms) == (terms.lock_ms, terms.check_ms)
