"""What the operator knows of the cluster."""

import pytest

from bullpen_operator.cache import Cache, replica_managers
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key


def pod(name, version, queue="emails", uid="u"):
    labels = {kinds.LABEL_JOBQUEUE: queue} if queue else {}
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": str(version), "labels": labels}
    }


@pytest.fixture
def heard():
    return []


@pytest.fixture
def cache(heard):
    made = Cache()
    made.subscribe(lambda change: heard.append((change.what, change.key.name, change.old is not None)))
    return made


def test_older_news_is_passed_over(cache, heard):
    assert cache.put(kinds.POD, pod("a", 5))
    assert not cache.put(kinds.POD, pod("a", 4))
    assert not cache.put(kinds.POD, pod("a", 5))
    assert cache.put(kinds.POD, pod("a", 6))
    assert heard == [("put", "a", False), ("put", "a", True)]


def test_pods_are_found_by_their_jobqueue_as_it_changes(cache):
    cache.put(kinds.POD, pod("a", 1))
    cache.put(kinds.POD, pod("b", 1))
    cache.put(kinds.POD, pod("b", 2, queue="other"))
    assert [each["metadata"]["name"] for each in cache.pods_of("shop", "emails")] == ["a"]
    cache.remove(Key(kinds.POD, "shop", "a"))
    assert list(cache.pods_of("shop", "emails")) == []
    assert len(list(cache.pods_of("shop", "other"))) == 1


def test_connections_are_found_by_their_namespace_as_they_come_and_go(cache):
    for namespace, name in (("shop", "a"), ("shop", "b"), ("desk", "a")):
        cache.put(kinds.REDIS_CONNECTION, {"metadata": {"name": name, "namespace": namespace, "resourceVersion": "1"}})
    changed = {"metadata": {"name": "a", "namespace": "shop", "resourceVersion": "2", "annotations": {"new": "yes"}}}
    cache.put(kinds.REDIS_CONNECTION, changed)
    assert {each["metadata"]["name"] for each in cache.connections_of("shop")} == {"a", "b"}
    assert changed in list(cache.connections_of("shop"))
    for name in ("a", "b"):
        cache.remove(Key(kinds.REDIS_CONNECTION, "shop", name))
    assert not list(cache.connections_of("shop"))
    assert len(list(cache.connections_of("desk"))) == 1


def test_one_that_was_made_anew_is_not_removed_by_news_of_the_old(cache):
    cache.put(kinds.POD, pod("a", 1, uid="old"))
    cache.put(kinds.POD, pod("a", 2, uid="new"))
    assert not cache.remove(Key(kinds.POD, "shop", "a"), uid="old")
    assert cache.remove(Key(kinds.POD, "shop", "a"), uid="new")


def test_a_list_takes_away_what_is_not_in_it_unless_that_is_newer(cache):
    for name, version in (("old", 3), ("new", 12), ("kept", 4)):
        cache.put(kinds.POD, pod(name, version))
    assert cache.replace_all(kinds.POD, [pod("kept", 4), pod("fresh", 9)], "10") == 2
    assert {each["metadata"]["name"] for each in cache.all(kinds.POD)} == {"new", "kept", "fresh"}


def test_managed_fields_are_dropped_but_for_who_owns_the_replicas(cache):
    made = pod("a", 1) | {"kind": "Deployment"}
    made["metadata"]["managedFields"] = [
        {"manager": "bullpen", "fieldsV1": {"f:spec": {"f:template": {}}}},
        {"manager": "bullpen-scaler", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
    ]
    cache.put(kinds.DEPLOYMENT, made)
    known = cache.get(kinds.DEPLOYMENT, "shop", "a")
    assert "managedFields" not in known["metadata"]
    assert replica_managers(known) == replica_managers(made) == {"bullpen-scaler"}


def test_what_has_gone_does_not_come_back_by_older_news(cache):
    key = Key(kinds.POD, "shop", "a")
    cache.put(kinds.POD, pod("a", 5))
    cache.remove(key, "u", "7")
    assert not cache.put(kinds.POD, pod("a", 6))  # the answer to a write of ours
    assert cache.replace_all(kinds.POD, [pod("a", 5)], "6") == 0  # a list that was on its way
    assert cache.get(*key) is None
    assert cache.put(kinds.POD, pod("a", 8))  # it carries again the label by which it is watched
    assert cache.put(kinds.POD, pod("b", 3, uid="another"))


def test_what_went_before_it_was_ever_seen_is_not_taken_from_a_list(cache):
    cache.remove(Key(kinds.POD, "shop", "a"), "u", "7")
    assert cache.replace_all(kinds.POD, [pod("a", 5)], "6") == 0


def test_what_is_not_in_a_list_does_not_come_back_by_older_news(cache):
    cache.put(kinds.POD, pod("a", 5))
    cache.replace_all(kinds.POD, [], "9")
    assert not cache.put(kinds.POD, pod("a", 8))


def test_what_is_nested_deep_is_taken_as_it_is(cache):
    deep = {"name": "a"}
    for _ in range(500):
        deep = {"a": [deep]}
    assert cache.put(kinds.JOBQUEUE, pod("a", 1) | {"spec": deep})
