"""`bullpen enqueue`: adds one job, from a shell or a script, and waits for its result if asked."""

import contextlib
import json
import sys
import threading
from collections.abc import Generator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bullpen import durations
from bullpen.clients.handles import SyncJobHandle
from bullpen.clients.sync_client import SyncClient
from bullpen.errors import BullpenError, JobCancelled, JobFailed, OptionInvalid, ResultTimeout
from bullpen.jobs import check_name
from bullpen.options import EnqueueOptions
from bullpen.payloads import JsonObject
from bullpen_cli import arguments
from bullpen_cli.output import Output, write_data, write_error

LOOK_EVERY_SECONDS: Final = 1.0
"""How often the state is shown anew while somebody watches."""


def enqueue(
    queue: Annotated[str, typer.Argument(help="The queue's name.", show_default=False)],
    name: Annotated[str, typer.Argument(help="The job's name.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Argument(metavar="JSON|-", help="The payload, a JSON object; - reads it from standard input; none: {}."),
    ] = None,
    *,
    data_file: Annotated[
        Path | None, typer.Option("--data-file", metavar="FILE", help="Read the payload from a file.")
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Start after 5m, 1h30m, or at 2027-01-01T08:00:00Z.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="N|LEVEL", help="1 is first; or a level of the queue, such as high.")
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--job-id", metavar="ID", help="The job's id; while it is kept, no second is added.")
    ] = None,
    attempts: Annotated[int | None, typer.Option(metavar="N", min=1, help="How often it may run.")] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="How long one attempt may take.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Fail the job if it has not started by then.")
    ] = None,
    lifo: Annotated[bool, typer.Option("--lifo", help="Start it before those that wait.")] = False,
    wait: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Wait so long for the job's end, and write its result.")
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where Redis is; else the queue's binding, else BULLPEN_REDIS_URL and its kin.",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="The prefix of the queue's keys; else BULLPEN_PREFIX, else bull.")
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="How to write id and result.", case_sensitive=False)
    ] = Output.TABLE,
) -> None:
    """Add a job to a queue. Writes its id, and with --wait its result.

    ```text
    bullpen enqueue emails welcome '{"userId": 7}'
    bullpen enqueue emails welcome '{"userId": 7}' --delay 5m --wait 10m
    jq -c .user user.json | bullpen enqueue emails welcome -
    id=$(bullpen enqueue emails digest --job-id digest-7-2027)
    ```

    Exit code 0 when Redis has the job (with --wait: when it has completed), 1 when it could not be added, failed, was
    cancelled or had not ended in time, 2 for a wrong call.
    """
    payload = _payload(data, data_file)
    options = _options(delay, priority, job_id, attempts, timeout, expires, lifo=lifo)
    patience = _duration("--wait", wait)
    arguments.queue_name(queue)
    with arguments.wrong_calls():
        check_name(name)
    with SyncClient(arguments.redis_settings(redis, prefix)) as client:
        try:
            handle = client.queue(queue).enqueue(name, payload, **options)
        except OptionInvalid as error:
            raise typer.BadParameter(str(error)) from None
        if patience is None:
            _write(queue, name, handle.id, output)
            return
        if output is Output.TABLE:  # at once: whoever gives up waiting has it
            sys.stdout.write(f"{handle.id}\n")
            sys.stdout.flush()
        try:
            result = _result(handle, name, patience)
        except (JobFailed, JobCancelled, ResultTimeout) as error:
            _fail(queue, name, handle.id, error, output)
            raise typer.Exit(1) from None
        if output is Output.TABLE:
            sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        else:
            write_data(
                {"id": handle.id, "queue": queue, "name": name, "outcome": "completed", "result": result}, output
            )


def _payload(data: str | None, file: Path | None) -> JsonObject:
    if data is not None and file is not None:
        msg = "give the payload as an argument or by --data-file, not both"
        raise typer.BadParameter(msg)
    if file is not None:
        where = str(file)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"--data-file: cannot read {file}: {error.strerror if isinstance(error, OSError) else error}"
            raise typer.BadParameter(msg) from None
    elif data == "-":
        where = "the standard input"
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            msg = f"{where} is not UTF-8: {error}"
            raise typer.BadParameter(msg) from None
    else:
        where, text = "the payload", data if data is not None else "{}"
    try:
        payload: JsonValue = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; quote it as '{{\"userId\": 7}}'"
        raise typer.BadParameter(msg) from None
    except (ValueError, RecursionError):
        msg = f"{where} cannot be read: it is nested too deeply, or has a number of thousands of digits"
        raise typer.BadParameter(msg) from None
    if not isinstance(payload, dict):
        msg = f'{where} is no JSON object, such as {{"userId": 7}}: a job\'s payload is parameters by name'
        raise typer.BadParameter(msg)
    return payload


def _options(
    delay: str | None,
    priority: str | None,
    job_id: str | None,
    attempts: int | None,
    timeout: str | None,
    expires: str | None,
    *,
    lifo: bool,
) -> EnqueueOptions:
    options = EnqueueOptions()
    if delay is not None:
        options["delay"] = _moment("--delay", delay)
    if priority is not None:
        options["priority"] = int(priority) if priority.isascii() and priority.isdigit() else priority
    if job_id is not None:
        options["job_id"] = job_id
    if attempts is not None:
        options["attempts"] = attempts
    if timeout is not None:
        options["timeout"] = timeout
    if expires is not None:
        options["expires"] = _moment("--expires", expires)
    if lifo:
        options["lifo"] = True
    return options


def _moment(option: str, text: str) -> timedelta | datetime:
    """Read a length of time, or a date and time with its zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return durations.parse(text)
        except ValueError as error:
            msg = f"{option}: {error}, or a time such as 2027-01-01T08:00:00Z"
            raise typer.BadParameter(msg) from None
    if moment.tzinfo is None:
        msg = f"{option}: {text} names no time zone; write {moment.isoformat()}Z for UTC, or an offset such as +01:00"
        raise typer.BadParameter(msg)
    return moment


def _duration(option: str, text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        duration = durations.parse(text)
    except ValueError as error:
        msg = f"{option}: {error}"
        raise typer.BadParameter(msg) from None
    if not duration:
        msg = f"{option}: must be longer than nothing"
        raise typer.BadParameter(msg)
    return duration


def _result(handle: SyncJobHandle[JsonValue], name: str, patience: timedelta) -> JsonValue:
    """Wait for the result; on a terminal, show how far the job is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return handle.result(timeout=patience)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress, _showing(handle, name, progress):
        return handle.result(timeout=patience)


@contextlib.contextmanager
def _showing(handle: SyncJobHandle[JsonValue], name: str, progress: Progress) -> Generator[None]:
    """Show in a thread how far the job is, beside the one wait for its end: that one outlives a Redis that is away."""
    bar = progress.add_task(f"{name}: waiting", total=None)
    over = threading.Event()

    def show() -> None:
        while not over.wait(LOOK_EVERY_SECONDS):
            with contextlib.suppress(BullpenError):  # away, or gone: what waits says so
                info = handle.info()
                done = info.progress if isinstance(info.progress, int | float) else None
                progress.update(bar, description=f"{name}: {info.state}", total=100 if done is not None else None)
                if done is not None:
                    progress.update(bar, completed=float(min(100, max(0, done))))

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _write(queue: str, name: str, job_id: str, output: Output) -> None:
    if output is Output.TABLE:
        sys.stdout.write(f"{job_id}\n")
    else:
        write_data({"id": job_id, "queue": queue, "name": name}, output)


def _fail(queue: str, name: str, job_id: str, error: BullpenError, output: Output) -> None:
    if output is not Output.TABLE:
        kind = {JobFailed: "failed", JobCancelled: "cancelled"}.get(type(error), "not ended")
        write_data({"id": job_id, "queue": queue, "name": name, "outcome": kind, "reason": str(error)}, output)
    match error:
        case JobFailed():
            times = f" after {error.attempts} attempts" if error.attempts > 1 else ""
            kind = f"{error.error_type}: " if error.error_type and not error.reason.startswith(error.error_type) else ""
            write_error(f"job {job_id} ({name}) failed{times}: {kind}{error.reason}")
        case JobCancelled():
            write_error(f"job {job_id} ({name}) was cancelled" + (f": {error.reason}" if error.reason else ""))
        case _:
            write_error(f"job {job_id} ({name}) has not ended yet; it goes on")
