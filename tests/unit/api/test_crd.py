"""The CRDs by themselves: structural, bounded, complete, and written down as the models have them today.

What an API server makes of them is seen in tests/cluster.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from bullpen.api import crd
from bullpen.api.crd.structural import schema_of
from bullpen.api.v1alpha1 import KINDS, JobQueue
from bullpen.api.v1alpha1.base import Model
from bullpen.api.v1alpha1.rules import Breach, Rule, Violation, rule, rules_of
from tests.docs.pages import ROOT

KNOWN = {
    "type", "format", "description", "enum", "default", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "required", "properties", "additionalProperties", "items", "minItems", "maxItems", "minProperties", "maxProperties",
    "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys", "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations",
}  # fmt: skip

kinds = pytest.mark.parametrize("kind", crd.ENVELOPES)


def version(kind: str) -> dict[str, Any]:
    [version] = crd.definition(kind)["spec"]["versions"]  # type: ignore[index,call-overload]
    return dict(version)


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def schema(kind: str) -> dict[str, Any]:
    return dict(version(kind)["schema"]["openAPIV3Schema"])


@kinds
def test_is_small(kind: str):
    assert len(json.dumps(crd.definition(kind))) < crd.LARGEST
    assert len(crd.to_yaml([crd.definition(kind)])) < crd.LARGEST


@kinds
def test_every_node_is_structural(kind: str):
    for path, node in nodes(schema(kind)):
        assert node.keys() <= KNOWN, path
        assert node.get("type") in {"object", "array", "string", "integer", "boolean"} or (
            node.get("x-kubernetes-int-or-string") and "type" not in node
        ), path
        assert not ("properties" in node and "additionalProperties" in node), path


@kinds
def test_every_field_is_described(kind: str):
    for path, node in nodes(schema(kind)):
        if path and not path.endswith(("[]", ".*")) and not path.startswith("metadata"):
            assert node["description"].endswith((".", ")")), path


@kinds
def test_everything_is_bounded(kind: str):
    for path, node in nodes(schema(kind)):
        if path.startswith(("metadata", "apiVersion", "kind")):
            continue
        match node.get("type"):
            case "string" if "enum" not in node and node.get("format") != "date-time":
                assert "maxLength" in node, path
            case "array":
                assert "maxItems" in node, path
                assert "x-kubernetes-list-type" in node, path
            case "object" if "properties" not in node:
                assert "maxProperties" in node, path
            case "integer" if path.startswith("spec"):
                assert {"minimum", "maximum"} <= node.keys(), path


@kinds
def test_no_defaults_in_the_entries_of_a_list(kind: str):
    for path, node in nodes(schema(kind)):
        assert "[]" not in path or "default" not in node, path


def test_nothing_is_filled_in_whose_presence_means_something():
    filled_in = {path for path, node in nodes(schema("JobQueue")) if "default" in node and node.get("type") == "object"}
    assert filled_in == {
        "spec", "spec.concurrency", "spec.retry", "spec.retry.backoff", "spec.limits", "spec.retention", "spec.recovery",
        "spec.retention.completed", "spec.retention.failed", "spec.unknownHandler", "spec.worker.strategy", "spec.deletion",
    }  # fmt: skip


@kinds
def test_defaults_are_those_of_the_models(kind: str):
    """What the API server fills in changes nothing of what is in effect."""
    least: dict[str, Any] = {"kind": kind, "apiVersion": "bullpen.dev/v1alpha1", "metadata": {"name": "a"}, "spec": {}}
    if kind != "JobQueue":
        least["spec"] = {"endpoints": ["redis://r:6379"], "allowedNamespaces": {"selector": {}}}
        if kind == "RedisConnection":
            del least["spec"]["allowedNamespaces"]
    model = KINDS[kind]
    filled_in = {**least, "spec": {**schema(kind)["properties"]["spec"].get("default", {}), **least["spec"]}}
    assert model.model_validate(filled_in).spec == model.model_validate(least).spec


def test_defaults_are_text_as_yaml_has_it():
    spec = schema("JobQueue")["properties"]["spec"]["properties"]
    assert spec["timeout"]["default"] == "10m"
    assert spec["retention"]["default"] == {
        "completed": {"age": "24h", "count": 1000},
        "failed": {"age": "168h", "count": 10000},
    }
    assert spec["replicas"]["default"] == 1


def test_explain_says_what_is_taken_and_the_default():
    spec = schema("JobQueue")["properties"]["spec"]["properties"]
    assert spec["timeout"]["description"] == (
        "Longest time of one attempt; one that takes longer fails. Takes a duration above zero, such as "
        '"500ms", "30s", "5m" or "1h30m". Default: 10m.'
    )
    assert spec["retry"]["properties"]["backoff"]["properties"]["factor"]["description"].endswith('Default: "2".')


def test_the_envelope():
    made = crd.definition("JobQueue")["spec"]
    assert isinstance(made, dict)
    assert made["names"] == {
        "kind": "JobQueue",
        "listKind": "JobQueueList",
        "plural": "jobqueues",
        "singular": "jobqueue",
        "shortNames": ["jobq"],
        "categories": ["all", "bullpen"],
    }
    columns = [column["name"] for column in version("JobQueue")["additionalPrinterColumns"] if "priority" not in column]
    assert columns == ["Ready", "Waiting", "Active", "Failed", "Replicas", "Desired", "Oldest", "Age"]
    assert version("JobQueue")["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    assert crd.definition("ClusterRedisConnection")["spec"]["scope"] == "Cluster"  # type: ignore[index,call-overload]


@kinds
def test_columns_and_subresources_point_at_fields(kind: str):
    fields = {path for path, _ in nodes(schema(kind))}
    paths = [column["jsonPath"] for column in version(kind)["additionalPrinterColumns"]]
    paths += version(kind)["subresources"].get("scale", {}).values()
    for path in paths:
        field = path.lstrip(".").replace('[?(@.type=="', "[]").partition("[]")
        assert path.startswith(".metadata.") or field[0] in fields, path


@pytest.mark.parametrize("file", ["manifests/crd.yaml", "charts/bullpen/files/crds/crd.yaml"])
def test_what_is_written_down_is_what_the_models_say(file: str):
    text = crd.to_yaml(crd.definitions().values())
    assert (ROOT / file).read_text(encoding="utf-8") == text, "run: make crds"
    assert list(yaml.safe_load_all(text)) == list(crd.definitions().values())


# -- what no CRD can say raises ------------------------------------------------


def held(annotation: Any, **field: Any) -> dict[str, Any]:
    inner = type(
        "Inner", (Model,), {"__annotations__": {"field": annotation}, "field": Field(description="F.", **field)}
    )
    outer = type("Outer", (Model,), {"__annotations__": {"spec": inner}, "spec": Field(description="S.")})
    return schema_of(outer, "spec")


class Item(Model):
    """An entry."""

    size: int = 3


class Tree(Model):
    """Contains itself."""

    below: "Tree | None" = None


@pytest.mark.parametrize(
    ("annotation", "field", "message"),
    [
        (int | str, {}, "spec.field is one of several types"),
        (float, {}, "spec.field has the type number"),
        (dict[str, Any], {}, "spec.field is a mapping of anything"),
        (Any, {}, "spec.field has no type"),
        (set[str], {}, "spec.field has uniqueItems"),
        (tuple[int, str], {}, "spec.field has prefixItems"),
        (int, {"gt": 3}, "spec.field has exclusiveMinimum"),
        (bytes, {}, "spec.field has the format binary"),
        (tuple[Item, ...], {}, "spec.field[].size has a default inside of a list's entries"),
        (int | None, {"default": 3}, "spec.field may be absent and has a default"),
        (Tree, {}, "spec.field.below contains itself"),
        (int, {"examples": [3]}, "spec.field has examples"),
    ],
)
def test_refused(annotation: Any, field: dict[str, Any], message: str):
    with pytest.raises(crd.CrdError) as raised:
        held(annotation, **field)
    assert message in str(raised.value)


# -- rules ---------------------------------------------------------------------


class Bounds(Model):
    """Two numbers."""

    low: int = 0
    high: int = 9

    @rule("self.low <= self.high", "must not be above `high`", at="low")
    def _are_in_order(self) -> bool:
        return self.low <= self.high

    @rule("self.high < 100", "is too much", reason="Forbidden")
    def _are_small(self) -> Iterator[Breach]:
        if self.high >= 100:
            yield Breach(("high",), self.high, detail="this ", hint=": take less")


class More(Bounds):
    """And another."""

    @rule("self.low != 3", "is not three")
    def _is_not_three(self) -> bool:
        return self.low != 3


def broken(model: type[Model], **values: int) -> list[Violation]:
    return list(model.model_construct(**values).violations())


def test_a_rule_is_stated_once_and_read_twice():
    assert broken(Bounds, low=3, high=2) == [Violation(("low",), "must not be above `high`")]
    assert broken(Bounds, low=3, high=100) == [Violation(("high",), "this is too much: take less", 100)]
    assert broken(Bounds, low=1, high=2) == []
    assert [each.as_validation() for each in rules_of(Bounds)] == [
        {"rule": "self.low <= self.high", "message": "must not be above `high`", "fieldPath": ".low"},
        {"rule": "self.high < 100", "message": "is too much", "reason": "FieldValueForbidden"},
    ]


def test_rules_are_inherited():
    assert [each.method for each in rules_of(More)] == ["_are_in_order", "_are_small", "_is_not_three"]
    assert broken(More, low=3, high=2) == [
        Violation(("low",), "must not be above `high`"),
        Violation((), "is not three"),
    ]


def all_rules() -> list[Rule]:
    found: dict[Rule, None] = {}
    pending: list[type[BaseModel]] = Model.__subclasses__()
    while pending:
        model = pending.pop()
        pending += model.__subclasses__()
        if model.__module__.startswith("bullpen."):
            found |= dict.fromkeys(rules_of(model))
    return list(found)


@pytest.mark.parametrize("stated", all_rules(), ids=lambda stated: stated.method)
def test_every_rule_reaches_a_crd(stated: Rule):
    written = [
        entry
        for kind in crd.ENVELOPES
        for _, node in nodes(schema(kind))
        for entry in node.get("x-kubernetes-validations", [])
    ]
    assert stated.as_validation() in written


def test_a_change_of_the_queue_is_refused():
    def named(queue: str | None) -> JobQueue:
        return JobQueue.model_validate({"metadata": {"name": "emails"}, "spec": {"queueName": queue} if queue else {}})

    assert list(named("emails").refused_changes(named(None))) == []
    [refused] = named("mails").refused_changes(named(None))
    assert (refused.at, refused.message) == (
        ("spec", "queueName"),
        "is immutable: make another JobQueue for another queue",
    )
