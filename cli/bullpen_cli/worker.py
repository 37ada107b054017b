"""`bullpen worker`: runs the jobs of one queue until it is told to stop."""

import socket
from typing import Annotated

import typer

from bullpen import durations
from bullpen.errors import ConfigurationError
from bullpen.redis import binding
from bullpen_cli import arguments
from bullpen_worker.executors.recycling import Recycling
from bullpen_worker.reports import logs, probes
from bullpen_worker.reports.logs import JobLines, LogFormat, LogLevel, LogSettings
from bullpen_worker.supervision import supervisor
from bullpen_worker.supervision.config import WorkerConfig


def worker(
    handlers: Annotated[
        list[str],
        typer.Option(
            metavar="MODULE",
            envvar="BULLPEN_HANDLERS",
            help="Module with handlers: shop.jobs, or one registry of it: shop.jobs:emails. More than one may be given.",
            show_default=False,
        ),
    ],
    queue: Annotated[
        str, typer.Option(envvar="BULLPEN_QUEUE", help="The queue whose jobs are run.", show_default=False)
    ],
    *,
    concurrency: Annotated[
        int | None,
        typer.Option(
            envvar="BULLPEN_CONCURRENCY",
            min=1,
            max=10_000,
            help="Jobs at once, over all processes; else what the queue's policy says, at run time too, else 10.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(envvar="BULLPEN_PROCESSES", min=1, max=256, help="Processes that run handlers.")
    ] = 1,
    grace: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            envvar="BULLPEN_GRACE",
            help="How long running jobs may go on after SIGTERM; the rest goes back unspent.",
        ),
    ] = "30s",
    recycle_jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            envvar="BULLPEN_RECYCLE_JOBS",
            min=1,
            help='Replace a process of executor="process" after so many jobs; else never.',
            show_default=False,
        ),
    ] = None,
    recycle_mib: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            envvar="BULLPEN_RECYCLE_MIB",
            min=1,
            help="Replace one that holds more memory than this after a job; else never.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            envvar="BULLPEN_WORKER_NAME",
            help="What the worker's name in tools and logs begins with; else the host's name.",
        ),
    ] = None,
    probe_address: Annotated[
        str | None,
        typer.Option(
            "--probes",
            metavar="HOST:PORT",
            envvar="BULLPEN_PROBES",
            help="Serve /healthz, /readyz and /metrics there; 0.0.0.0:8080 for all.",
        ),
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
    log_format: Annotated[
        LogFormat | None,
        typer.Option(envvar="BULLPEN_LOG_FORMAT", help="Else console on a terminal, json not."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(envvar="BULLPEN_LOG_LEVEL", help="The least to be logged.")] = "info",
    log_jobs: Annotated[
        JobLines,
        typer.Option(
            envvar="BULLPEN_LOG_JOBS",
            help=f"A line for each job: up to {logs.LINES_PER_SECOND} a second, all, or none for completed ones.",
        ),
    ] = "sampled",
) -> None:
    """Run the jobs of a queue with the handlers of your modules, until SIGTERM or Ctrl-C.

    The first signal starts no new job and lets running ones finish within the grace period; a second one gives them
    back at once. Modules are looked for in the current directory, too.

    ```text
    bullpen worker --handlers shop.jobs --queue emails
    bullpen worker --handlers shop.jobs --queue emails --concurrency 50
    bullpen worker --handlers shop.jobs --queue emails --probes :8080
    ```

    Exit code 0 when it was told to stop, 1 when it could not start or go on, 2 for a wrong call.
    """
    worker_name = name or socket.gethostname()
    arguments.queue_name(queue)
    config = WorkerConfig(
        queue=queue,
        handlers=tuple(handlers),
        redis=binding.for_queue(arguments.redis_settings(redis, prefix), queue),
        concurrency=concurrency,
        processes=processes,
        grace_ms=_grace(grace),
        recycling=Recycling(recycle_jobs, None if recycle_mib is None else recycle_mib * 1024 * 1024),
        name=worker_name,
        probes=_probes(probe_address),
        log=LogSettings(queue, worker_name, log_format, log_level, log_jobs),
    )
    raise typer.Exit(supervisor.run(config))


def _grace(text: str) -> int:
    try:
        return durations.parse_ms(text)
    except ValueError as error:
        msg = f"--grace: {error}"
        raise typer.BadParameter(msg) from None


def _probes(text: str | None) -> probes.Address | None:
    try:
        return None if text is None else probes.parse_address(text)
    except ConfigurationError as error:
        raise typer.BadParameter(f"--{error}") from None
