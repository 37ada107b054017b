"""Whether an object is as it is to be."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen_operator.desired.differences import differs, marked, quantity

WANTED = marked(
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", "labels": {"x": "1"}},
        "spec": {
            "strategy": {"rollingUpdate": {"maxUnavailable": 0}},
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "worker",
                            "args": ["a", "b"],
                            "env": [{"name": "A", "value": ""}, {"name": "B", "value": "2"}],
                            "resources": {"limits": {"cpu": "1000m", "memory": "1Gi"}},
                        }
                    ]
                }
            },
        },
    }
)


def live(change=lambda _: None):
    made = copy.deepcopy(WANTED)
    worker = made["spec"]["template"]["spec"]["containers"][0]
    # What the API server makes of it: defaults, canonical quantities, empty values left out.
    made["spec"]["replicas"] = 3
    worker["terminationMessagePath"] = "/dev/log"
    worker["resources"]["limits"]["cpu"] = "1"
    del worker["env"][0]["value"]
    change(made)
    return made


def worker_of(made):
    return made["spec"]["template"]["spec"]["containers"][0]


def test_what_the_api_server_adds_and_rewrites_is_no_difference():
    assert differs(WANTED, live()) == ""


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda made: worker_of(made).update(image="x"), ""),
        (lambda made: worker_of(made)["env"].append({"name": "C", "value": "3"}), ""),
        (lambda made: made["metadata"]["labels"].update(y="2"), ""),
        (
            lambda made: worker_of(made)["env"][1].update(value="9"),
            "spec.template.spec.containers[worker].env[B].value",
        ),
        (lambda made: worker_of(made)["args"].append("c"), "spec.template.spec.containers[worker].args"),
        (
            lambda made: worker_of(made)["resources"]["limits"].update(cpu="2"),
            "spec.template.spec.containers[worker].resources.limits.cpu",
        ),
        (lambda made: made["metadata"]["labels"].clear(), "metadata.labels.x"),
        (
            lambda made: made["spec"]["template"]["spec"].update(containers=[]),
            "spec.template.spec.containers[worker].name",
        ),
        (lambda made: made["metadata"]["annotations"].update({"bullpen.dev/applied": "0"}), "wanted otherwise"),
    ],
)
def test_what_others_add_stays_and_what_they_change_is_found(change, found):
    assert differs(WANTED, live(change)) == found


def test_what_is_not_there_differs():
    assert differs(WANTED, None) == "missing"


def test_the_mark_tells_of_fields_that_are_no_longer_wanted():
    fewer = copy.deepcopy(WANTED)
    del fewer["metadata"]["annotations"]
    worker_of(fewer)["env"].pop()
    assert differs(marked(fewer), live()) == "wanted otherwise"


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1000m"), (1, "1"), ("0.5", "500m"), ("1Gi", "1024Mi"), ("1e3", "1k"), ("1G", "1000M"), ("2", 2)],
)
def test_amounts_that_are_alike(one, other):
    assert quantity(one) == quantity(other)


@given(st.text(max_size=8) | st.booleans() | st.none() | st.lists(st.integers()))
def test_reading_an_amount_never_raises(value):
    quantity(value)
