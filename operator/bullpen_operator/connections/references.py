"""Where a Redis is and which objects say as whom to log in: what a connection's spec comes to. Pure.

Two connections whose references are equal are one Redis. No value of a Secret stands in any of this.
"""

from dataclasses import dataclass, field
from typing import Literal, Self

from bullpen.api.v1alpha1 import ClusterRedisConnection, RedisConnection
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key

AnyConnection = RedisConnection | ClusterRedisConnection


@dataclass(frozen=True, slots=True)
class DataRef:
    """One key of a Secret or ConfigMap, and the field that names it, for messages."""

    kind: Literal["Secret", "ConfigMap"]
    name: str
    key: str
    named_by: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class RedisRef:
    """A Redis and an account on it. Equal ones share one connection of the operator."""

    endpoint: str
    """``redis://host:port/db`` or ``rediss://…``, without credentials."""
    namespace: str
    """Where the Secrets and ConfigMaps below are read: the connection's own, or the operator's."""
    username: str | None = None
    username_from: DataRef | None = None
    password_from: DataRef | None = None
    ca_from: DataRef | None = None
    certificate_from: str | None = None
    """A Secret of type kubernetes.io/tls."""
    id: str = field(default="", compare=False)
    """Short and stable, for metrics and messages: the connection's name, behind its namespace where it has one."""

    @classmethod
    def of(cls, connection: AnyConnection, *, operator_namespace: str) -> Self:
        """Give what the spec comes to. References of a ClusterRedisConnection are the operator's namespace's."""
        spec = connection.spec
        key = key_of(connection)
        username = spec.auth.username if spec.auth else None
        password = spec.auth.password if spec.auth else None
        ca = spec.tls.ca if spec.tls else None
        ca_from = None
        if ca is not None and ca.secret_key_ref is not None:
            ca_from = DataRef("Secret", ca.secret_key_ref.name, ca.secret_key_ref.key, "spec.tls.ca.secretKeyRef")
        elif ca is not None and ca.config_map_key_ref is not None:
            found = ca.config_map_key_ref
            ca_from = DataRef("ConfigMap", found.name, found.key, "spec.tls.ca.configMapKeyRef")
        certificate = spec.tls.client_certificate if spec.tls else None
        return cls(
            endpoint=spec.endpoints[0],
            namespace=key.namespace or operator_namespace,
            username=username.value if username else None,
            username_from=None
            if username is None or username.secret_key_ref is None
            else DataRef(
                "Secret", username.secret_key_ref.name, username.secret_key_ref.key, "spec.auth.username.secretKeyRef"
            ),
            password_from=None
            if password is None
            else DataRef(
                "Secret", password.secret_key_ref.name, password.secret_key_ref.key, "spec.auth.password.secretKeyRef"
            ),
            ca_from=ca_from,
            certificate_from=certificate.secret_name if certificate else None,
            id=f"{key.namespace}/{key.name}" if key.namespace else key.name,
        )


def key_of(connection: AnyConnection) -> Key:
    """Give the key of a connection."""
    if isinstance(connection, ClusterRedisConnection):
        return Key(kinds.CLUSTER_REDIS_CONNECTION, "", connection.metadata.name)
    return Key(kinds.REDIS_CONNECTION, connection.metadata.namespace or "", connection.metadata.name)
