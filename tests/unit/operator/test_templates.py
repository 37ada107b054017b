"""How a podTemplate is merged over ours."""

import pytest

from bullpen_operator.desired.differences import differs, marked
from bullpen_operator.desired.templates import merge, merge_pod_template

OURS = {
    "metadata": {"labels": {"bullpen.dev/jobqueue": "emails"}, "annotations": {"a": "1"}},
    "spec": {
        "containers": [{"name": "worker", "image": "shop:1", "env": [{"name": "A", "value": "1"}], "args": ["x", "y"]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001},
    },
}


def container(**fields):
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


@pytest.mark.parametrize(
    ("theirs", "path", "expected"),
    [
        ({"spec": {"nodeSelector": {"disk": "ssd"}}}, ("spec", "nodeSelector"), {"disk": "ssd"}),
        (
            {"spec": {"securityContext": {"runAsUser": 7}}},
            ("spec", "securityContext"),
            {"runAsNonRoot": True, "runAsUser": 7},
        ),
        ({"spec": {"securityContext": {"runAsUser": None}}}, ("spec", "securityContext"), {"runAsNonRoot": True}),
        (
            {"spec": {"volumes": [{"name": "data", "emptyDir": {}}]}},
            ("spec", "volumes"),
            [{"name": "tmp", "emptyDir": {}}, {"name": "data", "emptyDir": {}}],
        ),
        (
            {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}},
            ("spec", "volumes"),
            [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        ),
        (container(args=["z"]), ("spec", "containers", 0, "args"), ["z"]),
        (
            container(env=[{"name": "B", "value": "2"}, {"name": "A", "value": "9"}]),
            ("spec", "containers", 0, "env"),
            [{"name": "A", "value": "9"}, {"name": "B", "value": "2"}],
        ),
        (container(image="other:1"), ("spec", "containers", 0, "env"), [{"name": "A", "value": "1"}]),
        ({"spec": {"tolerations": [{"key": "gpu"}]}}, ("spec", "tolerations"), [{"key": "gpu"}]),
        (
            {"metadata": {"labels": {"team": "shop"}}},
            ("metadata", "labels"),
            {"bullpen.dev/jobqueue": "emails", "team": "shop"},
        ),
        (
            {"metadata": {"labels": {"bullpen.dev/jobqueue": "x"}}},
            ("metadata", "labels"),
            {"bullpen.dev/jobqueue": "emails"},
        ),
        ({"metadata": {"labels": None}}, ("metadata", "labels"), {"bullpen.dev/jobqueue": "emails"}),
        (
            {"metadata": {"name": "x", "annotations": {"b": "2"}}},
            ("metadata",),
            {"labels": {"bullpen.dev/jobqueue": "emails"}, "annotations": {"a": "1", "b": "2"}},
        ),
    ],
)
def test_each_rule(theirs, path, expected):
    merged = merge_pod_template(OURS, theirs)
    for part in path:
        merged = merged[part]
    assert merged == expected


def test_a_sidecar_is_added_and_ours_stays_the_first():
    merged = merge_pod_template(OURS, {"spec": {"containers": [{"name": "proxy", "image": "p:1"}]}})
    assert [each["name"] for each in merged["spec"]["containers"]] == ["worker", "proxy"]


def test_tolerations_are_added_to_ours():
    assert merge({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}) == {
        "tolerations": [{"key": "a"}, {"key": "b"}]
    }


def test_neither_side_is_changed():
    theirs = container(env=[{"name": "B", "value": "2"}])
    merge_pod_template(OURS, theirs)
    assert OURS["spec"]["containers"][0]["env"] == [{"name": "A", "value": "1"}]
    assert theirs == container(env=[{"name": "B", "value": "2"}])


def test_ports_of_one_number_are_told_apart_by_their_protocol():
    ports = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}]
    merged = merge_pod_template(OURS, {"spec": {"containers": [{"name": "dns", "ports": ports}]}})
    assert merged["spec"]["containers"][1]["ports"] == ports


@pytest.mark.parametrize("name", [{"a": 1}, ["a"], None, 1.5])
def test_names_that_are_none_are_left_for_the_api_server_to_refuse(name):
    merged = merge_pod_template(OURS, {"spec": {"containers": [{"name": name}], "volumes": [{"name": name}]}})
    assert merged["spec"]["volumes"] == [{"name": name}]
    wanted = marked({"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": merged}})
    assert differs(wanted, wanted) == ""
