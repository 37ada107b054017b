"""The policy: read from a JobQueue and from Redis, and which setting holds for one job."""

import dataclasses
import json

import pytest

from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen.errors import ConfigurationError
from bullpen.options import Backoff, Keep, Retention
from bullpen.queue.policy import BUILT_IN, HIGHEST_PRIORITY, Mark, QueuePolicy, keep_jobs
from bullpen.retry import Source


def policy(**spec):
    return QueuePolicy.from_spec(JobQueueSpec.model_validate(spec))


def test_what_is_built_in_is_what_the_model_says_by_default():
    of_model = policy()
    for field in dataclasses.fields(QueuePolicy):
        if field.name not in {"rev", "doc", "retry"}:
            assert getattr(of_model, field.name) == getattr(BUILT_IN, field.name), field.name
    ours, models = BUILT_IN.settings_for("x", {}).retry, of_model.settings_for("x", {}).retry
    assert (ours.attempts, ours.backoff) == (models.attempts, models.backoff)
    assert HIGHEST_PRIORITY == 2**21 - 1


def test_a_round_trip_by_redis():
    written = policy(
        closed=True,
        concurrency={"perWorker": 4, "total": 50},
        rateLimit={"jobs": 100, "per": "1s"},
        timeout="30s",
        expires="24h",
        priorities={"levels": {"high": 1, "low": 9}, "default": "low", "unprioritized": "First"},
        jobs=[{"name": "charge", "timeout": "5s", "retry": {"attempts": 1, "backoff": {"delay": "9s"}}}],
        limits={"waiting": 10, "onFull": "DropOldest"},
        payloadSchema={"type": "object"},
        retention={"completed": {"age": "1h", "count": 5}},
        recovery={"maxCrashes": 7},
        unknownHandler={"after": "2h"},
    )
    assert QueuePolicy.from_json(written.doc) == written
    assert (written.concurrency_per_worker, written.concurrency_total, written.timeout_ms) == (4, 50, 30_000)
    assert written.priorities is not None
    assert (written.priorities.default_number, written.priorities.demote) == (9, False)
    assert written.limits.drop_oldest
    assert written.rate_limit is not None
    assert (written.rate_limit.jobs, written.rate_limit.per_ms) == (100, 1000)


def test_equal_documents_have_equal_revisions():
    assert policy(timeout="30s").rev == policy(timeout="30s").rev != policy(timeout="31s").rev


def test_what_a_newer_version_wrote_is_passed_over():
    assert QueuePolicy.from_json(json.dumps({"timeout": "30s", "later": {"x": 1}})).timeout_ms == 30_000


@pytest.mark.parametrize("doc", ["", "[]", '{"timeout": 5}', '{"retry": {"attempts": "many"}}'])
def test_a_document_that_cannot_be_read_says_so(doc):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        QueuePolicy.from_json(doc)


BY_NAME = {"jobs": [{"name": "charge", "timeout": "7s", "retry": {"attempts": 7}}]}


@pytest.mark.parametrize(
    ("spec", "opts", "code", "attempts"),
    [
        ({}, {}, {}, 3),
        ({"retry": {"attempts": 2}}, {}, {}, 2),
        ({"retry": {"attempts": 2}}, {}, {"attempts": 9}, 9),
        (BY_NAME, {}, {"attempts": 9}, 7),
        (BY_NAME, {"attempts": 4}, {"attempts": 9}, 4),
        (BY_NAME, {"attempts": 0}, {}, 7),  # Node writes 0 for "none"
        (BY_NAME, {"attempts": 4, "bullpen": {"policy": "attempts"}}, {}, 7),  # written for Node's sake
        ({}, {"attempts": 4, "bullpen": {"policy": "attempts"}}, {"attempts": 9}, 9),
        (BY_NAME, {"attempts": 4, "bullpen": {"policy": "attempts*"}}, {}, 7),  # a default of the producer's code
        ({}, {"attempts": 4, "bullpen": {"policy": "attempts*"}}, {}, 4),
    ],
)
def test_who_decides_the_attempts(spec, opts, code, attempts):
    assert policy(**spec).settings_for("charge", opts, code).retry.attempts == attempts


@pytest.mark.parametrize(
    ("spec", "opts", "code", "delay", "source"),
    [
        ({}, {}, {}, 2000, Source.QUEUE),
        ({}, {"backoff": {"type": "fixed", "delay": 5}}, {}, 5, Source.JOB),
        ({}, {"backoff": 5}, {}, 5, Source.JOB),
        ({}, {"backoff": {"type": "custom"}}, {}, 2000, Source.QUEUE),
        ({}, {}, {"backoff": Backoff.fixed("9s")}, 9000, Source.CODE),
        (
            {"jobs": [{"name": "charge", "retry": {"backoff": {"delay": "8s"}}}]},
            {},
            {"backoff": Backoff.fixed("9s")},
            8000,
            Source.JOB_NAME,
        ),
        (
            {},
            {"backoff": {"type": "fixed", "delay": 5}, "bullpen": {"policy": "backoff*"}},
            {"backoff": Backoff.fixed("9s")},
            5,
            Source.CODE,
        ),
    ],
)
def test_who_decides_the_backoff(spec, opts, code, delay, source):
    retry = policy(**spec).settings_for("charge", opts, code).retry
    assert (retry.backoff.delay_ms, retry.backoff_source) == (delay, source)


@pytest.mark.parametrize(
    ("spec", "opts", "code", "timeout_ms"),
    [
        ({}, {}, {}, 600_000),
        ({"timeout": "30s"}, {}, {"timeout": "5s"}, 5_000),
        (BY_NAME, {}, {"timeout": "5s"}, 7_000),
        (BY_NAME, {"bullpen": {"timeout": 1234}}, {}, 1234),
        ({}, {"bullpen": {"timeout": -1}}, {}, 600_000),
        ({}, {"bullpen": {"timeout": "9"}}, {}, 600_000),
    ],
)
def test_who_decides_the_timeout(spec, opts, code, timeout_ms):
    assert policy(**spec).settings_for("charge", opts, code).timeout_ms == timeout_ms


@pytest.mark.parametrize(
    ("opts", "code", "completed", "failed"),
    [
        ({}, {}, {"age": 86_400, "count": 1000}, {"age": 604_800, "count": 10_000}),
        ({"removeOnComplete": True, "removeOnFail": 7}, {}, {"count": 0}, {"count": 7}),
        ({"removeOnComplete": False, "removeOnFail": {"age": 5}}, {}, {"count": -1}, {"age": 5}),
        (
            {},
            {"retention": Retention(completed=Keep(count=2))},
            {"count": 2},
            {"age": 604_800, "count": 10_000},
        ),
        (
            {"removeOnComplete": 3, "bullpen": {"policy": "removeOnComplete"}},
            {},
            {"age": 86_400, "count": 1000},
            {"age": 604_800, "count": 10_000},
        ),
    ],
)
def test_who_decides_the_retention(opts, code, completed, failed):
    settings = BUILT_IN.settings_for("x", opts, code)
    assert (settings.keep_completed, settings.keep_failed) == (completed, failed)


def test_expiry():
    own = policy(expires="1h").settings_for("x", {"bullpen": {"expires": 99}})
    queues = policy(expires="1h").settings_for("x", {})
    assert own.expiry_ms(1000, 50) == 99
    assert queues.expiry_ms(1000, 50) == 1000 + 50 + 3_600_000
    assert BUILT_IN.settings_for("x", {}).expiry_ms(1000, 0) is None


@pytest.mark.parametrize("mark", [Mark(), Mark(frozenset({"attempts", "priority"}), frozenset({"backoff"}))])
def test_marks_survive(mark):
    assert Mark.of({"bullpen": {"policy": mark.to_text()}}) == mark


def test_keeping_all():
    assert keep_jobs(Keep()) == {"count": -1}
