"""What the API server refuses, the models refuse, and the other way: side by side, for the same reason, at the same field."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from bullpen.api import checks, crd, explain, files
from bullpen.api.v1alpha1 import KINDS, JobQueue
from bullpen.api.v1alpha1.base import RULE_ERROR, Model
from bullpen.api.v1alpha1.rules import Rule, Violation, rules_of
from tests.cluster import crd_cases
from tests.cluster.crd_cases import Case, an_object
from tests.support.kubernetes.api import Api, ApiError


@pytest.fixture(autouse=True)
def shop(bullpen_api: Api) -> str:
    return bullpen_api.namespace("shop")


def all_rules() -> dict[Rule, type[BaseModel]]:
    found: dict[Rule, type[BaseModel]] = {}
    pending: list[type[BaseModel]] = Model.__subclasses__()
    while pending:
        model = pending.pop()
        pending += model.__subclasses__()
        if model.__module__.startswith("bullpen."):
            found |= dict.fromkeys(rules_of(model), model)
    return found


def broken_in_models(obj: dict[str, Any]) -> list[tuple[str, str]]:
    """The rules that the models find broken: field and message."""
    try:
        files.validate(obj)
    except ValidationError as error:
        found: list[tuple[str, str]] = []
        for details in error.errors(include_url=False):
            assert details["type"] == RULE_ERROR, details
            violations: tuple[Violation, ...] = details["ctx"]["violations"]
            found += [(explain.of_violation(each, details["loc"])[1].field, each.message) for each in violations]
        return found
    return []


def refused(api: Api, obj: dict[str, Any]) -> ApiError | None:
    try:
        api.create(obj, dry_run=True)
    except ApiError as error:
        return error
    return None


def causes(error: ApiError) -> list[dict[str, str]]:
    return [dict(cause) for cause in error.body["details"]["causes"]]


@pytest.mark.parametrize("case", crd_cases.RULES, ids=lambda case: json.dumps(case.spec)[:90])
def test_each_rule_says_the_same_on_both_sides(bullpen_api: Api, case: Case):
    expected = {name: [each for each in all_rules() if each.method == name] for name in case.breaks}
    assert all(expected.values())

    by_models = broken_in_models(case.object())
    assert len(by_models) == len(expected)
    for stated in expected.values():
        assert any(rule.message in message for _, message in by_models for rule in stated)

    error = refused(bullpen_api, case.object())
    assert (error is None) == (not expected), error
    if error is not None:
        assert error.status == 422
        by_server = causes(error)
        assert len(by_server) == len(expected), error
        for stated in expected.values():
            assert any(rule.message in cause["message"] for cause in by_server for rule in stated), error
        for cause in by_server:  # a list's entry is named by one side only: a rule's place is fixed in a CRD
            assert any(field.startswith(cause["field"]) for field, _ in by_models), (error, by_models)


def test_every_rule_has_cases_of_both_kinds():
    broken = {name for case in crd_cases.RULES for name in case.breaks}
    assert broken == {rule.method for rule in all_rules() if not rule.is_transition}


@pytest.mark.parametrize("spec", crd_cases.ACCEPTED, ids=lambda spec: json.dumps(spec)[:90])
def test_both_take(bullpen_api: Api, spec: dict[str, Any]):
    obj = an_object("JobQueue", spec)
    stored = bullpen_api.create(obj, dry_run=True)
    assert files.validate(stored).spec == files.validate(obj).spec


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *(("JobQueue", field, value) for field, value in crd_cases.REFUSED),
        *(("RedisConnection", field, value) for field, value in crd_cases.REFUSED_CONNECTIONS),
        ("ClusterRedisConnection", "prefix", "bull"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_both_refuse(bullpen_api: Api, kind: str, field: str, value: Any):
    spec = {} if kind == "JobQueue" else {"endpoints": crd_cases.ENDPOINTS}
    obj = an_object(kind, {**spec, field: value})
    error = refused(bullpen_api, obj)
    assert error is not None
    assert error.status in {400, 422}
    with pytest.raises(ValidationError):
        files.validate(obj)


@pytest.mark.parametrize("endpoint", ["redis://me:hunter2@r:6379", "redis://r:6379?password=hunter2"])
def test_a_password_in_an_endpoint_is_not_shown(bullpen_api: Api, endpoint: str):
    error = refused(bullpen_api, an_object("RedisConnection", {"endpoints": [endpoint]}))
    assert error is not None
    assert "without user and password" in error.message
    assert "hunter2" not in json.dumps(error.body)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "is_taken"),
    [("a", True), ("a" * 45, True), ("a" * 46, False), ("a" * 64, False), ("a.b", False), ("A", False), ("-a", False)],
)
def test_names(bullpen_api: Api, kind: str, name: str, is_taken: bool):
    if len(name) == 46 and kind != "JobQueue":
        is_taken = True
    spec: dict[str, Any] = {} if kind == "JobQueue" else {"endpoints": crd_cases.ENDPOINTS}
    if kind == "ClusterRedisConnection":
        spec["allowedNamespaces"] = {"selector": {}}
    obj = an_object(kind, spec, name)
    error = refused(bullpen_api, obj)
    assert (error is None) == is_taken
    if is_taken:
        files.validate(obj)
    else:
        assert "metadata.name" in error.message
        with pytest.raises(ValidationError):
            files.validate(obj)


# -- changes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "is_taken"),
    [
        (None, None, True),
        (None, "orders", True),
        ("orders", None, True),
        ("mails", "mails", True),
        (None, "mails", False),
        ("mails", None, False),
        ("mails", "orders", False),
    ],
)
def test_a_queue_keeps_its_name(
    bullpen_api: Api, namespace: str, before: str | None, after: str | None, is_taken: bool
):
    def named(queue: str | None) -> dict[str, Any]:
        return an_object("JobQueue", {"queueName": queue} if queue else {}, "orders", namespace)

    bullpen_api.apply(named(before))
    try:
        bullpen_api.apply(named(after))
        error = None
    except ApiError as raised:
        error = raised
    assert (error is None) == is_taken
    of_models = list(JobQueue.model_validate(named(after)).refused_changes(JobQueue.model_validate(named(before))))
    assert (not of_models) == is_taken
    if error is not None:
        [cause] = causes(error)
        assert cause["field"] == "spec.queueName"
        assert of_models[0].message in cause["message"]


# -- what neither says: the checks beside the models ---------------------------

ONLY_CHECKS: list[tuple[str, dict[str, Any]]] = [
    ("spec.schedules[0].cron", {"schedules": [{**crd_cases.CRON, "cron": "0 25 * * *"}]}),
    ("spec.schedules[0].cron", {"schedules": [{**crd_cases.CRON, "cron": "0 8 30 2 *"}]}),
    ("spec.schedules[0].timeZone", {"schedules": [{**crd_cases.CRON, "timeZone": "Europe/Berlim"}]}),
    (
        "spec.scaling.windows[0].schedule",
        {"scaling": {"maxReplicas": 9, "windows": [{**crd_cases.WINDOW, "schedule": "0 8 * * 8"}]}},
    ),
    (
        "spec.scaling.windows[0].timeZone",
        {"scaling": {"maxReplicas": 9, "windows": [{**crd_cases.WINDOW, "timeZone": "Mars/Base"}]}},
    ),
    ("spec.payloadSchema.type", {"payloadSchema": {"type": "thing"}}),
    ("spec.payloadSchema.$ref", {"payloadSchema": {"$ref": "https://example.com/schema"}}),
    ("spec.payloadSchema", {"payloadSchema": {"$defs": {"a": {"$ref": "#/$defs/a"}}}}),
]
"""All that is an error and that no API server can know: it is said by `Ready=False` and by `bullpen check`."""


@pytest.mark.parametrize(("field", "spec"), ONLY_CHECKS, ids=lambda value: json.dumps(value)[:60])
def test_what_only_the_checks_can_say(bullpen_api: Api, field: str, spec: dict[str, Any]):
    stored = bullpen_api.create(an_object("JobQueue", spec), dry_run=True)
    errors = [each for each in checks.check(files.validate(stored)) if each.severity == "error"]
    assert any(each.field.startswith(field) for each in errors), errors


def test_a_stored_object_is_not_warned_of_what_the_server_filled_in(bullpen_api: Api):
    stored = bullpen_api.create(an_object("JobQueue", {"scaling": {"maxReplicas": 3}}), dry_run=True)
    assert stored["spec"]["replicas"] == 1
    assert checks.check(files.validate(stored)) == ()


def test_the_definitions_are_within_the_servers_budget(bullpen_api: Api):
    """They were accepted, so each rule's worst case is within what one rule may cost, and all together too."""
    for kind, envelope in crd.ENVELOPES.items():
        name = f"{envelope.plural}.{crd.GROUP}"
        stored = bullpen_api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name)
        conditions = {each["type"]: each["status"] for each in stored["status"]["conditions"]}
        assert conditions["Established"] == "True", kind
        assert conditions.get("NonStructuralSchema", "False") == "False", kind
