"""The API server that the other tests stand on."""

import pytest

from tests.support.kubernetes.api import Api, ApiError
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.waiting import eventually_sync

PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.example}
spec:
  group: test.example
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, default: 3}}}}
"""


def widget(namespace: str, **spec):
    meta = {"name": "w", "namespace": namespace}
    return {"apiVersion": "test.example/v1", "kind": "Widget", "metadata": meta, "spec": spec}


def test_a_user_may_do_what_was_granted_and_no_more(api_server: ApiServer, api: Api, namespace: str):
    login = api_server.service_account(namespace, "reader")
    reader = api_server.api(login)
    with pytest.raises(ApiError) as refused:
        reader.list("v1", "Pod", namespace)
    assert refused.value.status == 403
    api.grant(login.user, [PODS], namespace=namespace)

    def granted():
        try:
            return reader.list("v1", "Pod", namespace) == []
        except ApiError:
            return False

    eventually_sync(granted)
    with pytest.raises(ApiError):
        reader.list("v1", "Pod")


def test_a_service_account_logs_in_by_token_as_by_certificate(api_server: ApiServer, namespace: str):
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    by_certificate = api_server.api(api_server.service_account(namespace, "op")).request("POST", path, review)
    token = api_server.token(namespace, "op")
    token_review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    by_token = api_server.api().request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", token_review)
    who, whose = by_certificate["status"]["userInfo"], by_token["status"]["user"]
    assert who["username"] == whose["username"] == f"system:serviceaccount:{namespace}:op"
    assert set(whose["groups"]) <= set(who["groups"]) | {"system:authenticated"}


def test_definitions_are_served_when_install_returns(api: Api, namespace: str):
    api.install(WIDGETS)
    assert api.create(widget(namespace))["spec"] == {"size": 3}
    with pytest.raises(ApiError) as unknown:
        api.create(widget(namespace, colour="red"))
    assert "unknown field" in unknown.value.message


def test_what_was_written_outlasts_an_outage(own_api_server: ApiServer):
    api = own_api_server.api()
    api.namespace("kept")
    own_api_server.stop()
    assert not api.ready()
    own_api_server.start()
    assert api.find("v1", "Namespace", "", "kept") is not None


def test_controllers_make_pods_and_end_namespaces(control_plane: ApiServer):
    api = control_plane.api()
    api.namespace("short-lived")
    labels = {"app": "a"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nobody/pulls:1"}]}}
    api.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "short-lived"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod},
        }
    )
    eventually_sync(lambda: len(api.list("v1", "Pod", "short-lived")) == 2, 30)
    api.delete("v1", "Namespace", "", "short-lived")
    eventually_sync(lambda: api.find("v1", "Namespace", "", "short-lived") is None, 60)
