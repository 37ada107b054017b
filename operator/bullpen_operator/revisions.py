"""Keeps the last good spec of each JobQueue, in a ControllerRevision: a bad edit, and a restart, change nothing that runs.

One revision a JobQueue, named after the spec's content, so that whether it is there needs no reading. It belongs to its
JobQueue and goes with it.
"""

import logging
from typing import Final

from bullpen_operator.desired import differences, naming
from bullpen_operator.kube import kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import Conflict
from bullpen_operator.kube.kinds import Key, Object

log = logging.getLogger("bullpen.operator.revisions")

OURS: Final = f"{kinds.LABEL_MANAGED_BY}={kinds.MANAGED_BY}"


class Revisions:
    """The last good specs. `load` first: it finds which there are."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._names: dict[tuple[str, str], set[str]] = {}

    async def load(self, namespaces: tuple[str, ...]) -> None:
        """Find the revisions that there are, in these namespaces or in all. Raises `KubeError`."""
        self._names.clear()
        for namespace in namespaces or ("",):
            for each in await self._kube.list_metadata(kinds.CONTROLLER_REVISION, namespace, OURS):
                queue = kinds.labels_of(each).get(kinds.LABEL_JOBQUEUE, "")
                place = (each["metadata"]["namespace"], queue)
                self._names.setdefault(place, set()).add(each["metadata"]["name"])

    async def keep(self, jobqueue: Object) -> bool:
        """Keep this spec as the last good one. Gives whether it is another than before. Raises `KubeError`."""
        metadata = jobqueue["metadata"]
        place = (metadata["namespace"], metadata["name"])
        name = f"{metadata['name']}-{differences.fingerprint({'uid': metadata['uid'], 'spec': jobqueue['spec']})[:10]}"
        known = self._names.get(place, set())
        if known == {name}:
            return False
        if name not in known:
            try:
                await self._kube.create(_revision(jobqueue, name))
            except Conflict:
                log.debug("revision_exists", extra={"revision": name})
            self._names.setdefault(place, set()).add(name)
        for old in known - {name}:
            await self._kube.delete(kinds.CONTROLLER_REVISION, place[0], old)
            self._names[place].discard(old)
        return True

    async def last_good(self, jobqueue: Object) -> Object | None:
        """Give the last good spec; None where there was none. Raises `KubeError`."""
        metadata = jobqueue["metadata"]
        if not self._names.get((metadata["namespace"], metadata["name"])):
            return None
        labels = f"{OURS},{kinds.LABEL_JOBQUEUE}={metadata['name']}"
        found = await self._kube.list(kinds.CONTROLLER_REVISION, metadata["namespace"], labels)
        mine = [each for each in found if naming.belongs_to(each, jobqueue)]
        latest = max(mine, key=lambda each: int(each.get("revision") or 0), default=None)
        spec: Object | None = None if latest is None else (latest.get("data") or {}).get("spec")
        return spec

    def forget(self, key: Key) -> None:
        """Forget a JobQueue that is gone."""
        self._names.pop((key.namespace, key.name), None)


def _revision(jobqueue: Object, name: str) -> Object:
    return {
        "apiVersion": kinds.CONTROLLER_REVISION.api_version,
        "kind": kinds.CONTROLLER_REVISION.kind,
        "metadata": naming.metadata(jobqueue, name),
        "revision": jobqueue["metadata"].get("generation", 1),
        "data": {"spec": jobqueue["spec"]},
    }
