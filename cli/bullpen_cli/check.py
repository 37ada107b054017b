"""`bullpen check`: says what is wrong in YAML files, with file and line, without a cluster or a Redis."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bullpen.api import checks
from bullpen.api.checks import Report
from bullpen.api.findings import Finding
from bullpen_cli.output import Output, write_data


def check(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE…", help="YAML files, folders with *.yaml and *.yml, or - for standard input."),
    ],
    output: Annotated[
        Output, typer.Option("--output", "-o", help="How to write the findings.", case_sensitive=False)
    ] = Output.TABLE,
) -> None:
    """Check JobQueues and Redis connections in YAML files.

    Exit code 0: nothing worse than warnings. 1: errors, or a file that cannot be read. 2: a wrong call.
    """
    report = checks.check_files(files)
    match output:
        case Output.TABLE:
            _print_lines(report)
        case Output.JSON | Output.YAML:
            write_data(as_data(report), output)
    raise typer.Exit(1 if report.errors else 0)


def as_data(report: Report) -> dict[str, object]:
    """Give the report as plain data, the same for JSON and YAML."""
    return {
        "findings": [_finding(each) for each in report.findings],
        "objects": len(report.files.documents),
        "others": len(report.files.others),
        "errors": len(report.errors),
        "warnings": len(report.warnings),
    }


def summary(report: Report) -> str:
    """Give the last line for people."""
    loaded = report.files
    checked = _count(len(loaded.documents), "object")
    skipped = f", {_count(len(loaded.others), 'document')} of other kinds left aside" if loaded.others else ""
    return (
        f"{checked} checked{skipped}: {_count(len(report.errors), 'error')}, {_count(len(report.warnings), 'warning')}"
    )


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "severity": finding.severity,
        "file": finding.file,
        "line": finding.line or None,
        "document": finding.document or None,
        "field": finding.field or None,
        "found": finding.found,
        "allowed": finding.allowed,
        "message": finding.message,
    }


def _print_lines(report: Report) -> None:
    # soft_wrap: a line stays one line, so that editors and grep find its beginning; no colours unless it is a terminal
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, legacy_windows=False)
    for finding in report.findings:
        line = Text(str(finding) if finding.severity == "error" else f"{finding} (warning)")
        line.stylize("red" if finding.severity == "error" else "yellow")
        console.print(line)
    style = "bold red" if report.errors else "yellow" if report.warnings else "green"
    console.print(Text(summary(report), style=style))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
