"""JSON schemas for kubeconform out of what an API server says of itself: strict, for exactly that version, our kinds included."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.kubernetes.api import Api

Schema = dict[str, Any]

LOCATION = "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json"
"""How kubeconform finds a schema in the folder; of the core group it takes the version for the group."""


def write(api: Api, folder: Path) -> None:
    """Write a schema for each kind that the server knows, as strict as its own field validation is."""
    for place in api.request("GET", "/openapi/v3")["paths"]:
        parts = place.split("/")
        if parts[0] == "api" and len(parts) == 2:
            group, version = "", parts[1]
        elif parts[0] == "apis" and len(parts) == 3:
            _, group, version = parts
        else:
            continue
        schemas: Schema = api.request("GET", f"/openapi/v3/{place}")["components"]["schemas"]
        for schema in schemas.values():
            _tighten(schema)
        for name, kind in _kinds(schemas, group, version):
            text = json.dumps({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})
            (folder / f"{kind.lower()}-{group or version}-{version}.json").write_text(text)


def _kinds(schemas: Schema, group: str, version: str) -> Iterator[tuple[str, str]]:
    for name, schema in schemas.items():
        for which in schema.get("x-kubernetes-group-version-kind", ()):
            if (which["group"], which["version"]) == (group, version) and "metadata" in schema.get("properties", {}):
                yield name, which["kind"]


def _tighten(schema: Schema) -> None:
    """Refuse properties that are not there, wherever the server would; in place."""
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for inner in schema.get("properties", {}).values():
        _tighten(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _tighten(schema[key])
