"""`bullpen crd`: writes the CustomResourceDefinitions, for clusters that are set up without the chart."""

import enum
import json
import sys
from typing import Annotated

import typer

from bullpen.api import crd as crds


class Form(enum.StrEnum):
    """How the definitions are written."""

    YAML = "yaml"
    JSON = "json"


def crd(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KIND…",
            help=f"Only these: {', '.join(crds.ENVELOPES)}; plural and short names do too.",
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[
        Form, typer.Option("--output", "-o", help="YAML documents, or a JSON list.", case_sensitive=False)
    ] = Form.YAML,
) -> None:
    """Write the CustomResourceDefinitions of JobQueue and of the Redis connections.

    They are those of the chart, which brings them along: this is for clusters without it, and for editors and tools that
    check YAML against a schema.

    ```text
    bullpen crd | kubectl apply -f -
    bullpen crd | kubectl diff -f -
    bullpen crd jobqueue > jobqueue-crd.yaml
    bullpen crd jobq -o json | jq .items[0].spec.versions[0].schema
    ```

    Exit code 0: written. 2: a wrong call.
    """
    chosen = [crds.definition(kind) for kind in crds.ENVELOPES if kind in _chosen(kinds or list(crds.ENVELOPES))]
    if output is Form.YAML:
        sys.stdout.write(crds.to_yaml(chosen))
    else:
        listed = {"apiVersion": "v1", "kind": "List", "items": chosen}
        sys.stdout.write(json.dumps(listed, ensure_ascii=False, indent=2) + "\n")


def _chosen(names: list[str]) -> set[str]:
    by_name = {
        name: kind
        for kind, envelope in crds.ENVELOPES.items()
        for name in (kind.lower(), envelope.plural, *envelope.short_names)
    }
    chosen = set()
    for name in names:
        kind = by_name.get(name.lower().removesuffix(f".{crds.GROUP}"))
        if kind is None:
            raise typer.BadParameter(f"{name!r} is not a kind of Bullpen's; there are: {', '.join(crds.ENVELOPES)}")
        chosen.add(kind)
    return chosen
