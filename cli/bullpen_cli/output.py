"""What commands write: results to the output, all else to the error output, each in the form that was asked for."""

import enum
import json
import sys
from collections.abc import Mapping

MAX_ERROR_LINES = 20


class Output(enum.StrEnum):
    """How a command writes what it found."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def write_data(data: Mapping[str, object], output: Output) -> None:
    """Write data as JSON or YAML, the same data either way."""
    if output is Output.YAML:
        import yaml  # noqa: PLC0415 (not every call needs it)

        sys.stdout.write(yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    else:
        sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def write_error(message: str) -> None:
    """Write an error for people, red where the error output is a terminal that wants colours."""
    from rich.console import Console  # noqa: PLC0415 (`bullpen --help` need not wait for it)
    from rich.text import Text  # noqa: PLC0415

    lines = message.rstrip().splitlines() or [""]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), "\n".join(lines[:MAX_ERROR_LINES])))
