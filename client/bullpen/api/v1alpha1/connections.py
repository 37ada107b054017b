"""Redis servers: what a team brings (RedisConnection), what the platform offers (ClusterRedisConnection)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from bullpen.api.v1alpha1.base import Allowed, Items, Model, ObjectName
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
from bullpen.api.v1alpha1.rules import Breach, rule

NAMESPACE_PLACEHOLDER = "{namespace}"

_ENDPOINT_PATTERN = r"^rediss?://[!-\"$-.0-9:-=A-~]+(/[0-9]{1,5})?$"  # ASCII but for space, @, /, ? and #

Endpoint = Annotated[
    str,
    StringConstraints(pattern=_ENDPOINT_PATTERN, max_length=512),
    # CEL in place of a pattern: the API server shows what does not fit a pattern, and here that may be a password
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": 512,
            "x-kubernetes-validations": [
                {
                    "rule": f"self.matches(r'{_ENDPOINT_PATTERN}')",
                    "message": "is redis://host:port/db or rediss://host:port/db, without user and password (those go to `auth`)",
                }
            ],
        }
    ),
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

    @rule("has(self.value) != has(self.secretKeyRef)", "needs exactly one of `value` and `secretKeyRef`")
    def _has_one_source(self) -> bool:
        return (self.value is None) != (self.secret_key_ref is None)


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

    @rule(
        "has(self.secretKeyRef) != has(self.configMapKeyRef)",
        "needs exactly one of `secretKeyRef` and `configMapKeyRef`",
    )
    def _has_one_source(self) -> bool:
        return (self.secret_key_ref is None) != (self.config_map_key_ref is None)


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

    @rule(
        "self.topology != 'Sentinel' || has(self.sentinel)",
        "is required with topology Sentinel",
        at="sentinel",
        reason="Required",
    )
    def _has_its_sentinel(self) -> bool:
        return self.topology != "Sentinel" or self.sentinel is not None

    @rule(
        "self.topology == 'Sentinel' || !has(self.sentinel)",
        "goes with topology Sentinel alone",
        at="sentinel",
        reason="Forbidden",
    )
    def _has_no_sentinel_to_ignore(self) -> bool:
        return self.topology == "Sentinel" or self.sentinel is None

    @rule(
        "self.topology != 'Standalone' || size(self.endpoints) <= 1",
        "topology Standalone has one endpoint",
        at="endpoints",
    )
    def _is_one_server_when_alone(self) -> Iterator[Breach]:
        if self.topology == "Standalone" and len(self.endpoints) > 1:
            yield Breach(("endpoints", 1))

    @rule(
        "self.endpoints.all(e, e.startsWith('redis://')) || self.endpoints.all(e, e.startsWith('rediss://'))",
        "all endpoints begin with redis://, or all with rediss://",
        at="endpoints",
    )
    def _is_secured_throughout(self) -> Iterator[Breach]:
        plain = self._plain_endpoints()
        if plain and len(plain) < len(self.endpoints):
            yield Breach(("endpoints", plain[0]))

    @rule(
        "!has(self.tls) || self.endpoints.exists(e, e.startsWith('rediss://'))",
        "needs endpoints that begin with rediss://",
        at="tls",
    )
    def _has_endpoints_for_its_tls(self) -> bool:
        return self.tls is None or len(self._plain_endpoints()) < len(self.endpoints)

    @rule(
        "self.topology != 'Cluster' || self.endpoints.all(e, e.matches('^rediss?://[^/]+(/0)?$'))",
        "Redis Cluster has database 0 only",
        at="endpoints",
    )
    def _has_no_databases_as_a_cluster(self) -> Iterator[Breach]:
        for index, endpoint in enumerate(self.endpoints):
            if self.topology == "Cluster" and endpoint.count("/") > 2 and not endpoint.endswith("/0"):
                yield Breach(("endpoints", index))

    def _plain_endpoints(self) -> list[int]:
        return [index for index, endpoint in enumerate(self.endpoints) if endpoint.startswith("redis://")]


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
