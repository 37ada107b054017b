"""What users did, by the API server's own audit log: which verbs on which resources, and what was refused.

    audit = Audit(api_server.audit_log)
    start = audit.mark()
    ...
    did = audit.since(start, user="system:serviceaccount:bullpen:operator")
    did.refused()                    # events that RBAC answered with no
    did.uses()                       # {Use(verb="patch", group="apps", resource="deployments/scale", namespace="shop"): 3}
    unused(rules, did)               # what a role grants and nobody used

The server writes an event when it has answered, so what a test has seen an effect of is in the log; a watch is there as
soon as it began. The log is one of the whole server: name the user, or take a mark.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, order=True)
class Use:
    """One thing that RBAC can allow."""

    verb: str
    group: str
    resource: str
    """With its subresource, as a role names it: deployments/scale."""
    namespace: str = ""
    """Empty: of the cluster, or of all namespaces."""

    def __str__(self) -> str:
        """As a person reads it: patch deployments/scale.apps in shop."""
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {kind}{f' in {self.namespace}' if self.namespace else ''}"


@dataclass(frozen=True)
class Event:
    """One request, as the log has it."""

    user: str
    use: Use
    name: str
    status: int
    allowed: bool
    manager: str
    """The field manager that the request named, or empty."""
    uri: str
    body: Mapping[str, Any] | None
    """What was sent, where it wrote and was no Secret."""
    at: str


class Did(Sequence[Event]):
    """What happened, in order."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = tuple(events)

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: Any) -> Any:
        return self._events[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def by(self, *users: str) -> "Did":
        """What these users did."""
        return Did(event for event in self if event.user in users)

    def uses(self) -> Counter[Use]:
        """How often each thing was asked for."""
        return Counter(event.use for event in self)

    def refused(self) -> list[Event]:
        """What RBAC said no to."""
        return [event for event in self if not event.allowed]

    def writes(self, *resources: str) -> "Did":
        """What changed something, or tried to: all, or of these resources."""
        reading = {"get", "list", "watch"}
        return Did(e for e in self if e.use.verb not in reading and (not resources or e.use.resource in resources))


class Audit:
    """The audit log of one API server."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def mark(self) -> int:
        """Where the log ends now."""
        return self._log.stat().st_size if self._log.exists() else 0

    def since(self, mark: int = 0, *, user: str = "") -> Did:
        """What was answered since: by one user, or by all. Requests for no resource (/readyz, discovery) are left out."""
        if not self._log.exists():
            return Did(())
        with self._log.open("rb") as log:
            log.seek(mark)
            lines = log.read().split(b"\n")[:-1]  # the last one is empty, or still being written
        return Did(_latest(event for event in map(_event, map(json.loads, lines)) if user in ("", event[1].user)))


def unused(rules: Iterable[Mapping[str, Sequence[str]]], did: Did) -> list[Use]:
    """What these rules of a role allow and nobody asked for; of `*`, that it is one."""
    asked = {(use.verb, use.group, use.resource) for use in did.uses()}
    allowed = [
        Use(verb, group, resource)
        for rule in rules
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
        for verb in rule["verbs"]
    ]
    return [use for use in allowed if (use.verb, use.group, use.resource) not in asked]


def _latest(events: Iterable[tuple[str, Event]]) -> list[Event]:
    # A watch is there twice, when it begins and when it ends, by one audit id.
    return list({audit_id: event for audit_id, event in events if event.use.resource}.values())


def _event(line: dict[str, Any]) -> tuple[str, Event]:
    target = line.get("objectRef", {})
    resource = target.get("resource", "")
    if subresource := target.get("subresource"):
        resource = f"{resource}/{subresource}"
    return line["auditID"], Event(
        user=line.get("impersonatedUser", line["user"])["username"],
        use=Use(line["verb"], target.get("apiGroup", ""), resource, target.get("namespace", "")),
        name=target.get("name", ""),
        status=line.get("responseStatus", {}).get("code", 0),
        allowed=line.get("annotations", {}).get("authorization.k8s.io/decision") != "forbid",
        manager=_parameter(line["requestURI"], "fieldManager"),
        uri=line["requestURI"],
        body=line.get("requestObject"),
        at=line["requestReceivedTimestamp"],
    )


def _parameter(uri: str, name: str) -> str:
    return parse_qs(urlsplit(uri).query).get(name, [""])[0]
