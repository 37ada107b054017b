"""The Secrets and ConfigMaps of an API server, in memory: for tests of what lies between them and Redis."""

import base64
from typing import Any

from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Unavailable
from bullpen_operator.kube.kinds import Kind


class Secrets:
    """Gives what was put, and takes what is applied."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.reads = 0
        self.applied: list[dict[str, Any]] = []
        self.away = False

    def put(self, namespace: str, name: str, **data: str) -> None:
        """Put a Secret with this data."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        obj = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "data": encoded,
        }
        self._objects["Secret", namespace, name] = obj

    def data(self, namespace: str, name: str) -> dict[str, str]:
        """Give what a Secret holds, decoded."""
        found = self._objects["Secret", namespace, name]["data"]
        return {key: base64.b64decode(value).decode() for key, value in found.items()}

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """Give an object."""
        self.reads += 1
        if self.away:
            msg = "GET: refused"
            raise Unavailable(msg)
        return self._objects.get((kind.kind, namespace, name))

    async def apply(
        self, obj: dict[str, Any], manager: str = kinds.MANAGER, *, force: bool = True, dry_run: bool = False
    ) -> dict[str, Any]:
        """Take an object whole."""
        metadata = obj["metadata"]
        self._objects[obj["kind"], metadata["namespace"], metadata["name"]] = obj
        self.applied.append(obj)
        return obj
