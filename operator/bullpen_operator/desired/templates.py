"""How `worker.podTemplate` is merged over the pod template that Bullpen makes. Pure.

- Mappings are merged key by key; `null` removes what we set.
- Lists of things with a name are merged thing by thing, by the key that Kubernetes itself merges them by: containers,
  initContainers, volumes, env, imagePullSecrets and resourceClaims by `name`, volumeMounts by `mountPath`, volumeDevices by
  `devicePath`, ports by `containerPort`, hostAliases by `ip`, topologySpreadConstraints by `topologyKey`.
- Tolerations are added to ours. All other lists replace ours.
- Our container is called `worker`. Labels that Bullpen finds its pods by stay as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bullpen_operator.kube.kinds import Object

MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "claims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""The lists that are merged, and the key of their items."""

APPENDED: Final = frozenset({"tolerations"})


def merge(ours: Object, theirs: Mapping[str, Any]) -> Object:
    """Give ours with theirs merged over it; neither is changed. For whole pod templates, and for mappings within them."""
    merged = dict(ours)
    for name, value in theirs.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(name, merged.get(name), value)
    return merged


def merge_pod_template(ours: Object, theirs: Mapping[str, Any]) -> Object:
    """Give our pod template with theirs over it, but for the labels and names that Bullpen goes by."""
    allowed: Object = {}
    if isinstance(metadata := theirs.get("metadata"), Mapping):
        allowed["metadata"] = {name: metadata[name] for name in ("labels", "annotations") if name in metadata}
    if isinstance(spec := theirs.get("spec"), Mapping):
        allowed["spec"] = spec
    merged = merge(ours, allowed)
    metadata = dict(merged.get("metadata") or {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **ours["metadata"]["labels"]}
    merged["metadata"] = metadata
    return merged


def _merged(name: str, ours: Any, theirs: Any) -> Any:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return merge(dict(ours), theirs)
    if isinstance(theirs, Mapping):
        return merge({}, theirs)
    if not isinstance(theirs, Sequence) or isinstance(theirs, str):
        return theirs
    if isinstance(ours, list) and name in APPENDED:
        return [*ours, *theirs]
    key = MERGE_KEYS.get(name)
    if key is None or not all(is_named(item, key) for item in theirs):
        return list(theirs)
    return _merged_items(key, ours if isinstance(ours, list) else [], theirs)


def is_named(item: Any, key: str) -> bool:
    """Whether this is an item of a list that is known by its key; anything else is for the API server to refuse."""
    return isinstance(item, Mapping) and isinstance(item.get(key), str | int)


def identity(item: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    """Give what an item is known by: its key, and the protocol of a port: there are 53/TCP and 53/UDP."""
    return (item[key], str(item.get("protocol") or "TCP")) if key == "containerPort" else (item[key],)


def _merged_items(key: str, ours: Sequence[Object], theirs: Sequence[Mapping[str, Any]]) -> list[Object]:
    items = {identity(item, key): dict(item) for item in ours if is_named(item, key)}
    for item in theirs:
        known = identity(item, key)
        items[known] = merge(items.get(known, {}), item)
    return list(items.values())
