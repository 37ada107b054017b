"""Whose queue may be taken, and which finalizer a policy asks for."""

import datetime as dt

import pytest

from bullpen.api.v1alpha1 import JobQueue
from bullpen.queue.declaration import Owner
from bullpen_operator import deletion, specs
from bullpen_operator.kube import kinds
from bullpen_operator.ownership import may_take, owner_here

OWNER = Owner("here", "shop", "emails")


def obj(**metadata):
    return {"metadata": {"name": "emails", "namespace": "shop", "uid": "u", **metadata}}


@pytest.mark.parametrize(
    ("found", "annotation", "standing", "expected"),
    [
        ("", "", "unknown", True),
        ("here/shop/old", "", "gone", True),
        ("here/shop/old", "", "lives", False),
        ("here/shop/old", "here/shop/old", "lives", True),
        ("here/mail/old", "here/mail/old", "lives", False),
        ("here/mail/old", "here/mail/old", "unknown", True),
        ("here/mail/old", "", "gone", True),
        ("there/shop/old", "", "unknown", False),
        ("there/shop/old", "there/shop/old", "unknown", True),
        ("there/shop/old", "there/shop/older", "unknown", False),
        ("nonsense", "", "unknown", False),
        ("here/a/b/c", "", "unknown", False),
    ],
)
def test_a_queue_is_taken_from_the_dead_and_by_name(found, annotation, standing, expected):
    annotations = {"bullpen.dev/adopt": annotation} if annotation else {}
    assert may_take(obj(annotations=annotations), found, OWNER, standing) is expected


@pytest.mark.parametrize("cluster", ["here", "eu/prod"])
def test_an_owner_is_known_as_one_of_this_cluster(cluster):
    owner = Owner(cluster, "shop", "emails")
    assert owner_here(f"{cluster}/mail/old", owner) == ("mail", "old")
    assert owner_here(f"{cluster}/else/mail/old", owner) is None


@pytest.mark.parametrize(
    ("have", "policy", "expected"),
    [
        ([], "Retain", None),
        ([], "Drain", [kinds.FINALIZER]),
        ([kinds.FINALIZER], "Delete", None),
        ([kinds.FINALIZER, "other/one"], "Retain", ["other/one"]),
        (["other/one"], "Delete", ["other/one", kinds.FINALIZER]),
    ],
)
def test_finalizers(have, policy, expected):
    assert deletion.finalizers(obj(finalizers=have), policy) == expected


def test_the_timeout_counts_from_the_deletion():
    jobqueue = JobQueue.model_validate(
        {"metadata": {"name": "a"}, "spec": {"deletion": {"policy": "Drain", "timeout": "90s"}}}
    )
    found = deletion.deadline(obj(deletionTimestamp="2027-01-02T03:04:05Z"), jobqueue)
    assert found == dt.datetime(2027, 1, 2, 3, 5, 35, tzinfo=dt.UTC)


def read(**spec):
    return specs.read(
        {"apiVersion": "bullpen.dev/v1alpha1", "kind": "JobQueue", **obj(managedFields=[{"x": 1}]), "spec": spec}
    )


def test_a_field_of_a_newer_version_is_passed_over():
    found = read(novelty=True, retry={"attempts": 4})
    assert found.problem is None
    assert found.jobqueue.spec.retry.attempts == 4


def test_of_many_mistakes_some_are_shown():
    found = read(schedules=[{"name": f"s{n}", "cron": "61 * * * *", "job": "a"} for n in range(9)])
    assert found.jobqueue is None
    assert found.problem.reason == "InvalidSpec"
    assert "and 4 more" in found.problem.message


def test_what_is_not_done_yet_is_named_and_the_rest_is_used():
    found = read(deadLetter={"jobQueueRef": {"name": "dead"}})
    assert found.jobqueue is not None
    assert (found.problem.reason, "spec.deadLetter" in found.problem.message) == ("NotYet", True)


def test_a_spec_that_is_nested_too_deep_is_refused_before_anything_reads_it():
    deep: dict[str, object] = {}
    for _ in range(5_000):
        deep = {"a": [deep]}
    found = read(worker={"image": "a", "handlers": ["a"], "podTemplate": deep})
    assert found.jobqueue is None
    assert found.problem.message.startswith("spec.worker: is nested more than 100 levels deep")
