"""Which connection a JobQueue gets, as a table; and each refusal with the field that it is about."""

from typing import Any

import pytest

from bullpen.api.v1alpha1 import JobQueue
from bullpen.api.v1alpha1.meta import LabelSelector
from bullpen_operator.cache import Cache
from bullpen_operator.connections.references import DataRef
from bullpen_operator.connections.resolve import Refused, Resolved, read_connection, resolve, selects
from bullpen_operator.kube import kinds

HIDDEN = "hunter2"


def own(name: str = "main", namespace: str = "shop", *, default: bool = False, **spec: Any) -> dict[str, Any]:
    annotations = {"bullpen.dev/default": "true"} if default else {}
    return {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "RedisConnection",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"endpoints": ["redis://redis:6379/0"]} | spec,
    }


def offered(name: str = "shared", *, default: bool = False, **spec: Any) -> dict[str, Any]:
    annotations = {"bullpen.dev/default": "true"} if default else {}
    given = {"endpoints": ["rediss://redis.infra.svc:6379/0"]}
    given |= {"allowedNamespaces": {"selector": {"matchLabels": {"redis": "shared"}}}}
    return {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "ClusterRedisConnection",
        "metadata": {"name": name, "annotations": annotations},
        "spec": given | spec,
    }


NAMESPACES = {"shop": {"redis": "shared"}, "blog": {}}


def ask(
    *objects: dict[str, Any], cluster_wide: bool = True, namespace: str = "shop", **spec: Any
) -> Resolved | Refused:
    cache = Cache()
    for name, labels in NAMESPACES.items():
        cache.put(kinds.NAMESPACE, {"metadata": {"name": name, "labels": labels}})
    for obj in objects:
        kind = kinds.REDIS_CONNECTION if obj["kind"] == "RedisConnection" else kinds.CLUSTER_REDIS_CONNECTION
        cache.put(kind, obj)
    jobqueue = JobQueue.model_validate({"metadata": {"name": "emails", "namespace": namespace}, "spec": spec})
    return resolve(jobqueue, cache, operator_namespace="bullpen-system", cluster_wide=cluster_wide)


OWN = {"redisRef": {"kind": "RedisConnection", "name": "main"}}
SHARED = {"redisRef": {"kind": "ClusterRedisConnection", "name": "shared"}}
BY_NAME = {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}


@pytest.mark.parametrize(
    ("objects", "spec", "key", "prefix"),
    [
        ([own()], OWN, "RedisConnection/shop/main", "bull"),
        ([own(prefix="jobs-{namespace}")], OWN, "RedisConnection/shop/main", "jobs-shop"),
        ([offered()], SHARED, "ClusterRedisConnection/shared", "shop"),
        ([offered(prefix="x.{namespace}")], SHARED, "ClusterRedisConnection/shared", "x.shop"),
        ([own(default=True), offered(default=True)], {}, "RedisConnection/shop/main", "bull"),
        ([own(), offered(default=True)], {}, "ClusterRedisConnection/shared", "shop"),
        ([own(namespace="blog", default=True), offered(default=True)], {}, "ClusterRedisConnection/shared", "shop"),
        (
            [
                offered(default=True),
                offered("blogs", default=True, allowedNamespaces={"selector": {"matchLabels": {"redis": "blog"}}}),
            ],
            {},
            "ClusterRedisConnection/shared",
            "shop",
        ),
        (
            [offered(prefix="bull", allowedNamespaces={"selector": BY_NAME})],
            SHARED,
            "ClusterRedisConnection/shared",
            "bull",
        ),
        ([offered(allowedNamespaces={"selector": {}})], SHARED, "ClusterRedisConnection/shared", "shop"),
    ],
)
def test_a_connection_is_found(objects: list[dict[str, Any]], spec: dict[str, Any], key: str, prefix: str) -> None:
    found = ask(*objects, **spec)
    assert isinstance(found, Resolved), found
    assert (str(found.connection_key), found.prefix, found.users) == (key, prefix, "Managed")


@pytest.mark.parametrize(
    ("objects", "options", "reason", "says"),
    [
        ([], OWN, "ConnectionNotFound", 'spec.redisRef: there is no RedisConnection "main" in namespace "shop"'),
        ([own(namespace="blog")], OWN, "ConnectionNotFound", 'no RedisConnection "main" in namespace "shop"'),
        ([], SHARED, "ConnectionNotFound", 'no ClusterRedisConnection "shared"'),
        ([offered()], SHARED | {"namespace": "blog"}, "NamespaceNotAllowed", "spec.allowedNamespaces"),
        ([offered()], SHARED | {"namespace": "unknown"}, "NamespaceNotAllowed", "spec.allowedNamespaces"),
        (
            [offered(allowedNamespaces={"selector": {}})],
            SHARED | {"namespace": "unknown"},
            "NamespaceNotAllowed",
            "offered",
        ),
        ([offered(default=True)], {"namespace": "blog"}, "NamespaceNotAllowed", "not offered"),
        ([own()], {}, "NoDefaultConnection", "spec.redisRef is absent"),
        ([own(default=True), own("b", default=True)], {}, "DefaultAmbiguous", "(b, main)"),
        ([offered(default=True), offered("b", default=True)], {}, "DefaultAmbiguous", "(b, shared)"),
        ([offered()], SHARED | {"cluster_wide": False}, "ClusterConnectionsUnknown", "spec.redisRef.kind"),
        ([offered(default=True)], {"cluster_wide": False}, "NoDefaultConnection", "annotate one"),
        ([offered(prefix="bull")], SHARED, "PrefixShared", "spec.prefix has no {namespace}"),
        (
            [offered(prefix="bull", allowedNamespaces={"selector": {"matchLabels": {"redis": "shared"}}})],
            SHARED,
            "PrefixShared",
            "kubernetes.io/metadata.name",
        ),
        ([own(prefix="{namespace}" * 11)], OWN | {"namespace": "shop"}, None, ""),
        ([own()], OWN | {"queueName": "two words"}, "QueueNameUnsupported", "spec.queueName"),
        ([own(users="Shared")], OWN | {"queueName": "two words"}, None, ""),
        ([own(endpoints=[f"redis://u:{HIDDEN}@h:1"])], OWN, "ConnectionInvalid", "spec.endpoints[0]"),
        ([own(topology="Sentinel", sentinel={"masterName": "m"})], OWN, "ConnectionInvalid", "spec.topology"),
        ([own(topology="Cluster")], OWN, "ConnectionInvalid", "spec.topology: Cluster is not supported yet"),
    ],
)
def test_a_refusal_names_the_field_and_no_secret(
    objects: list[dict[str, Any]], options: dict[str, Any], reason: str | None, says: str
) -> None:
    found = ask(*objects, **options)
    if reason is None:
        assert isinstance(found, Resolved), found
        return
    assert isinstance(found, Refused), found
    assert found.reason == reason
    assert says in found.message
    assert HIDDEN not in found.message


def test_a_prefix_that_becomes_too_long_is_refused() -> None:
    long = "a" * 63
    NAMESPACES[long] = {"redis": "shared"}
    found = ask(offered(prefix="{namespace}-{namespace}-{namespace}"), namespace=long, **SHARED)
    del NAMESPACES[long]
    assert isinstance(found, Refused)
    assert (found.reason, "191 characters" in found.message) == ("PrefixTooLong", True)


def test_references_are_read_in_the_connections_namespace_or_the_operators() -> None:
    auth = {"username": {"value": "op"}, "password": {"secretKeyRef": {"name": "redis", "key": "pw"}}}
    tls = {"ca": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}, "clientCertificate": {"secretName": "cert"}}
    endpoints = ["rediss://h:1/2"]
    for obj, spec, namespace in (
        (own(auth=auth, tls=tls, endpoints=endpoints), OWN, "shop"),
        (offered(auth=auth, tls=tls, endpoints=endpoints), SHARED, "bullpen-system"),
    ):
        found = ask(obj, **spec)
        assert isinstance(found, Resolved)
        ref = found.ref
        assert (ref.namespace, ref.username, ref.certificate_from) == (namespace, "op", "cert")
        assert ref.password_from == DataRef("Secret", "redis", "pw", "")
        assert ref.ca_from == DataRef("ConfigMap", "ca", "ca.crt", "")


def test_what_a_newer_version_wrote_is_read() -> None:
    found = read_connection(own(somethingNew={"a": 1}))
    assert not isinstance(found, Refused)


@pytest.mark.parametrize(
    ("selector", "labels", "chosen"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, False),
    ],
)
def test_selectors_choose_as_kubernetes_does(selector: dict[str, Any], labels: dict[str, str], chosen: bool) -> None:
    assert selects(LabelSelector.model_validate(selector), labels) is chosen
