"""The CustomResourceDefinitions: a kind's schema in its envelope of names, columns and subresources."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from pydantic import BaseModel, JsonValue

from bullpen.api.crd.structural import schema_of
from bullpen.api.v1alpha1 import API_VERSION, KINDS
from bullpen.api.v1alpha1.base import DNS_LABEL_PATTERN
from bullpen.api.v1alpha1.rules import rules_of

GROUP: Final = API_VERSION.partition("/")[0]
VERSION: Final = API_VERSION.partition("/")[2]
LARGEST: Final = 100_000
"""Bytes that a definition stays below, as JSON: far from what an API server takes, and small for all who watch it."""

_CATEGORY = "bullpen"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; with `is_wide`, of ``kubectl get -o wide``."""

    name: str
    type: Literal["string", "integer", "date"]
    path: str
    description: str
    is_wide: bool = False

    def to_dict(self) -> dict[str, JsonValue]:
        """Give the column as a definition has it."""
        column: dict[str, JsonValue] = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        }
        return column | {"priority": 1} if self.is_wide else column


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a definition says beside the schema."""

    plural: str
    is_namespaced: bool
    columns: tuple[Column, ...]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = (_CATEGORY,)
    longest_name: int = 63
    has_scale: bool = False


def _condition(type: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{type}")].{field}'


_AGE = Column("Age", "date", ".metadata.creationTimestamp", "Since when the object is there.")
_READY = Column("Ready", "string", _condition("Ready"), "Whether all is as the spec wants it.")
_WHY = Column("Reason", "string", _condition("Ready", "reason"), "Why it is ready, or not.", is_wide=True)

_CONNECTION_COLUMNS = (
    _READY,
    Column("Topology", "string", ".spec.topology", "How the servers work together."),
    Column("Version", "string", ".status.version", "Version that the server reports."),
    Column("Used By", "integer", ".status.usedBy", "JobQueues that use the connection."),
    Column("Default", "string", r".metadata.annotations.bullpen\.dev/default", "Whether it is the default one."),
    _AGE,
    _WHY,
    Column("Reachable", "string", _condition("Reachable"), "Whether the server answers.", is_wide=True),
    Column("Well Configured", "string", _condition("WellConfigured"), "Whether it can be relied on.", is_wide=True),
    Column("Users", "string", ".spec.users", "Whose credentials the queues get.", is_wide=True),
)

ENVELOPES: Final[Mapping[str, Envelope]] = MappingProxyType(
    {
        "JobQueue": Envelope(
            plural="jobqueues",
            is_namespaced=True,
            short_names=("jobq",),
            categories=("all", _CATEGORY),
            longest_name=45,
            has_scale=True,
            columns=(
                _READY,
                Column("Waiting", "integer", ".status.jobs.waiting", "Jobs that wait, without a priority."),
                Column("Active", "integer", ".status.jobs.active", "Jobs that run."),
                Column("Failed", "integer", ".status.jobs.failed", "Failed jobs that are kept."),
                Column("Replicas", "integer", ".status.replicas", "Worker pods there are."),
                Column("Desired", "integer", ".status.scaling.desiredReplicas", "Worker pods there shall be."),
                Column("Oldest", "date", ".status.oldestJobTime", "How long the job waits that has waited longest."),
                _AGE,
                _WHY,
                Column(
                    "Prioritized", "integer", ".status.jobs.prioritized", "Jobs that wait, by priority.", is_wide=True
                ),
                Column("Delayed", "integer", ".status.jobs.delayed", "Jobs that are due later.", is_wide=True),
                Column("Mode", "string", ".spec.scaling.mode", "How the number of replicas is found.", is_wide=True),
                Column("Max", "integer", ".spec.scaling.maxReplicas", "Most replicas.", is_wide=True),
                Column("Scaling", "string", ".status.scaling.reason", "Why so many replicas.", is_wide=True),
                Column("Queue", "string", ".status.queue.name", "Name of the queue in Redis.", is_wide=True),
                Column("Prefix", "string", ".status.queue.prefix", "Prefix of its keys.", is_wide=True),
            ),
        ),
        "RedisConnection": Envelope(plural="redisconnections", is_namespaced=True, columns=_CONNECTION_COLUMNS),
        "ClusterRedisConnection": Envelope(
            plural="clusterredisconnections", is_namespaced=False, columns=_CONNECTION_COLUMNS
        ),
    }
)
"""By `kind`."""


def definition(kind: str) -> dict[str, JsonValue]:
    """Give the CustomResourceDefinition of a kind of Bullpen's.

    Raises `KeyError` for another kind, and `CrdError` where its model holds what no definition can say.
    """
    model, envelope = KINDS[kind], ENVELOPES[kind]
    singular = kind.lower()
    subresources: dict[str, JsonValue] = {"status": {}}
    if envelope.has_scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    names: dict[str, JsonValue] = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": envelope.plural,
        "singular": singular,
        "shortNames": list(envelope.short_names),
        "categories": list(envelope.categories),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{envelope.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {key: value for key, value in names.items() if value != []},
            "scope": "Namespaced" if envelope.is_namespaced else "Cluster",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [column.to_dict() for column in envelope.columns],
                    "schema": {"openAPIV3Schema": _object_schema(model, envelope)},
                    "subresources": subresources,
                }
            ],
        },
    }


def _object_schema(model: type[BaseModel], envelope: Envelope) -> dict[str, JsonValue]:

    spec = schema_of(model, "spec")
    schema: dict[str, JsonValue] = {
        "description": " ".join((model.__doc__ or "").split()),
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string", "description": f"Version of the API: {API_VERSION}."},
            "kind": {"type": "string", "description": f"{model.__name__}."},
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": envelope.longest_name, "pattern": DNS_LABEL_PATTERN}
                },
            },
            "spec": spec,
            "status": schema_of(model, "status"),
        },
    }
    if "default" not in spec:
        schema["required"] = ["spec"]
    if rules := [stated.as_validation() for stated in rules_of(model)]:
        schema["x-kubernetes-validations"] = [*rules]
    return schema
