"""Options of an enqueue: what is refused, and what is written for the wire."""

from datetime import UTC, datetime, timedelta

import pytest

from bullpen import Backoff, Deduplication, JobSpec, Keep, Retention
from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen.clients.enqueueing import Enqueuer, Preparer
from bullpen.errors import OptionInvalid, PayloadInvalid, PayloadTooLarge, QueueClosed
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import BATCH, Refusal
from bullpen.queue.operations.queues import ReadPolicy
from bullpen.queue.policy import BUILT_IN, QueuePolicy
from bullpen.queue.requests import Request, check_id, check_known_id

KEYS = QueueKeys("bull", "emails")
NOW = 1_790_000_000_000


def policy(**spec):
    return QueuePolicy.from_spec(JobQueueSpec.model_validate(spec))


def prepare(options=None, *, policy=BUILT_IN, name="welcome", data=None, defaults=None, version=1):
    request = Request.of(
        JobSpec(name, None, JobSpec.by_name(name, data).data_json, {}, defaults or {}, version),
        lambda: "minted",
        options,
    )
    return Preparer(KEYS, policy).prepare(request, NOW)


@pytest.mark.parametrize(
    ("options", "opts"),
    [
        ({}, {"attempts": 0}),
        ({"attempts": 3}, {"attempts": 3}),
        ({"delay": "1m30s"}, {"attempts": 0, "delay": 90_000}),
        ({"delay": timedelta(seconds=2)}, {"attempts": 0, "delay": 2000}),
        ({"delay": datetime.fromtimestamp(NOW / 1000 + 60, UTC)}, {"attempts": 0, "delay": 60_000}),
        ({"delay": datetime(2000, 1, 1, tzinfo=UTC)}, {"attempts": 0}),
        ({"priority": 5}, {"attempts": 0, "priority": 5}),
        ({"priority": 0}, {"attempts": 0}),
        ({"lifo": True}, {"attempts": 0, "lifo": True}),
        ({"job_id": "order-7"}, {"attempts": 0, "jobId": "order-7"}),
        ({"timeout": "30s"}, {"attempts": 0, "bullpen": {"p": 1, "timeout": 30_000}}),
        ({"expires": "1h"}, {"attempts": 0, "bullpen": {"p": 1, "expires": NOW + 3_600_000}}),
        (
            {"expires": datetime(2000, 1, 1, tzinfo=UTC)},
            {"attempts": 0, "bullpen": {"p": 1, "expires": 946_684_800_000}},
        ),
        (
            {"backoff": Backoff.linear("2s", max_delay="1m")},
            {
                "attempts": 0,
                "backoff": {"type": "fixed", "delay": 2000},
                "bullpen": {"p": 1, "backoff": "l:2000:2:60000:0"},
            },
        ),
        (
            {"retention": Retention(failed=Keep(age="1h"))},
            {"attempts": 0, "removeOnFail": {"age": 3600}},
        ),
        (
            {"deduplication": Deduplication.debounce("d", "10s")},
            {
                "attempts": 0,
                "delay": 10_000,
                "deduplication": {"id": "d", "ttl": 10_000, "extend": True, "replace": True},
            },
        ),
    ],
)
def test_options_on_the_wire_without_a_policy(options, opts):
    assert prepare(options).shape.opts == opts


def test_kinds_are_chosen_as_node_chooses():
    assert prepare().shape.kind == "addStandardJob-9"
    assert prepare({"priority": 1}).shape.kind == "addPrioritizedJob-9"
    assert prepare({"priority": 1, "delay": "1s"}).shape.kind == "addDelayedJob-6"


def test_the_version_of_the_payload_is_written_unless_it_is_the_first():
    assert prepare(version=2).shape.opts["bullpen"] == {"p": 1, "v": 2}


def test_what_the_policy_says_is_written_for_node_and_marked():
    rules = policy(
        retry={"attempts": 4, "backoff": {"type": "Fixed", "delay": "5s", "jitter": "0%"}},
        priorities={"levels": {"high": 1, "normal": 10}, "default": "normal"},
        retention={"completed": {"count": 7}},
    )
    opts = prepare(policy=rules).shape.opts
    assert opts == {
        "attempts": 4,
        "backoff": {"type": "fixed", "delay": 5000},
        "priority": 10,
        "removeOnComplete": {"age": 86_400, "count": 7},
        "removeOnFail": {"age": 604_800, "count": 10_000},
        "bullpen": {"p": 1, "policy": "attempts,backoff,priority,removeOnComplete,removeOnFail"},
    }


def test_who_decides_strongest_first():
    rules = policy(retry={"attempts": 2}, jobs=[{"name": "charge", "retry": {"attempts": 7}}])
    code = {"attempts": 5}
    assert marked(prepare({"attempts": 9}, policy=rules, name="charge", defaults=code)) == (9, set())
    assert marked(prepare(policy=rules, name="charge", defaults=code)) == (7, {"attempts"})
    assert marked(prepare(policy=rules, name="other", defaults=code)) == (5, {"attempts*"})
    assert marked(prepare(policy=rules, name="other")) == (2, {"attempts"})


def marked(job):
    names = set(job.shape.opts.get("bullpen", {}).get("policy", "").split(","))
    return job.shape.opts["attempts"], names & {"attempts", "attempts*"}


def test_names_of_priorities():
    rules = policy(priorities={"levels": {"high": 1, "low": 9}, "default": "low"})
    assert prepare({"priority": "high"}, policy=rules).shape.priority == 1
    assert prepare({"priority": 3}, policy=rules).shape.priority == 3
    assert prepare(policy=rules, defaults={"priority": "high"}).shape.priority == 1
    assert prepare(policy=rules).shape.priority == 9
    with pytest.raises(OptionInvalid, match=r"priority: 'hgh'.*high, low"):
        prepare({"priority": "hgh"}, policy=rules)
    with pytest.raises(OptionInvalid, match="has no levels"):
        prepare({"priority": "high"})


@pytest.mark.parametrize(
    "options",
    [
        {"priority": -1},
        {"priority": 2**21},
        {"priority": 1.5},
        {"priority": True},
        {"attempts": 0},
        {"attempts": "3"},
        {"delay": 5},
        {"delay": "5"},
        {"delay": datetime(2027, 1, 1)},  # noqa: DTZ001 - that is the point
        {"delay": "-1s"},
        {"timeout": 30},
        {"timeout": "0s"},
        {"backoff": {"type": "fixed"}},
        {"retention": 5},
        {"lifo": 1},
        {"lifo": True, "priority": 1},
        {"deduplication": "d"},
        {"expires": 5.0},
        {"group": "tenant-7"},
        {"on_failure": "ignore"},
    ],
)
def test_bad_options_are_refused_by_name(options):
    with pytest.raises(OptionInvalid, match="|".join(options)):
        prepare(options)


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="atempts"):
        prepare({"atempts": 3})


@pytest.mark.parametrize(
    "job_id", ["7", "-7", "0", "a:b", "", "wait", "meta", "events", "stalled-check", "x" * 1025, "\ud800", 7, None]
)
def test_ids_that_a_job_cannot_have(job_id):
    with pytest.raises(OptionInvalid, match="job_id"):
        check_id(job_id)


@pytest.mark.parametrize("job_id", ["order-7", "007", "7a", "1.5", "+7", "wait-1", "ü", "x" * 1024])
def test_ids_that_a_job_can_have(job_id):
    assert check_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id",
    [
        *("meta", "wait", "id", "bullpen:policy", "bullpen:owner", "de:once", "metrics:completed:data", "repeat:daily"),
        *("7:lock", "01a203a9-4ee0-7ed8-abe1-5cf2bc76af11:logs", "a:b:processed", "", "\ud800", "x" * 1025, None),
    ],
)
def test_what_names_another_key_of_the_queue_is_no_job(job_id):
    with pytest.raises(OptionInvalid, match="job id"):
        check_known_id(job_id)


@pytest.mark.parametrize(
    "job_id",
    [
        "7",
        "order-7",
        "01a203a9-4ee0-7ed8-abe1-5cf2bc76af11",
        "repeat:daily:1790000000000",
        "repeat:a:b:1",
        "a:b:c",
        "ü",
    ],
)
def test_every_job_of_anybody_is_found_by_its_id(job_id):
    assert check_known_id(job_id) == job_id


def test_lifo_needs_a_queue_without_priorities():
    rules = policy(priorities={"levels": {"normal": 10}, "default": "normal"})
    with pytest.raises(OptionInvalid, match="lifo"):
        prepare({"lifo": True}, policy=rules)


def test_a_closed_queue_takes_nothing():
    with pytest.raises(QueueClosed, match="emails"):
        prepare(policy=policy(closed=True))


def test_a_payload_can_be_too_large():
    rules = policy(limits={"payloadBytes": 20})
    assert prepare(policy=rules, data={"a": "x" * 10}).data == b'{"a":"xxxxxxxxxx"}'
    with pytest.raises(PayloadTooLarge, match=r"welcome.*26 bytes.*20"):
        prepare(policy=rules, data={"a": "ü" * 9})


SCHEMA = {
    "type": "object",
    "required": ["userId"],
    "properties": {"userId": {"type": "integer"}, "token": {"pattern": "^[a-z]+$"}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"userId": "secret-7"}, r"\$\.userId: must fit type: \"integer\""),
        ({}, r"\$: 'userId' is a required property"),
        ({"userId": 7, "extra": "secret"}, r"'extra' was unexpected"),
        ({"userId": 7, "token": "SECRET"}, r"\$\.token: must fit pattern"),
    ],
)
def test_a_payload_that_does_not_fit_the_schema_names_the_field_and_no_value(data, words):
    with pytest.raises(PayloadInvalid, match=words) as caught:
        prepare(policy=policy(payloadSchema=SCHEMA), data=data)
    assert "secret" not in str(caught.value).lower()


def test_a_payload_that_fits():
    assert prepare(policy=policy(payloadSchema=SCHEMA), data={"userId": 7}).data == b'{"userId":7}'


def test_a_payload_that_is_too_deep_for_the_schema_is_refused():
    data = {"userId": 7}
    for _ in range(199):
        data = {"a": data}
    schema = {"anyOf": [{"required": ["userId"]}, {"properties": {"a": {"allOf": [{"$ref": "#"}]}}}]}
    with pytest.raises(PayloadInvalid, match="nested too deeply"):
        prepare(policy=policy(payloadSchema=schema), data=data)


@pytest.mark.parametrize(
    "data",
    [{"a": float("nan")}, {"a": float("inf")}, {"a": b"bytes"}, {"a": {1, 2}}, {1: 2}, {"a": "\ud800"}, [1], "text"],
)
def test_a_payload_that_is_no_json_object(data):
    with pytest.raises(PayloadInvalid):
        prepare(data=data)


def test_a_payload_that_contains_itself():
    data = {}
    data["self"] = data
    with pytest.raises(PayloadInvalid):
        prepare(data=data)


def test_jobs_are_sent_under_the_policy_by_which_they_were_made():
    """Between two batches somebody else reads the policy anew: Redis must see that the rest was made by the old one."""
    old, closed = policy(timeout="1m"), policy(timeout="1m", closed=True)
    enqueuer = Enqueuer(KEYS)
    requests = [Request.of(JobSpec.by_name("welcome"), lambda: "minted") for _ in range(BATCH + 1)]
    adding = enqueuer.enqueue(requests, NOW)
    assert isinstance(next(adding), ReadPolicy)
    first = adding.send(old)
    assert (len(first.jobs), first.policy_rev) == (BATCH, old.rev)
    somebody_else = enqueuer.policy()
    next(somebody_else)
    with pytest.raises(StopIteration):
        somebody_else.send(closed)
    rest = adding.send(("minted",) * BATCH)
    assert (len(rest.jobs), rest.policy_rev) == (1, old.rev)
    assert isinstance(adding.send(Refusal.STALE_POLICY), ReadPolicy)
    assert isinstance(adding.send(closed), ReadPolicy)  # once more, before it refuses
    with pytest.raises(QueueClosed) as caught:
        adding.send(closed)
    assert caught.value.__notes__ == ["the first 500 of 501 jobs had been added"]


def test_equal_options_share_a_shape():
    preparer = Preparer(KEYS, BUILT_IN)
    spec = JobSpec.by_name("welcome").with_options(delay="5m", retention=Retention(completed=Keep(count=1)))
    first, second = (preparer.prepare(Request.of(spec, lambda: "x"), NOW) for _ in range(2))
    assert first.shape is second.shape
    own_id = spec.with_options(job_id="mine")
    assert preparer.prepare(Request.of(own_id, lambda: "x"), NOW).shape.opts["jobId"] == "mine"
    assert "jobId" not in preparer.prepare(Request.of(spec, lambda: "x"), NOW).shape.opts
