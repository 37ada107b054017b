"""Which connection a JobQueue uses, and what its keys begin with; or why it may use none. Pure.

A JobQueue reaches a RedisConnection of its own namespace, or a ClusterRedisConnection that selects its namespace. Who may
use what is decided here, and nowhere else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from pydantic import ValidationError

from bullpen.api import explain
from bullpen.api.v1alpha1 import ClusterRedisConnection, JobQueue, RedisConnection
from bullpen.api.v1alpha1.connections import NAMESPACE_PLACEHOLDER
from bullpen.api.v1alpha1.meta import LabelSelector, LabelSelectorRequirement
from bullpen_operator.connections import acl
from bullpen_operator.connections.references import AnyConnection, RedisRef, key_of
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key, Kind, Object

DEFAULT_ANNOTATION: Final = "bullpen.dev/default"
ROTATE_ANNOTATION: Final = "bullpen.dev/rotate"
"""On a connection or a JobQueue: whenever its value changes, the passwords made for it are replaced."""

_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
_LONGEST_PREFIX: Final = 128
_MOST_PROBLEMS: Final = 5


class Objects(Protocol):
    """What is asked of the cache."""

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give one object, if it is known."""
        ...

    def all(self, kind: Kind) -> Iterable[Object]:
        """Give all objects of a kind."""
        ...

    def connections_of(self, namespace: str) -> Iterable[Object]:
        """Give the RedisConnections of a namespace."""
        ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """The connection that a JobQueue uses."""

    ref: RedisRef
    prefix: str
    connection_key: Key
    users: Literal["Managed", "Shared"]
    most_connections: int | None = None
    """`spec.limits.connections`: what all workers of all its JobQueues may open together."""
    rotate: str = ""
    """The connection's annotation `bullpen.dev/rotate`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is none: a reason for machines, a message for people that names the field."""

    reason: str
    message: str


def resolve(
    jobqueue: JobQueue, cache: Objects, *, operator_namespace: str, cluster_wide: bool = True
) -> Resolved | Refused:
    """Give the connection that a JobQueue uses, or why it may not use one.

    `cluster_wide`: whether ClusterRedisConnections are known at all to this operator.
    """
    namespace = jobqueue.metadata.namespace or ""
    named = jobqueue.spec.redis_ref
    if named is None:
        found = _default(namespace, cache, cluster_wide=cluster_wide)
    elif named.kind == "RedisConnection":
        found = _read(cache.get(kinds.REDIS_CONNECTION, namespace, named.name), RedisConnection) or Refused(
            "ConnectionNotFound",
            f'spec.redisRef: there is no RedisConnection "{named.name}" in namespace "{namespace}"',
        )
    elif not cluster_wide:
        found = Refused(
            "ClusterConnectionsUnknown",
            "spec.redisRef.kind: this operator looks after some namespaces only and knows no ClusterRedisConnection; "
            "name a RedisConnection",
        )
    else:
        found = _read(cache.get(kinds.CLUSTER_REDIS_CONNECTION, "", named.name), ClusterRedisConnection) or Refused(
            "ConnectionNotFound", f'spec.redisRef: there is no ClusterRedisConnection "{named.name}"'
        )
    if isinstance(found, Refused):
        return found
    return _allowed(found, jobqueue, cache) or _resolved(found, jobqueue, operator_namespace)


def read_connection(obj: Object) -> AnyConnection | Refused:
    """Read a connection of the API server's. What is wrong with it is told without the values that may be secret."""
    model: type[AnyConnection] = (
        ClusterRedisConnection if obj.get("kind") == "ClusterRedisConnection" else RedisConnection
    )
    try:
        connection = model.model_validate({**obj, "status": None}, extra="ignore")
    except ValidationError as error:
        problems = [f"{finding.field}: {finding.message}" for _, finding in explain.findings(model, error)]
        return Refused("InvalidSpec", "; ".join(problems[:_MOST_PROBLEMS]))
    if connection.spec.topology != "Standalone":
        return Refused(
            "NotYet", f"spec.topology: {connection.spec.topology} is not supported yet; name the primary alone"
        )
    return connection


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Say whether a label selector chooses what has these labels."""
    return all(labels.get(name) == value for name, value in selector.match_labels.items()) and all(
        _holds(requirement, labels) for requirement in selector.match_expressions
    )


def default_key(namespace: str, cache: Objects, *, cluster_wide: bool) -> Key | None:
    """Give the connection that a JobQueue of this namespace has where it names none; None where there is no such one."""
    found = _default(namespace, cache, cluster_wide=cluster_wide)
    return None if isinstance(found, Refused) else key_of(found)


def is_offered(key: Key, namespace: str, cache: Objects) -> bool:
    """Say whether there is this connection, and JobQueues of this namespace may use it."""
    obj = cache.get(*key)
    if obj is None or key.kind == kinds.REDIS_CONNECTION:
        return obj is not None
    found = read_connection({**obj, "kind": key.kind.kind})
    return not isinstance(found, Refused) and _selected(found, _labels(namespace, cache))


# -- inside ------------------------------------------------------------------------------------------------------


def _read(obj: Object | None, model: type[AnyConnection]) -> AnyConnection | Refused | None:
    if obj is None:
        return None
    found = read_connection({**obj, "kind": model.__name__})
    if isinstance(found, Refused):
        name = obj["metadata"]["name"]
        return Refused("ConnectionInvalid", f'{model.__name__} "{name}" cannot be used: {found.message}')
    return found


def _default(namespace: str, cache: Objects, *, cluster_wide: bool) -> AnyConnection | Refused:
    own = [obj for obj in cache.connections_of(namespace) if _is_default(obj)]
    if own:
        return _one(own, RedisConnection, f'in namespace "{namespace}"')
    offered = [obj for obj in cache.all(kinds.CLUSTER_REDIS_CONNECTION) if _is_default(obj)] if cluster_wide else []
    if len(offered) > 1:  # one for each sort of namespace, perhaps
        labels = _labels(namespace, cache)
        offered = [
            obj
            for obj in offered
            if not isinstance(found := read_connection(obj), Refused) and _selected(found, labels)
        ]
    if offered:
        return _one(offered, ClusterRedisConnection, f'for namespace "{namespace}"')
    where = f'in namespace "{namespace}"{" nor one of the cluster for it" if cluster_wide else ""}'
    msg = (
        f"spec.redisRef is absent, and there is no default connection {where}: name a connection, or annotate one with "
        f'{DEFAULT_ANNOTATION}: "true"'
    )
    return Refused("NoDefaultConnection", msg)


def _one(objects: list[Object], model: type[AnyConnection], where: str) -> AnyConnection | Refused:
    if len(objects) > 1:
        names = ", ".join(sorted(obj["metadata"]["name"] for obj in objects)[:_MOST_PROBLEMS])
        msg = (
            f"spec.redisRef is absent, and {len(objects)} {model.__name__}s {where} are annotated as default ({names}): "
            "name one, or leave the annotation on one of them only"
        )
        return Refused("DefaultAmbiguous", msg)
    return _read(objects[0], model) or Refused("ConnectionNotFound", "the default connection is gone")


def _is_default(obj: Object) -> bool:
    return (obj["metadata"].get("annotations") or {}).get(DEFAULT_ANNOTATION) == "true"


def _labels(namespace: str, cache: Objects) -> Mapping[str, str]:
    obj = cache.get(kinds.NAMESPACE, "", namespace)
    # The API server puts this label on every namespace; nobody can take it away.
    return {} if obj is None else {**kinds.labels_of(obj), _NAMESPACE_NAME: namespace}


def _selected(connection: AnyConnection, labels: Mapping[str, str]) -> bool:
    if isinstance(connection, RedisConnection):
        return True
    return bool(labels) and selects(connection.spec.allowed_namespaces.selector, labels)


def _allowed(connection: AnyConnection, jobqueue: JobQueue, cache: Objects) -> Refused | None:
    namespace = jobqueue.metadata.namespace or ""
    name = connection.metadata.name
    if isinstance(connection, ClusterRedisConnection):
        if not _selected(connection, _labels(namespace, cache)):
            msg = (
                f'spec.redisRef: ClusterRedisConnection "{name}" is not offered to namespace "{namespace}": its '
                "spec.allowedNamespaces selects other labels; ask those who run it"
            )
            return Refused("NamespaceNotAllowed", msg)
        if NAMESPACE_PLACEHOLDER not in (connection.spec.prefix or NAMESPACE_PLACEHOLDER) and not _of_one_namespace(
            connection.spec.allowed_namespaces.selector
        ):
            msg = (
                f'ClusterRedisConnection "{name}": spec.prefix has no {NAMESPACE_PLACEHOLDER}, so that queues of several '
                f"namespaces would share their keys; put it in, or have spec.allowedNamespaces select one namespace by "
                f"its label {_NAMESPACE_NAME}"
            )
            return Refused("PrefixShared", msg)
    prefix = connection.prefix_for(namespace)
    if len(prefix) > _LONGEST_PREFIX:
        msg = f'{type(connection).__name__} "{name}": spec.prefix comes to {len(prefix)} characters; {_LONGEST_PREFIX} are allowed'
        return Refused("PrefixTooLong", msg)
    if connection.spec.users == "Managed" and not acl.can_confine(prefix, jobqueue.queue_name):
        msg = (
            f'spec.queueName: Redis cannot confine a user to a queue with blanks in its name, and "{name}" manages users; '
            "take another name"
        )
        return Refused("QueueNameUnsupported", msg)
    return None


def _of_one_namespace(selector: LabelSelector) -> bool:
    """Whether the selector can never select two namespaces: it asks for one by name."""
    return _NAMESPACE_NAME in selector.match_labels or any(
        each.key == _NAMESPACE_NAME and each.operator == "In" and len(each.values or ()) == 1
        for each in selector.match_expressions
    )


def _holds(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in (requirement.values or ())
        case "NotIn":
            return value is None or value not in (requirement.values or ())
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


def _resolved(connection: AnyConnection, jobqueue: JobQueue, operator_namespace: str) -> Resolved:
    return Resolved(
        ref=RedisRef.of(connection, operator_namespace=operator_namespace),
        prefix=connection.prefix_for(jobqueue.metadata.namespace or ""),
        connection_key=key_of(connection),
        users=connection.spec.users,
        most_connections=connection.spec.limits.connections,
        rotate=connection.metadata.annotations.get(ROTATE_ANNOTATION, ""),
    )
