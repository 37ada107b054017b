"""Redis servers: what a team brings (RedisConnection), what the platform offers (ClusterRedisConnection)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from bullpen.api.v1alpha1.base import Allowed, Items, Model, ObjectName, Violation
from bullpen.api.v1alpha1.jobqueue import DEFAULT_PREFIX
from bullpen.api.v1alpha1.meta import (
    API_VERSION,
    Condition,
    Conditions,
    KeyReference,
    LabelSelector,
    Metadata,
    condition,
)

NAMESPACE_PLACEHOLDER = "{namespace}"

Endpoint = Annotated[
    str,
    StringConstraints(pattern=r"^rediss?://[^@/?#\s]+(/[0-9]{1,5})?$", max_length=512),
    Allowed(
        "redis://host:port/db or rediss://host:port/db, without user and password (those go to `auth`), such as "
        '"rediss://redis.infra.svc:6379/0"'
    ),
]

Prefix = Annotated[
    str,
    StringConstraints(pattern=r"^([A-Za-z0-9._-]|\{namespace\})+$", max_length=128),
    Allowed('letters, digits, ".", "_", "-" and the placeholder {namespace}, such as "bull" or "jobs-{namespace}"'),
]


class Sentinel(Model):
    """How the master is found through Sentinel."""

    master_name: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        description="Name under which the Sentinels know the master."
    )


class UsernameSource(Model):
    """The user's name, as text or from a Secret."""

    value: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = Field(
        default=None, description="The name itself. Either this or `secretKeyRef`."
    )
    secret_key_ref: KeyReference | None = Field(
        default=None, description="Key of a Secret that holds the name. Either this or `value`."
    )

    def violations(self) -> Iterator[Violation]:
        """One of the two."""
        if (self.value is None) == (self.secret_key_ref is None):
            yield Violation((), "needs exactly one of `value` and `secretKeyRef`")


class PasswordSource(Model):
    """The password, from a Secret only."""

    secret_key_ref: KeyReference = Field(description="Key of a Secret that holds the password.")


class Auth(Model):
    """Who Bullpen is to Redis."""

    username: UsernameSource | None = Field(default=None, description="User of Redis' ACL; absent: the default user.")
    password: PasswordSource | None = Field(default=None, description="Password of the user; absent: none.")


class CertificateAuthority(Model):
    """Certificates that the server's certificate is checked against."""

    secret_key_ref: KeyReference | None = Field(
        default=None, description="Key of a Secret with PEM certificates. Either this or `configMapKeyRef`."
    )
    config_map_key_ref: KeyReference | None = Field(
        default=None, description="Key of a ConfigMap with PEM certificates. Either this or `secretKeyRef`."
    )

    def violations(self) -> Iterator[Violation]:
        """One of the two."""
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            yield Violation((), "needs exactly one of `secretKeyRef` and `configMapKeyRef`")


class ClientCertificate(Model):
    """The certificate that Bullpen shows to the server."""

    secret_name: ObjectName = Field(description="Secret of type kubernetes.io/tls with certificate and key.")


class Tls(Model):
    """How the connection is secured; endpoints begin with rediss://."""

    ca: CertificateAuthority | None = Field(
        default=None, description="Certificates to check the server's against; absent: those of the system."
    )
    client_certificate: ClientCertificate | None = Field(
        default=None, description="Certificate that is shown to the server; absent: none."
    )


class AllowedNamespaces(Model):
    """Which namespaces may use the connection."""

    selector: LabelSelector = Field(description="Labels of the namespaces; an empty selector allows all.")


class ConnectionLimits(Model):
    """What the server can bear."""

    connections: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Connections that all workers together may open; absent: not checked.",
    )


class RedisConnectionSpec(Model):
    """Where a Redis is and how to talk to it."""

    endpoints: Items[Endpoint] = Field(
        min_length=1,
        max_length=32,
        description="Where the server is (one), or its Sentinels or cluster nodes (some of them). Never a password in it.",
    )
    topology: Literal["Standalone", "Sentinel", "Cluster"] = Field(
        default="Standalone",
        description="How the servers work together: Standalone, Sentinel or Cluster; never guessed.",
    )
    sentinel: Sentinel | None = Field(default=None, description="How the master is found; with topology Sentinel only.")
    auth: Auth | None = Field(default=None, description="User and password; absent: neither.")
    tls: Tls | None = Field(default=None, description="Certificates, for endpoints that begin with rediss://.")
    users: Literal["Managed", "Shared"] = Field(
        default="Managed",
        description="Managed: each JobQueue gets a user of its own that can touch its queue and nothing else. Shared: the "
        "credentials above are handed to every tenant.",
    )
    prefix: Prefix | None = Field(
        default=None,
        description="Prefix of the queues' keys, {namespace} standing for the JobQueue's namespace; absent: bull for a "
        "RedisConnection, {namespace} for a ClusterRedisConnection.",
    )
    limits: ConnectionLimits = Field(default_factory=ConnectionLimits, description="What the server can bear.")

    def violations(self) -> Iterator[Violation]:
        """Topology, endpoints and TLS go together."""
        if self.topology == "Sentinel" and self.sentinel is None:
            yield Violation(("sentinel",), "is required with topology Sentinel")
        if self.topology != "Sentinel" and self.sentinel is not None:
            yield Violation(("sentinel",), f"goes with topology Sentinel, not {self.topology}")
        if self.topology == "Standalone" and len(self.endpoints) > 1:
            yield Violation(("endpoints", 1), "topology Standalone has one endpoint")
        plain = [index for index, endpoint in enumerate(self.endpoints) if endpoint.startswith("redis://")]
        if plain and len(plain) < len(self.endpoints):
            yield Violation(("endpoints", plain[0]), "all endpoints begin with redis://, or all with rediss://")
        elif plain and self.tls is not None:
            yield Violation(("tls",), "needs endpoints that begin with rediss://")
        if self.topology == "Cluster":
            for index, endpoint in enumerate(self.endpoints):
                if endpoint.count("/") > 2 and not endpoint.endswith("/0"):
                    yield Violation(("endpoints", index), "Redis Cluster has database 0 only")


class ClusterRedisConnectionSpec(RedisConnectionSpec):
    """Where a Redis is, how to talk to it, and who may."""

    allowed_namespaces: AllowedNamespaces = Field(description="Which namespaces may use the connection.")


class ConnectionStatus(Model):
    """What the operator found."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the spec that the status is about."
    )
    conditions: Conditions = Field(
        default=(), description="Ready, Reachable, WellConfigured (eviction policy, persistence, version, memory)."
    )
    version: str | None = Field(default=None, max_length=64, description="Version that the server reports.")
    used_by: int | None = Field(default=None, ge=0, description="JobQueues that use the connection.")

    def condition(self, type: str) -> Condition | None:
        """Give the condition of that type, if there is one."""
        return condition(self.conditions, type)


class RedisConnection(Model):
    """A Redis that a team brings, for the JobQueues of its namespace."""

    api_version: Literal["bullpen.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of the API.")
    kind: Literal["RedisConnection"] = Field(default="RedisConnection", description="RedisConnection.")
    metadata: Metadata = Field(description="Name, namespace, labels, annotations.")
    spec: RedisConnectionSpec = Field(description="Where the Redis is and how to talk to it.")
    status: ConnectionStatus | None = Field(default=None, description="What the operator found.")

    def prefix_for(self, namespace: str) -> str:
        """Give the prefix of the keys of this namespace's queues."""
        return (self.spec.prefix or DEFAULT_PREFIX).replace(NAMESPACE_PLACEHOLDER, namespace)


class ClusterRedisConnection(Model):
    """A Redis that the platform offers to the namespaces it selects."""

    api_version: Literal["bullpen.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of the API.")
    kind: Literal["ClusterRedisConnection"] = Field(
        default="ClusterRedisConnection", description="ClusterRedisConnection."
    )
    metadata: Metadata = Field(description="Name, labels, annotations.")
    spec: ClusterRedisConnectionSpec = Field(description="Where the Redis is, how to talk to it, and who may.")
    status: ConnectionStatus | None = Field(default=None, description="What the operator found.")

    def prefix_for(self, namespace: str) -> str:
        """Give the prefix of the keys of this namespace's queues."""
        return (self.spec.prefix or NAMESPACE_PLACEHOLDER).replace(NAMESPACE_PLACEHOLDER, namespace)
