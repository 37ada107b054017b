"""What a request to the API server asks for, as RBAC and the audit log name it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_GROUP = re.compile(r"^/(?:api/[^/]+|apis/(?P<group>[^/]+)/[^/]+)/(?P<rest>.+)$")


@dataclass(frozen=True)
class Attributes:
    """Verb and resource of one request; `resource` is empty where it is for something else, as /readyz."""

    verb: str
    group: str = ""
    resource: str = ""
    """With its subresource: deployments, deployments/scale."""
    namespace: str = ""
    name: str = ""


def attributes(method: str, path: str, query: Mapping[str, str]) -> Attributes:
    """What this request is to the API server."""
    match = _GROUP.match(path)
    if match is None:
        return Attributes(method.lower())
    parts = match["rest"].strip("/").split("/")
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts[:3], "", "")[:3]
    if method in ("GET", "HEAD"):
        verb = "get" if name else "list"
        if query.get("watch") in ("true", "1", "True"):
            verb = "watch"
    else:
        verb = VERBS.get(method, method.lower())
        if verb == "delete" and not name:
            verb = "deletecollection"
    if subresource:
        resource = f"{resource}/{subresource}"
    return Attributes(verb, match["group"] or "", resource, namespace, name)
