"""What the kinds share: Kubernetes' metadata, conditions, references to other objects."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, StringConstraints
from pydantic.types import Strict

from bullpen.api.v1alpha1.base import (
    Allowed,
    DataKey,
    DnsLabel,
    Items,
    JobQueueName,
    Labels,
    Model,
    ObjectName,
    Passthrough,
)
from bullpen.api.v1alpha1.rules import Breach, rule

API_VERSION: Final = "bullpen.dev/v1alpha1"

Time = Annotated[AwareDatetime, Strict(strict=False), Allowed('a time such as "2027-01-02T03:04:05Z"')]
"""A point in time with its offset, in RFC 3339 where it is text."""


class Metadata(Model):
    """Kubernetes' metadata of an object, as people write it and as the API server completes it."""

    name: DnsLabel = Field(description="Name of the object, unique among its kind in the namespace.")
    namespace: DnsLabel | None = Field(
        default=None, description="Namespace of the object; a local run takes it as text and nothing more."
    )
    labels: Labels = Field(default_factory=dict, description="Labels, for selectors.")
    annotations: Labels = Field(default_factory=dict, description="Annotations, for tools.")
    uid: str | None = Field(default=None, max_length=128, description="Set by the API server.")
    resource_version: str | None = Field(default=None, max_length=128, description="Set by the API server.")
    generation: int | None = Field(default=None, ge=0, description="Set by the API server: counts changes of the spec.")
    creation_timestamp: Time | None = Field(default=None, description="Set by the API server.")
    deletion_timestamp: Time | None = Field(default=None, description="Set by the API server when deletion begins.")
    deletion_grace_period_seconds: int | None = Field(default=None, ge=0, description="Set by the API server.")
    finalizers: Items[Annotated[str, StringConstraints(max_length=256)]] = Field(
        default=(), max_length=64, description="Who must let go before the object is deleted."
    )
    owner_references: Items[Passthrough] = Field(
        default=(), max_length=64, description="Objects whose deletion deletes this one."
    )
    managed_fields: Items[Passthrough] = Field(
        default=(), max_length=1024, description="Set by the API server: which manager set which field."
    )
    generate_name: str | None = Field(default=None, max_length=253, description="Prefix that a name was made from.")
    self_link: str | None = Field(default=None, max_length=1024, description="Written by old API servers.")


class JobQueueMetadata(Metadata):
    """Metadata of a JobQueue, whose name is bounded further."""

    name: JobQueueName = Field(
        description="Name of the JobQueue, and of its queue unless `queueName` says otherwise: a DNS label of at most "
        "45 characters."
    )


class Condition(Model):
    """One aspect of an object's state, as Kubernetes writes conditions."""

    type: str = Field(max_length=316, description="The aspect, in CamelCase, such as Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds: True, False or Unknown.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the spec that the condition was decided on."
    )
    last_transition_time: Time = Field(description="When the status last changed.")
    reason: str = Field(max_length=1024, description="Why, in one CamelCase word, for machines.")
    message: str = Field(max_length=32_768, description="Why, in words, and what to do.")


Conditions = Annotated[
    tuple[Condition, ...],
    Strict(strict=False),
    Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


def condition(conditions: tuple[Condition, ...], type: str) -> Condition | None:
    """Give the condition of that type, if there is one."""
    return next((each for each in conditions if each.type == type), None)


class KeyReference(Model):
    """One key of a Secret or ConfigMap in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret or ConfigMap.")
    key: DataKey = Field(description="Key in its data.")


class LabelSelectorRequirement(Model):
    """One requirement on the value of a label."""

    key: str = Field(min_length=1, max_length=317, description="Label that the requirement is about.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label's value relates to `values`: In, NotIn, Exists or DoesNotExist."
    )
    values: Annotated[Items[Annotated[str, StringConstraints(max_length=63)]], Field(max_length=64)] | None = Field(
        default=None, description="Values for In and NotIn; none for Exists and DoesNotExist."
    )

    @rule(
        "!(self.operator in ['In', 'NotIn']) || (has(self.values) && size(self.values) > 0)",
        "an operator In or NotIn needs at least one value",
        at="values",
        reason="Required",
    )
    def _has_values_to_compare(self) -> bool:
        return self.operator not in {"In", "NotIn"} or bool(self.values)

    @rule(
        "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || size(self.values) == 0",
        "an operator Exists or DoesNotExist takes no values",
        at="values",
        reason="Forbidden",
    )
    def _has_no_values_to_ignore(self) -> Iterator[Breach]:
        if self.operator in {"Exists", "DoesNotExist"} and self.values:
            yield Breach(("values",), list(self.values))


class LabelSelector(Model):
    """Chooses objects by their labels; an empty selector chooses all."""

    match_labels: Labels = Field(default_factory=dict, description="Labels that must have exactly these values.")
    match_expressions: Items[LabelSelectorRequirement] = Field(
        default=(), max_length=32, description="Requirements that must all hold."
    )
