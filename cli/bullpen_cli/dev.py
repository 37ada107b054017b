"""`bullpen dev`: the queues of a YAML file at work on this machine."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bullpen import embedded
from bullpen.api import checks, files
from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import BullpenError, ConfigurationError
from bullpen.redis.settings import RedisSettings
from bullpen_cli import arguments
from bullpen_cli.local import environment, plan
from bullpen_cli.local.plan import LocalQueue
from bullpen_cli.local.session import Beside, Session
from bullpen_cli.local.view import LiveView, PlainView, View

LOOK_EVERY_SECONDS = 1.0
OWN_PREFIX = "bull"
"""The prefix in a Redis that local mode started itself: BullMQ's default, so that any client finds the queues."""


def dev(
    files: Annotated[
        list[str],
        typer.Option("--file", "-f", metavar="FILE", help="YAML with JobQueues; a folder, or - for standard input."),
    ],
    redis: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Another Redis than the embedded one; the keys get a prefix of their own."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Prefix of the keys; for --redis the default names you and this folder.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Where the embedded Redis keeps its data between runs.")] = Path(
        ".bullpen"
    ),
    env_file: Annotated[
        Path | None, typer.Option(help="NAME=value lines: the environment's variables that YAML takes from Secrets.")
    ] = None,
    until_idle: Annotated[
        bool,
        typer.Option("--until-idle", help="End when nothing waits, runs or is due; exit 1 when jobs failed for good."),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="At the end write the account of each queue there, as JSON.")
    ] = None,
    reload: Annotated[
        bool, typer.Option(help="Take up changes of the YAML and of Python files in this folder.")
    ] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines in place of the live view.")] = False,
    beside: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND…", help="Run beside the workers, once the queues are declared."),
    ] = None,
) -> None:
    """Run the queues of a YAML file on this machine: an embedded Redis, and workers that follow the work.

    What stands behind -- is run beside them, with BULLPEN_REDIS_URL set, once the queues are declared.

    Ctrl-C lets workers finish what they run; a second one has them give it back.

    Examples:
      bullpen dev -f queues.yaml

      bullpen dev -f queues.yaml --env-file .env --redis redis://localhost:6379/0

      bullpen dev -f queues.yaml --until-idle -- python -m shop.seed
    """
    if redis is not None or prefix is not None:
        arguments.redis_settings(redis, prefix)
    options = Options(
        files=files,
        redis=redis,
        prefix=prefix,
        data=data,
        env_file=env_file,
        until_idle=until_idle,
        report=report,
        reload=reload and not until_idle,
        beside=beside or [],
    )
    shown: View = LiveView(Console()) if sys.stdout.isatty() and not plain else PlainView(sys.stdout)
    try:
        code = asyncio.run(run(options, shown))
    except BullpenError as error:
        shown.close()
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from error
    raise typer.Exit(code)


@dataclass(frozen=True)
class Options:
    """The command line."""

    files: Sequence[str]
    redis: str | None
    prefix: str | None
    data: Path
    env_file: Path | None
    until_idle: bool
    report: Path | None
    reload: bool
    beside: Sequence[str]


async def run(options: Options, shown: View) -> int:
    """Run local mode by its options and give the exit code. Raises `BullpenError` for what makes a start impossible."""
    if options.report is not None and not options.report.absolute().parent.is_dir():
        msg = f"--report {options.report}: there is no folder {options.report.parent}"
        raise ConfigurationError(msg)
    secrets = environment.read_env_file(options.env_file) if options.env_file else {}
    jobqueues = read_jobqueues(options, shown)
    plan.plan_all(jobqueues, prefix=OWN_PREFIX, inherited={}, secrets=secrets)  # mistakes first, before any server
    async with redis_for(options, shown) as (url, prefix, name):
        inherited = {**os.environ, "BULLPEN_REDIS_URL": url, "BULLPEN_PREFIX": prefix}
        for elsewhere in ("BULLPEN_REDIS_URL_FILE", "SERVICE_BINDING_ROOT"):
            inherited.pop(elsewhere, None)

        def reread() -> dict[str, LocalQueue]:
            again = read_jobqueues(options, shown, quiet=True)
            return plan.plan_all(again, prefix=prefix, inherited=inherited, secrets=secrets)

        plans = plan.plan_all(jobqueues, prefix=prefix, inherited=inherited, secrets=secrets)
        shown.say(f"Redis: {name}, prefix {prefix!r}; for your own programs: BULLPEN_REDIS_URL={hide_password(url)}")
        beside = None
        if options.beside:
            beside = Beside(options.beside, {"BULLPEN_REDIS_URL": url, "BULLPEN_PREFIX": prefix})
        session = Session(
            plans,
            RedisSettings.from_environment(url=url, origin="--redis").model_copy(update={"prefix": prefix}),
            shown,
            redis_name=name,
            beside=beside,
            until_idle=options.until_idle,
            changes=watch(options.files) if options.reload else None,
            reload=None if files.STDIN in options.files else reread,  # standard input comes once
        )
        with stopped_by_signals(session):
            code = await session.run()
        if options.report is not None:
            session.write_report(options.report)
        return code


def read_jobqueues(options: Options, shown: View, *, quiet: bool = False) -> tuple[JobQueue, ...]:
    """Read the JobQueues of the YAML. Raises `ConfigurationError` with all that is wrong, a line each."""
    found = checks.check_files(options.files)
    if found.errors:
        raise ConfigurationError("\n".join(str(finding) for finding in found.errors))
    for finding in () if quiet else found.warnings:
        shown.say(f"warning: {finding}", style="yellow")
    if not found.files.jobqueues:
        msg = f"no JobQueue in {', '.join(options.files)}"
        raise ConfigurationError(msg)
    return found.files.jobqueues


@contextlib.asynccontextmanager
async def redis_for(options: Options, shown: View) -> AsyncGenerator[tuple[str, str, str]]:
    """Give URL, prefix and a name of the Redis to use; start the embedded one where none was named."""
    if options.redis is not None:
        settings = RedisSettings.from_environment(url=options.redis, origin="--redis")
        yield options.redis, options.prefix or prefix_of_this_folder(), settings.where
        return
    server = await asyncio.to_thread(embedded.start, options.data, say=shown.say)
    watch_over = asyncio.create_task(keep_running(server, shown))
    try:
        yield server.url, options.prefix or OWN_PREFIX, f"{server.binary}"
    finally:
        watch_over.cancel()
        await asyncio.gather(watch_over, return_exceptions=True)
        await asyncio.to_thread(server.stop)


async def keep_running(server: embedded.Server, shown: View) -> None:
    """Start the embedded Redis again when somebody ends it: its jobs are in its append-only file."""
    while True:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        if not server.running:
            shown.say("The embedded Redis has ended; starting it again", style="yellow")
            try:
                await asyncio.to_thread(server.restart)
            except (BullpenError, OSError) as error:
                shown.say(f"The embedded Redis cannot be started: {error}", style="red")


def prefix_of_this_folder() -> str:
    """Name the user and the folder, so that two laptops on one Redis do not work on each other's jobs."""
    words = f"dev-{environment.user_name()}-{Path.cwd().name}"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", words)[:100]


def hide_password(url: str) -> str:
    """Blot the password of a URL out."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)  # a password may have an @ in it, too


def watch(files: Sequence[str]) -> Callable[[], Coroutine[object, object, set[str]]]:
    """Give what waits for the next change of the YAML files or of Python files below this folder."""
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - not every run watches

    folders = {Path.cwd(), *(Path(file).resolve().parent for file in files if file != "-")}
    wanted = PythonFilter(extra_extensions=[".yaml", ".yml"])
    changes = awatch(*folders, watch_filter=wanted, debounce=400, recursive=True)

    async def next_change() -> set[str]:
        return {path for _, path in await anext(changes)}

    return next_change


@contextlib.contextmanager
def stopped_by_signals(session: Session) -> Generator[None]:
    """Have Ctrl-C and SIGTERM stop the session in order."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for each in signals:
        loop.add_signal_handler(each, session.stop)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
