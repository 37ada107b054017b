"""What is listed, and what Kopf's thread hands over: neither one broken object nor a restored etcd keeps the cache from the truth."""

import pytest

from bullpen_operator.cache import Cache
from bullpen_operator.informers import Informers, Watched
from bullpen_operator.kube import kinds


def jobqueue(name, version, image="shop:1"):
    metadata = {"name": name, "namespace": "shop", "uid": name, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"worker": {"image": image}}}


class Lists:
    """An API server that lists what it is given."""

    def __init__(self):
        self.answer = ([], "1")

    async def list_at(self, *_):
        return self.answer


@pytest.fixture
def cache():
    return Cache()


@pytest.fixture
def server():
    return Lists()


@pytest.fixture
def informers(cache, server):
    return Informers(
        server,
        None,
        cache,
        namespaces=(),
        resync_seconds=600.0,
        clock=lambda: 0.0,
        random=lambda: 0.5,
        wants=[Watched(kinds.JOBQUEUE)],
    )


def known(cache):
    return {each["metadata"]["name"]: each["spec"]["worker"]["image"] for each in cache.all(kinds.JOBQUEUE)}


@pytest.mark.parametrize(("restored", "went_back"), [("50", True), ("150", False)])
async def test_a_restored_backup_is_what_there_is(cache, server, informers, restored, went_back):
    server.answer = [jobqueue("emails", 30), jobqueue("gone", 40)], "90"
    assert not await informers.relist()
    cache.put(kinds.JOBQUEUE, jobqueue("emails", 95, image="shop:2"))
    cache.put(kinds.JOBQUEUE, jobqueue("late", 98))
    cache.remove(kinds.key_of(kinds.JOBQUEUE, jobqueue("gone", 40)), "gone", "99")
    server.answer = [jobqueue("emails", 30), jobqueue("gone", 40)], restored
    assert await informers.relist() is went_back
    assert known(cache) == {"emails": "shop:1", "gone": "shop:1"}
    cache.put(kinds.JOBQUEUE, jobqueue("emails", 51, image="shop:3"))
    assert known(cache)["emails"] == "shop:3"


def test_one_object_that_breaks_who_hears_of_it_keeps_no_other_from_being_heard(cache, informers, caplog):
    heard = []

    def subscriber(change):
        heard.append(change.key.name)
        if change.key.name == "odd":
            msg = "nobody foresaw that"
            raise ValueError(msg)

    cache.subscribe(subscriber)
    informers._events.extend((kinds.JOBQUEUE, "ADDED", jobqueue(name, 1)) for name in ("a", "odd", "b"))
    informers._drain()
    assert heard == ["a", "odd", "b"]
    assert "nobody foresaw that" in caplog.text
