"""`bullpen doctor`: looks at a Redis and says what of it Bullpen cannot rely on, and what to do."""

import asyncio
import sys
from typing import Annotated

import typer

from bullpen import durations
from bullpen.redis import binding, health
from bullpen.redis.findings import Status
from bullpen.redis.health import HealthReport
from bullpen.redis.settings import RedisSettings
from bullpen_cli import arguments
from bullpen_cli.output import Output, write_data

_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.UNKNOWN: "dim"}
_VERDICTS = {
    Status.OK: "Bullpen can rely on this Redis.",
    Status.UNKNOWN: "Nothing speaks against this Redis; what the account may not read is unknown.",
    Status.WARN: "Bullpen works with this Redis; mind the warnings.",
    Status.FAIL: "Bullpen cannot rely on this Redis as it is.",
}


def doctor(
    *,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The Redis to look at. Without it: the queue's binding, else BULLPEN_REDIS_URL and its kin.",
        ),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="See also that the account may touch this queue's keys.")
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="How to write the findings.", case_sensitive=False)
    ] = Output.TABLE,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="How long to try, such as 5s or 500ms.")] = "5s",
) -> None:
    """Look at a Redis: can Bullpen rely on it, and what to change.

    Changes nothing there. Exit code 0 when nothing failed (warnings included), 1 when something did, 2 for a wrong call.
    """
    report = asyncio.run(health.examine(_settings(redis, queue), queue=queue, timeout=_seconds(timeout)))
    if output is Output.TABLE:
        _print_table(report)
    else:
        write_data(report.as_dict(), output)
    raise typer.Exit(0 if report.healthy else 1)


def _settings(redis: str | None, queue: str | None) -> RedisSettings:
    settings = arguments.redis_settings(redis)
    return binding.of_all(settings) if queue is None else binding.for_queue(settings, arguments.queue_name(queue))


def _seconds(text: str) -> float:
    try:
        ms = durations.parse_ms(text)
    except ValueError as error:
        raise typer.BadParameter(f"--timeout: {error}") from None
    if ms == 0:
        raise typer.BadParameter("--timeout: must be longer than nothing")
    return ms / 1000


def _print_table(report: HealthReport) -> None:
    from rich.console import Console  # noqa: PLC0415 (JSON and YAML need none of it)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=sys.stdout, highlight=False, legacy_windows=False)
    console.print(Text.assemble("Redis at ", (report.where, "bold"), f" (from {report.origin})"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        found = Text(finding.found)
        if finding.advice:
            found.append(f"\n→ {finding.advice}", style=_STYLES[finding.status])
        table.add_row(Text(finding.status.upper(), style=_STYLES[finding.status]), Text(finding.name), found)
    console.print(table)
    console.print(Text(_VERDICTS[report.status], style=_STYLES[report.status]))
