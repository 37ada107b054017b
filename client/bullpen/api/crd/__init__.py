"""The CustomResourceDefinitions of Bullpen's kinds, made from the models: `bullpen crd`."""

from collections.abc import Iterable

from pydantic import JsonValue

from bullpen.api.crd.definitions import ENVELOPES, GROUP, LARGEST, VERSION, Column, Envelope, definition
from bullpen.api.crd.structural import CrdError

__all__ = [
    "ENVELOPES",
    "GROUP",
    "LARGEST",
    "VERSION",
    "Column",
    "CrdError",
    "Envelope",
    "definition",
    "definitions",
    "to_yaml",
]

_HEAD = "# Made from the models by `bullpen crd`.\n"


def definitions() -> dict[str, dict[str, JsonValue]]:
    """Give all definitions by `kind`, in the order in which they are best read."""
    return {kind: definition(kind) for kind in ENVELOPES}


def to_yaml(crds: Iterable[dict[str, JsonValue]]) -> str:
    """Write definitions as YAML, one document each."""
    import yaml  # noqa: PLC0415 (slow to import, and only this needs it)

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _: object) -> bool:
            return True

    return _HEAD + "---\n".join(
        yaml.dump(crd, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120) for crd in crds
    )
