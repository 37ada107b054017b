"""The kinds as a person at kubectl meets them: defaults, columns, explain, scale, server-side apply, size."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from bullpen.api import crd, files
from bullpen.api.v1alpha1 import JobQueue
from tests.cluster import crd_cases
from tests.cluster.crd_cases import API_VERSION, an_object
from tests.support.kubernetes.api import Api, ApiError
from tests.support.kubernetes.apiserver import ApiServer

LEAST = {"worker": crd_cases.WORKER, "scaling": {"maxReplicas": 20}}


def queue(namespace: str, spec: Any, name: str = "emails") -> dict[str, Any]:
    return an_object("JobQueue", spec, name, namespace)


def with_status(api: Api, namespace: str, name: str, status: dict[str, Any]) -> None:
    api.patch(API_VERSION, "JobQueue", namespace, name, {"status": status}, subresource="status")


# -- defaults, and what is dropped ---------------------------------------------


def test_the_least_that_works_is_filled_in(bullpen_api: Api, namespace: str):
    stored = bullpen_api.create(queue(namespace, LEAST))
    assert stored["spec"] == {
        "className": "",
        "closed": False,
        "concurrency": {"perWorker": 10},
        "deletion": {"policy": "Retain", "timeout": "10m"},
        "limits": {"payloadBytes": 262_144, "resultBytes": 65_536, "onFull": "Reject"},
        "recovery": {"lockDuration": "10s", "checkInterval": "3s", "maxCrashes": 3},
        "replicas": 1,
        "retention": {"completed": {"age": "24h", "count": 1000}, "failed": {"age": "168h", "count": 10_000}},
        "retry": {
            "attempts": 3,
            "backoff": {"type": "Exponential", "delay": "2s", "factor": "2", "jitter": "50%"},
        },
        "scaling": {"mode": "Auto", "minReplicas": 0, "maxReplicas": 20, "zeroAfter": "5m"},
        "timeout": "10m",
        "unknownHandler": {"after": "1h"},
        "worker": {
            "image": "shop:1",
            "handlers": ["shop.jobs"],
            "processes": 1,
            "serviceAccountName": "",
            "strategy": {"maxSurge": "25%", "maxUnavailable": 0},
            "disruption": "Protect",
        },
    }
    assert files.validate(stored).spec == files.validate(queue(namespace, LEAST)).spec


@pytest.mark.parametrize("spec", [None, {}, {"retry": None, "timeout": None, "retention": {"failed": None}}])
def test_no_spec_and_nothing_in_it_are_the_same(bullpen_api: Api, namespace: str, spec: Any):
    obj = queue(namespace, spec)
    if spec is None:
        del obj["spec"]
    stored = bullpen_api.create(obj)
    assert files.validate(stored).spec == files.validate(queue(namespace, {})).spec
    assert "scaling" not in stored["spec"]  # its presence means mode Auto


def test_entries_of_lists_are_left_as_they_were_written(bullpen_api: Api, namespace: str):
    lists = {
        "jobs": [{"name": "charge", "retry": {"backoff": {}}}],
        "schedules": [crd_cases.CRON],
        "scaling": {"maxReplicas": 5, "windows": [crd_cases.WINDOW], "behavior": {"scaleUp": {"policies": []}}},
        "worker": {**crd_cases.WORKER, "env": [{"name": "A"}]},
    }
    stored = bullpen_api.create(queue(namespace, lists))["spec"]
    assert stored["jobs"] == lists["jobs"]
    assert stored["schedules"] == lists["schedules"]
    assert stored["scaling"]["windows"] == [crd_cases.WINDOW]
    assert stored["worker"]["env"] == [{"name": "A"}]


def test_unknown_fields_are_dropped_but_where_anything_may_stand(bullpen_api: Api, namespace: str):
    anything = {"spec": {"nodeSelector": {"disk": "ssd"}, "later": [1, {"a": None}]}}
    spec = {
        "worker": {
            **crd_cases.WORKER,
            "podTemplate": anything,
            "resources": {"limits": {"example.com/gpu": 1}},
            "env": [{"name": "A", "valueFrom": {"fileKeyRef": {"key": "a"}}, "later": 1}],
            "later": 1,
        },
        "payloadSchema": {"x-later": True},
        "schedules": [{**crd_cases.CRON, "data": {"a": {"b": 1}}}],
        "later": {},
    }
    obj = queue(namespace, spec)
    stored = bullpen_api.request(
        "POST", bullpen_api.path(API_VERSION, "JobQueue", namespace), obj, fieldValidation="Ignore"
    )["spec"]
    assert "later" not in stored
    assert "later" not in stored["worker"]
    assert stored["worker"]["podTemplate"] == anything
    assert stored["worker"]["resources"] == spec["worker"]["resources"]  # type: ignore[call-overload,index]
    assert stored["worker"]["env"] == spec["worker"]["env"]  # type: ignore[call-overload,index]
    assert stored["payloadSchema"] == {"x-later": True}
    assert stored["schedules"][0]["data"] == {"a": {"b": 1}}


def test_kubectl_names_an_unknown_field(api_server: ApiServer, bullpen_api: Api, namespace: str):
    text = json.dumps(queue(namespace, {**LEAST, "maxReplicas": 3, "retry": {"atempts": 3}}))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        api_server.kubectl("create", "-f", "-", stdin=text)
    assert 'unknown field "spec.maxReplicas"' in failed.value.stderr
    assert 'unknown field "spec.retry.atempts"' in failed.value.stderr


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"scaling": {}}, "spec.scaling.maxReplicas: Required value: is required in mode Auto"),
        ({"timeout": "0s"}, 'spec.timeout: Invalid value: "string": must not be zero'),
        (
            {"recovery": {"lockDuration": "999ms"}},
            'spec.recovery.lockDuration: Invalid value: "string": is shorter than 1s',
        ),
        (
            {"scaling": {"maxReplicas": 3, "wait": "30s", "jobsPerReplica": 2}},
            "spec.scaling.wait: Forbidden: stands beside `jobsPerReplica`: take one of the two",
        ),
        ({"retry": {"attempts": 0}}, "spec.retry.attempts in body should be greater than or equal to 1"),
        (
            {"scaling": {"maxReplicas": 1, "mode": "auto"}},
            'spec.scaling.mode: Unsupported value: "auto": supported values: "Auto", "Hold", "Manual"',
        ),
        ({"timeout": "5"}, "spec.timeout in body should match '^([0-9]{1,5}(h|m|s|ms)){1,4}$'"),
    ],
)
def test_what_a_person_reads_of_a_mistake(
    api_server: ApiServer, bullpen_api: Api, namespace: str, spec: dict[str, Any], said: str
):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        api_server.kubectl("create", "-f", "-", stdin=json.dumps(queue(namespace, spec)))
    assert failed.value.stderr.startswith('The JobQueue "emails" is invalid: ')
    assert said in failed.value.stderr


# -- kubectl get ---------------------------------------------------------------

STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {"type": name, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2027-01-02T03:04:05Z"}
        for name, status, reason in [("Paused", "False", "No"), ("Ready", "True", "AsDeclared")]
    ],
    "replicas": 3,
    "selector": "bullpen.dev/jobqueue=emails",
    "queue": {"name": "emails", "prefix": "shop"},
    "jobs": {"waiting": 120, "prioritized": 7, "delayed": 2, "active": 30, "completed": 5, "failed": 4, "paused": 0},
    "oldestJobTime": "2020-01-02T03:04:05Z",
    "scaling": {"desiredReplicas": 12, "reason": "JobsWaiting", "message": "120 jobs", "decidedTime": None},
}


def table(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_columns(api_server: ApiServer, bullpen_api: Api, namespace: str):
    bullpen_api.create(queue(namespace, LEAST))
    with_status(bullpen_api, namespace, "emails", STATUS)
    head, row = table(api_server.kubectl("get", "jobq", "-n", namespace))
    assert head == ["NAME", "READY", "WAITING", "ACTIVE", "FAILED", "REPLICAS", "DESIRED", "OLDEST", "AGE"]
    assert row[:7] == ["emails", "True", "120", "30", "4", "3", "12"]
    assert re.fullmatch(r"[0-9]+y([0-9]+d)?", row[7])  # a date is shown as an age
    assert re.fullmatch(r"[0-9]+s", row[8])
    head, row = table(api_server.kubectl("get", "jobqueue", "-n", namespace, "-o", "wide"))
    assert head[9:] == ["REASON", "PRIORITIZED", "DELAYED", "MODE", "MAX", "SCALING", "QUEUE", "PREFIX"]
    assert row[9:] == ["AsDeclared", "7", "2", "Auto", "20", "JobsWaiting", "emails", "shop"]


def test_a_new_queue_has_no_counts_yet(api_server: ApiServer, bullpen_api: Api, namespace: str):
    bullpen_api.create(queue(namespace, {}))
    _, row = table(api_server.kubectl("get", "jobq", "-n", namespace))
    assert row[0] == "emails"
    assert len(row) == 2  # its name and its age


def test_columns_of_connections(api_server: ApiServer, bullpen_api: Api, namespace: str):
    spec = {"endpoints": crd_cases.ENDPOINTS, "allowedNamespaces": {"selector": {}}}
    shared = an_object("ClusterRedisConnection", spec, name=namespace)
    shared["metadata"]["annotations"] = {"bullpen.dev/default": "true"}
    bullpen_api.create(shared)
    status = {"version": "7.4.1", "usedBy": 3, "conditions": STATUS["conditions"]}
    bullpen_api.patch(API_VERSION, "ClusterRedisConnection", "", namespace, {"status": status}, subresource="status")
    head, row = table(api_server.kubectl("get", "clusterredisconnection", namespace))
    assert head == ["NAME", "READY", "TOPOLOGY", "VERSION", "USED BY", "DEFAULT", "AGE"]
    assert row[:6] == [namespace, "True", "Standalone", "7.4.1", "3", "true"]


def test_categories(api_server: ApiServer, bullpen_api: Api, namespace: str):
    bullpen_api.create(queue(namespace, {}))
    bullpen_api.create(an_object("RedisConnection", {"endpoints": crd_cases.ENDPOINTS}, "shop", namespace))
    assert "jobqueue.bullpen.dev/emails" in api_server.kubectl("get", "all", "-n", namespace, "-o", "name")
    ours = api_server.kubectl("get", "bullpen", "-n", namespace, "-o", "name")
    assert {"jobqueue.bullpen.dev/emails", "redisconnection.bullpen.dev/shop"} <= set(ours.split())


# -- kubectl explain -----------------------------------------------------------


def mappings(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each mapping with named fields, and the path by which explain knows it."""
    if "properties" in schema:
        yield path, schema
        for name, child in schema["properties"].items():
            yield from mappings(child, f"{path}.{name}")
    elif "items" in schema:
        yield from mappings(schema["items"], path)
    elif "additionalProperties" in schema:
        yield from mappings(schema["additionalProperties"], path)


def explained() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, envelope in crd.ENVELOPES.items():
        [version] = crd.definition(kind)["spec"]["versions"]  # type: ignore[index,call-overload]
        for field in ("spec", "status"):
            schema = version["schema"]["openAPIV3Schema"]["properties"][field]  # type: ignore[call-overload,index]
            for path, node in mappings(schema, field):
                if kind != "ClusterRedisConnection" or "allowedNamespaces" in (path + str(node["properties"].keys())):
                    yield f"{envelope.plural}.{path}", node


@pytest.mark.parametrize(("path", "node"), list(explained()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_field_is_explained(api_server: ApiServer, bullpen_api: Api, path: str, node: dict[str, Any]):
    said = " ".join(api_server.kubectl("explain", path).split())
    assert " ".join(node["description"].split()) in said
    for name, child in node["properties"].items():
        text = " ".join(child["description"].split())
        assert re.search(rf" {name} <[^>]*>( -required-)?( enum: [^>]*?)? {re.escape(text)}", said), (name, text)


# -- scale ---------------------------------------------------------------------


def test_kubectl_scale(api_server: ApiServer, bullpen_api: Api, namespace: str):
    bullpen_api.create(queue(namespace, {"worker": crd_cases.WORKER}))
    api_server.kubectl("scale", "jobq/emails", "--replicas=4", "-n", namespace)
    assert bullpen_api.get(API_VERSION, "JobQueue", namespace, "emails")["spec"]["replicas"] == 4
    with_status(bullpen_api, namespace, "emails", STATUS)
    scale = bullpen_api.get(API_VERSION, "JobQueue", namespace, "emails", subresource="scale")
    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {"replicas": 3, "selector": "bullpen.dev/jobqueue=emails"}


def test_scale_of_a_queue_that_names_no_number(bullpen_api: Api, namespace: str):
    bullpen_api.create(queue(namespace, {}))
    scale = bullpen_api.get(API_VERSION, "JobQueue", namespace, "emails", subresource="scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 0})


def test_scale_is_bounded(api_server: ApiServer, bullpen_api: Api, namespace: str):
    bullpen_api.create(queue(namespace, {}))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        api_server.kubectl("scale", "jobq/emails", "--replicas=10001", "-n", namespace)
    assert "should be less than or equal to 10000" in failed.value.stderr


def test_status_is_the_operators_and_spec_the_users(bullpen_api: Api, namespace: str):
    stored = bullpen_api.create({**queue(namespace, {}), "status": STATUS})
    assert "status" not in stored
    changed = {"spec": {"closed": True}, "status": STATUS}
    bullpen_api.patch(API_VERSION, "JobQueue", namespace, "emails", changed, subresource="status")
    stored = bullpen_api.get(API_VERSION, "JobQueue", namespace, "emails")
    assert stored["spec"]["closed"] is False
    assert stored["status"]["replicas"] == 3
    assert stored["metadata"]["generation"] == 1
    status = JobQueue.model_validate(stored).status
    assert status is not None
    assert status.jobs is not None
    assert status.jobs.waiting == 120


# -- lists as maps -------------------------------------------------------------


def test_two_managers_share_the_lists(bullpen_api: Api, namespace: str):
    def applied(manager: str, spec: dict[str, Any]) -> dict[str, Any]:
        spec = {"schedules": [], "jobs": [], **spec}
        stored: dict[str, Any] = bullpen_api.apply(queue(namespace, spec), manager=manager, force=False)["spec"]
        return stored

    sweep = {"name": "sweep", "every": "5m", "job": "sweep"}
    worker = {**crd_cases.WORKER, "env": [{"name": "A", "value": "1"}]}
    applied("gitops", {"schedules": [crd_cases.CRON], "jobs": [{"name": "charge", "timeout": "30s"}], "worker": worker})
    both = applied(
        "team",
        {"schedules": [sweep], "jobs": [{"name": "mail"}], "worker": {**crd_cases.WORKER, "env": [{"name": "B"}]}},
    )
    assert [each["name"] for each in both["schedules"]] == ["digest", "sweep"]
    assert [each["name"] for each in both["jobs"]] == ["charge", "mail"]
    assert [each["name"] for each in both["worker"]["env"]] == ["A", "B"]

    with pytest.raises(ApiError, match="conflict") as conflict:
        applied("team", {"schedules": [{**crd_cases.CRON, "cron": "0 9 * * 1"}]})
    assert '.spec.schedules[name="digest"].cron' in conflict.value.message

    left = applied("gitops", {"worker": worker})  # what it applied before, and no longer does, goes; the team's stays
    assert [each["name"] for each in left["schedules"]] == ["sweep"]
    assert left["jobs"] == [{"name": "mail"}]


def test_what_is_applied_twice_changes_nothing(bullpen_api: Api, namespace: str):
    spec = {**LEAST, "schedules": [crd_cases.CRON], "retry": {"attempts": 5}}
    first = bullpen_api.apply(queue(namespace, spec))
    again = bullpen_api.apply(queue(namespace, spec))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert again["metadata"]["generation"] == 1


# -- as large as it may be -----------------------------------------------------


def test_the_largest_object_is_within_the_rules_budget(bullpen_api: Api, namespace: str):
    """Rules have a budget at run time, too: all lists full, every rule with the most to do."""
    longest = "9" * 5 + "s"
    backoff = {"type": "Linear", "delay": longest, "maxDelay": longest * 4, "factor": "99.999", "jitter": "100%"}
    spec = {
        "retry": {"backoff": {"type": "Fixed"}},
        "jobs": [
            {"name": f"{number:0>200}", "timeout": longest, "retry": {"backoff": backoff}} for number in range(256)
        ],
        "priorities": {"levels": {f"{number:a>63}": 1 for number in range(64)}, "default": "a" * 62 + "1"},
        "schedules": [
            {
                "name": f"{number:a>63}", "cron": "0 8 * * 1" + ",1" * 95, "timeZone": "E" * 64, "job": "j" * 200,
                "startingDeadline": longest, "data": {"a": "b"},
            }
            for number in range(256)
        ],
        "worker": {
            **crd_cases.WORKER,
            "handlers": ["a" * 253] * 64,
            "env": [{"name": f"{number:a>63}", "value": "x" * 100} for number in range(256)],
        },
        "scaling": {
            "maxReplicas": 10_000,
            "windows": [
                {**crd_cases.WINDOW, "name": f"{number:a>63}", "minReplicas": 10_000} for number in range(64)
            ],
        },
    }  # fmt: skip
    stored = bullpen_api.create(queue(namespace, spec))
    assert files.validate(stored).spec == files.validate(queue(namespace, spec)).spec


def test_an_object_beyond_all_sizes_is_refused_whole(bullpen_api: Api, namespace: str):
    spec = {"payloadSchema": {"description": "x" * 4_000_000}}
    with pytest.raises(ApiError) as refused:
        bullpen_api.create(queue(namespace, spec))
    assert refused.value.status in {400, 413}
