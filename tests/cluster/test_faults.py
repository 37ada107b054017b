"""The proxy that makes the API server fail, and the audit log that says what was done."""

import http.client
import time

import pytest

from tests.support.kubernetes import proxy
from tests.support.kubernetes.api import Api, ApiError
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.kubernetes.audit import Audit, Use, unused
from tests.support.kubernetes.faults import Answer, Delay, Hang, LoseReply, Refuse
from tests.support.kubernetes.watching import Watch
from tests.support.waiting import eventually_sync

MAPS = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create", "patch"]}


@pytest.fixture
def faulty(api_server: ApiServer):
    with proxy.between(api_server) as made:
        yield made


@pytest.fixture
def login(api_server: ApiServer, api: Api, namespace: str, faulty):
    """Who goes through the proxy, with some rights in the namespace."""
    who = api_server.service_account(namespace, "op", server=faulty.url)
    api.grant(who.user, [MAPS], namespace=namespace)
    direct = api_server.api(api_server.service_account(namespace, "op"))
    eventually_sync(lambda: allowed(direct, namespace))
    return who


@pytest.fixture
def through(login):
    client = Api(login.kubeconfig, timeout_s=10)
    yield client
    client.close()


def allowed(client: Api, namespace: str) -> bool:
    try:
        client.list("v1", "ConfigMap", namespace)
    except ApiError:
        return False
    return True


def config(namespace: str, name: str = "a", **data: str):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


def test_without_a_rule_all_goes_through_as_the_user_who_asked(api_server, through, login, namespace, faulty):
    mark = Audit(api_server.audit_log).mark()
    through.create(config(namespace, a="1"))
    with pytest.raises(ApiError) as refused:
        through.get("v1", "Secret", namespace, "s")
    assert refused.value.status == 403
    did = Audit(api_server.audit_log).since(mark, user=login.user)
    assert did.uses() == {
        Use("create", "", "configmaps", namespace): 1,
        Use("get", "", "secrets", namespace): 1,
    }
    assert [str(event.use) for event in did.refused()] == [f"get secrets in {namespace}"]
    assert [event.body["data"] for event in did.writes("configmaps")] == [{"a": "1"}]
    assert unused([MAPS], did) == [Use(verb, "", "configmaps") for verb in ("get", "list", "watch", "patch")]


def test_a_rule_meets_what_it_names_as_often_as_it_says(through, namespace, faulty):
    through.create(config(namespace))
    rule = faulty.inject(
        Answer(429, retry_after=7), verbs={"patch"}, resources={"configmaps"}, path="/configmaps/a", times=2
    )
    assert through.get("v1", "ConfigMap", namespace, "a")
    for _ in range(2):
        with pytest.raises(ApiError) as busy:
            through.patch("v1", "ConfigMap", namespace, "a", {"data": {"x": "1"}})
        assert (busy.value.status, busy.value.reason) == (429, "TooManyRequests")
    assert through.patch("v1", "ConfigMap", namespace, "a", {"data": {"x": "1"}})["data"] == {"x": "1"}
    assert rule.hits == 2
    assert [one.status for one in faulty.seen("patch")] == [429, 429, 200]


@pytest.mark.parametrize(("fault", "carried_out"), [(LoseReply(), True), (Refuse(), False), (Hang(), False)])
def test_what_gets_no_answer_may_or_may_not_have_been_done(fault, carried_out, through, api, namespace, faulty):
    through.list("v1", "ConfigMap", namespace)
    faulty.inject(fault, verbs={"create"})
    with pytest.raises((OSError, http.client.HTTPException)):
        through.create(config(namespace))
    assert (api.find("v1", "ConfigMap", namespace, "a") is not None) == carried_out


def test_a_delay_is_waited(through, namespace, faulty):
    faulty.inject(Delay(0.3), verbs={"list"})
    began = time.monotonic()
    through.list("v1", "ConfigMap", namespace)
    assert time.monotonic() - began >= 0.3


def test_watches_are_cut_ended_with_an_error_and_frozen(through, api, namespace, faulty):
    through.list("v1", "ConfigMap", namespace)
    watch = Watch(through, "v1", "ConfigMap", namespace)
    eventually_sync(lambda: faulty.watching("configmaps") == 1)
    api.create(config(namespace, "one"))
    eventually_sync(lambda: [event.type for event in watch.events] == ["ADDED"])
    assert faulty.cut_watches() == 1
    assert watch.ended.wait(60)

    watch = Watch(through, "v1", "ConfigMap", namespace)
    eventually_sync(lambda: len(watch.events) == 1)
    assert faulty.end_watches(410) == 1
    assert watch.ended.wait(60)
    assert watch.events[-1].type == "ERROR"
    assert watch.events[-1].object["code"] == 410

    watch = Watch(through, "v1", "ConfigMap", namespace)
    eventually_sync(lambda: len(watch.events) == 1)
    faulty.freeze()
    api.create(config(namespace, "two"))
    assert not watch.ended.is_set()
    assert len(watch.events) == 1
    faulty.thaw()
    eventually_sync(lambda: len(watch.events) == 2)
    faulty.cut_watches()


def test_a_closed_port_refuses_and_opens_again(through, namespace, faulty):
    through.list("v1", "ConfigMap", namespace)
    faulty.refuse()
    with pytest.raises((OSError, http.client.HTTPException)):
        through.create(config(namespace))
    faulty.heal()
    assert through.create(config(namespace))


def test_it_ends_beside_a_server_that_says_no_goodbye(own_api_server: ApiServer):
    own = own_api_server.api()
    own.namespace("some")
    with proxy.between(own_api_server) as faulty:
        through = Api(own_api_server.login("admin", "system:masters", server=faulty.url).kubeconfig)
        with Watch(through, "v1", "ConfigMap", "some"):
            eventually_sync(lambda: faulty.watching("configmaps") == 1)
            with own_api_server.frozen():
                faulty.close()  # raises where a connection to the server is left open
        through.close()
