"""The models: what they take, what is in effect, and that a CRD can be made of them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from bullpen.api import files
from bullpen.api.v1alpha1 import KINDS, JobQueue, RedisConnection
from bullpen.api.v1alpha1.base import Duration, Model, ratio

EVERYTHING = """
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: emails, namespace: shop}
spec:
  className: ""
  queueName: emails
  redisRef: {kind: RedisConnection, name: shop}
  paused: true
  closed: false
  concurrency: {perWorker: 10, total: 50}
  rateLimit: {jobs: 100, per: 1s}
  timeout: 10m
  expires: 24h
  retry: {attempts: 5, backoff: {type: Exponential, delay: 2s, factor: "2", maxDelay: 1m, jitter: 50%}}
  priorities: {levels: {urgent: 1, high: 5, normal: 10, low: 15}, default: normal, unprioritized: Demote}
  jobs:
    - {name: charge, timeout: 30s, retry: {attempts: 1}}
  limits: {payloadBytes: 262144, resultBytes: 65536, waiting: 100000, onFull: Reject}
  payloadSchema: {type: object, additionalProperties: true}
  retention: {completed: {age: 24h, count: 1000}, failed: {age: 168h, count: 10000}}
  recovery: {lockDuration: 10s, checkInterval: 3s, maxCrashes: 3}
  deadLetter: {jobQueueRef: {name: emails-dead}}
  unknownHandler: {after: 1h}
  schedules:
    - {name: digest, cron: "0 8 * * 1", timeZone: Europe/Berlin, job: weekly-digest, data: {}, suspend: false,
       concurrencyPolicy: Forbid, startingDeadline: 1h}
    - {name: sweep, every: 5m, job: sweep}
  worker:
    image: registry.example.com/shop-worker:1.4
    handlers: [shop.jobs, "shop.reports:reports"]
    processes: 1
    env: []
    envFrom: []
    resources: {}
    serviceAccountName: ""
    strategy: {maxSurge: 25%, maxUnavailable: 0}
    disruption: Protect
    terminationGracePeriod: 630s
    podTemplate: {}
  replicas: 1
  scaling:
    mode: Auto
    minReplicas: 0
    maxReplicas: 20
    jobsPerReplica: 10
    zeroAfter: 5m
    behavior: {}
    windows: [{name: office, schedule: "0 8 * * 1-5", duration: 10h, timeZone: Europe/Berlin, minReplicas: 2}]
  alerts: {oldestJobAge: 5m, failureRatio: 5%}
  deletion: {policy: Retain, timeout: 10m}
"""

CONNECTION = """
apiVersion: bullpen.dev/v1alpha1
kind: ClusterRedisConnection
metadata: {name: shared, annotations: {bullpen.dev/default: "true"}}
spec:
  endpoints: ["rediss://redis.infra.svc:6379/0"]
  topology: Standalone
  auth: {username: {value: bullpen}, password: {secretKeyRef: {name: redis, key: password}}}
  tls: {ca: {configMapKeyRef: {name: ca, key: ca.crt}}, clientCertificate: {secretName: redis-client}}
  users: Managed
  allowedNamespaces: {selector: {matchLabels: {bullpen.dev/redis: shared}}}
  prefix: "{namespace}"
  limits: {connections: 2000}
status:
  conditions:
    - {type: Ready, status: "True", lastTransitionTime: 2027-01-02T03:04:05Z, reason: Reachable, message: fine}
  version: 7.4.1
  usedBy: 3
"""

STATUS = """
status:
  observedGeneration: 4
  conditions:
    - {type: Ready, status: "False", observedGeneration: 4, lastTransitionTime: "2027-01-02T03:04:05Z",
       reason: ScheduleInvalid, message: "spec.schedules[0].cron: no such day"}
  replicas: 2
  selector: bullpen.dev/jobqueue=emails
  binding: {name: emails-redis}
  queue: {name: emails, prefix: bull}
  jobs: {waiting: 1, prioritized: 2, delayed: 3, active: 4, completed: 5, failed: 6, paused: 0,
         observedTime: "2027-01-02T03:04:05Z"}
  oldestJobTime: "2027-01-02T03:04:05Z"
  scaling: {desiredReplicas: 2, reason: Demand, message: 7 jobs, decidedTime: "2027-01-02T03:04:05Z"}
"""


def queue(**spec: Any) -> JobQueue:
    return JobQueue.model_validate({"metadata": {"name": "emails"}, "spec": spec})


def models() -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {}

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found[annotation] = None
            for field in annotation.model_fields.values():
                walk(field.annotation)
        for argument in get_args(annotation):
            walk(argument)

    for kind in KINDS.values():
        walk(kind)
    return list(found)


def schema_nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for key, child in node.items():
            if key != "default":
                yield from schema_nodes(child, f"{path}/{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from schema_nodes(child, f"{path}/{index}")


class TestEverything:
    def test_the_whole_of_the_contract_is_read(self):
        loaded = files.loads(EVERYTHING)
        assert loaded.findings == ()
        [emails] = loaded.jobqueues
        assert emails.spec.retry.attempts == 5
        assert emails.spec.rate_limit is not None
        assert emails.spec.rate_limit.per == timedelta(seconds=1)
        assert emails.spec.schedules[0].time_zone == "Europe/Berlin"
        assert emails.spec.scaling is not None
        assert emails.spec.scaling.windows[0].duration == timedelta(hours=10)

    def test_no_field_of_the_spec_is_left_out_of_that(self):
        given_fields = set(yaml.safe_load(EVERYTHING)["spec"])
        all_fields = {field.alias for field in JobQueue.model_fields["spec"].annotation.model_fields.values()}
        assert all_fields - given_fields == {"scaleTargetRef", "workerPoolRef"}  # at most one of the three

    def test_the_status_is_read(self):
        loaded = files.loads(EVERYTHING + STATUS)
        assert loaded.findings == ()
        status = loaded.jobqueues[0].status
        assert status is not None
        ready = status.condition("Ready")
        assert ready is not None
        assert ready.reason == "ScheduleInvalid"
        assert status.condition("Paused") is None

    def test_a_connection_is_read(self):
        loaded = files.loads(CONNECTION)
        assert loaded.findings == ()
        [shared] = loaded.objects
        assert shared.status.used_by == 3

    def test_what_the_api_server_adds_to_metadata_is_read(self):
        metadata = {
            "name": "emails", "uid": "u", "resourceVersion": "1", "generation": 2, "creationTimestamp": None,
            "managedFields": [{"manager": "kubectl"}], "finalizers": ["bullpen.dev/drain"], "labels": {"a": "b"},
            "ownerReferences": [{"kind": "X"}],
        }  # fmt: skip
        assert JobQueue.model_validate({"metadata": metadata}).metadata.generation == 2

    @pytest.mark.parametrize("text", [EVERYTHING, EVERYTHING + STATUS, CONNECTION])
    def test_there_and_back(self, text: str):
        [obj] = files.loads(text).objects
        assert files.validate(obj.to_dict()) == obj

    def test_a_newer_object_is_read_on_request(self):
        newer = {"metadata": {"name": "emails"}, "spec": {"retry": {"attempts": 2, "later": 1}, "later": 1}}
        with pytest.raises(ValidationError):
            JobQueue.model_validate(newer)
        assert JobQueue.model_validate(newer, extra="ignore").spec.retry.attempts == 2


class TestInEffect:
    def test_the_least_that_works(self):
        least = queue(
            worker={"image": "shop:1", "handlers": ["shop.jobs"]},
            scaling={"maxReplicas": 20},
        )
        spec = least.spec
        assert least.queue_name == "emails"
        assert spec.scaling_mode == "Auto"
        assert spec.jobs_per_replica == 10
        assert spec.timeout == timedelta(minutes=10)
        assert spec.termination_grace_period == timedelta(seconds=630)
        assert spec.retry_of("any").attempts == 3
        assert spec.retry.backoff.longest == timedelta(minutes=1)
        assert spec.retention.failed.age == timedelta(days=7)
        assert spec.paused is None
        assert spec.scaling is not None
        assert (spec.scaling.behavior.up_window, spec.scaling.behavior.down_window) == (
            timedelta(),
            timedelta(seconds=60),
        )

    def test_no_scaling_is_manual(self):
        assert queue().spec.scaling_mode == "Manual"
        assert queue(scaling={"mode": "Hold"}).spec.scaling_mode == "Hold"

    def test_names(self):
        assert queue(queueName="Shop Mails").queue_name == "Shop Mails"
        team = RedisConnection.model_validate({"metadata": {"name": "r"}, "spec": {"endpoints": ["redis://r:6379"]}})
        assert team.prefix_for("shop") == "bull"
        [shared] = files.loads(CONNECTION).objects
        assert shared.prefix_for("shop") == "shop"

    def test_grace_is_the_longest_timeout_and_30_seconds(self):
        worker = {"image": "shop:1", "handlers": ["shop.jobs"]}
        jobs = [{"name": "short", "timeout": "1s"}, {"name": "long", "timeout": "1h"}]
        assert queue(worker=worker, jobs=jobs).spec.termination_grace_period == timedelta(hours=1, seconds=30)
        worker["terminationGracePeriod"] = "5s"
        assert queue(worker=worker, jobs=jobs).spec.termination_grace_period == timedelta(seconds=5)

    def test_a_job_name_goes_over_the_queue_field_by_field(self):
        spec = queue(
            timeout="5m",
            retry={"attempts": 4, "backoff": {"delay": "3s", "jitter": "0%"}},
            jobs=[{"name": "charge", "timeout": "30s", "retry": {"backoff": {"type": "Fixed"}}}],
        ).spec
        assert spec.timeout_of("charge") == timedelta(seconds=30)
        assert spec.timeout_of("other") == timedelta(minutes=5)
        charge = spec.retry_of("charge")
        assert (charge.attempts, charge.backoff.type, charge.backoff.delay) == (4, "Fixed", timedelta(seconds=3))
        assert charge.backoff.jitter_ratio == 0
        assert spec.retry_of("other") == spec.retry

    @pytest.mark.parametrize(
        ("backoff", "longest"),
        [
            ({}, timedelta(minutes=1)),
            ({"delay": "5m"}, timedelta(minutes=5)),
            ({"delay": "1s", "maxDelay": "10s"}, timedelta(seconds=10)),
            ({"type": "Fixed", "delay": "5m", "maxDelay": "1s"}, timedelta(minutes=5)),
            ({"type": "Immediate"}, timedelta()),
        ],
    )
    def test_the_longest_wait(self, backoff: dict[str, str], longest: timedelta):
        assert queue(retry={"backoff": backoff}).spec.retry.backoff.longest == longest

    def test_slots_of_somebody_elses_workers(self):
        spec = queue(scaleTargetRef={"name": "legacy-node", "slotsPerReplica": 5}).spec
        assert (spec.slots_per_replica, spec.jobs_per_replica) == (5, 5)
        assert queue(concurrency={"perWorker": 7}).spec.slots_per_replica == 7

    def test_numbers_as_text(self):
        assert ratio("5%") == 0.05
        assert queue(alerts={"failureRatio": "5%"}).spec.alerts.failure_share == 0.05
        assert queue(retry={"backoff": {"factor": "1.5"}}).spec.retry.backoff.factor_number == 1.5

    def test_models_are_frozen_and_read_snake_case_in_python(self):
        emails = JobQueue(metadata={"name": "emails"}, spec={"queue_name": "mails"})
        assert emails.queue_name == "mails"
        with pytest.raises(ValidationError):
            emails.spec = emails.spec


class TestForTheCrd:
    @pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
    def test_every_field_says_what_it_is(self, model: type[BaseModel]):
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, name
            assert len(field.description) > 8, name
            assert field.description.endswith("."), name

    @pytest.mark.parametrize("kind", KINDS)
    def test_everything_is_bounded(self, kind: str):
        for path, node in schema_nodes(KINDS[kind].model_json_schema()):
            if path.endswith(("/properties", "/$defs")):
                continue
            match node.get("type"):
                case "string" if "enum" not in node and "const" not in node and node.get("format") != "date-time":
                    assert "maxLength" in node, path
                case "array":
                    assert "maxItems" in node, path
                case "object" if "properties" not in node and "x-kubernetes-preserve-unknown-fields" not in node:
                    assert "maxProperties" in node, path

    @pytest.mark.parametrize("kind", KINDS)
    def test_list_items_have_no_defaults(self, kind: str):
        schema = KINDS[kind].model_json_schema()
        items = {
            node["items"]["$ref"].rpartition("/")[2]
            for _, node in schema_nodes(schema)
            if "$ref" in node.get("items", {})
        }
        pending, seen = list(items), set()
        while pending:
            name = pending.pop()
            seen.add(name)
            for path, node in schema_nodes(schema["$defs"][name]):
                assert node.get("default") is None, f"{name}{path}"
                below = str(node.get("$ref", "")).rpartition("/")[2]
                if below and below not in seen:
                    pending.append(below)

    def test_what_means_something_by_being_there_is_not_filled_in(self):
        spec = JobQueue(metadata={"name": "emails"}).to_dict()["spec"]
        assert isinstance(spec, dict)
        assert not spec.keys() & {
            "paused", "rateLimit", "expires", "priorities", "payloadSchema", "deadLetter", "worker", "scaleTargetRef",
            "workerPoolRef", "scaling", "alerts", "redisRef",
        }  # fmt: skip

    def test_named_lists_are_maps(self):
        schema = JobQueue.model_json_schema()["$defs"]["JobQueueSpec"]["properties"]
        for name in ("jobs", "schedules"):
            assert schema[name]["x-kubernetes-list-map-keys"] == ["name"]

    def test_unions_are_int_or_string_only(self):
        schema = json.dumps(JobQueue.model_json_schema())
        assert "oneOf" not in schema
        assert "discriminator" not in schema
        for path, node in schema_nodes(JobQueue.model_json_schema()):
            if "anyOf" in node and "x-kubernetes-int-or-string" not in node:
                assert len([each for each in node["anyOf"] if each.get("type") != "null"]) == 1, path


def test_importing_the_models_is_cheap():
    heavy = ("yaml", "croniter", "jsonschema", "redis")
    code = f"import sys, bullpen.api.v1alpha1; sys.exit(','.join(m for m in {heavy} if m in sys.modules) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- round trips -------------------------------------------------------------

lengths = st.integers(1, 10**9).map(lambda ms: timedelta(milliseconds=ms))
names = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), min_size=1, max_size=20
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
payloads = st.dictionaries(texts, json_values, max_size=3)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def named(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries({"name": names, **fields}), max_size=3, unique_by=lambda item: item["name"])


specs = optional(
    queue_name=texts.filter(lambda name: ":" not in name),
    paused=st.booleans(),
    closed=st.booleans(),
    concurrency=optional(per_worker=st.integers(1, 10_000), total=st.none() | st.integers(1, 100)),
    timeout=lengths,
    expires=lengths,
    retry=optional(
        attempts=st.integers(1, 100),
        backoff=optional(
            type=st.sampled_from(["Fixed", "Immediate"]),
            delay=lengths,
            factor=st.sampled_from(["1", "1.5", "2", "99.999", "100"]),
            jitter=st.integers(0, 100).map(lambda share: f"{share}%"),
        ),
    ),
    jobs=named(timeout=lengths),
    schedules=named(every=lengths, job=texts, data=payloads),
    payload_schema=payloads,
    worker=st.fixed_dictionaries({
        "image": st.just("shop:1"),
        "handlers": st.just(["shop.jobs"]),
        "env": named(value=texts),
        "resources": payloads,
        "strategy": optional(max_surge=st.integers(1, 10_000) | st.integers(1, 100).map(lambda share: f"{share}%")),
    }),
    scaling=st.fixed_dictionaries({"max_replicas": st.integers(1, 10_000), "wait": lengths, "zero_after": lengths}),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs)
def test_what_is_written_is_read_again(spec: dict[str, Any]):
    emails = JobQueue(metadata={"name": "emails"}, spec=spec)
    for text in (
        json.dumps(emails.to_dict(), ensure_ascii=False),
        yaml.safe_dump(emails.to_dict(), default_style='"', allow_unicode=True),
    ):
        loaded = files.loads(text)
        assert loaded.findings == ()
        assert loaded.jobqueues == (emails,)


@given(length=lengths)
def test_a_length_keeps_its_length(length: timedelta):
    class Holder(Model):
        length: Duration

    written = Holder(length=length).to_dict()
    assert Holder.model_validate(written).length == length
