"""Entry point of the `bullpen` command: which commands there are, and what becomes of their errors.

A command's module, and `bullpen` itself, is imported when a command is called, so that help and completion are quick and
that a command costs only what it uses itself. Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted.
"""

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from bullpen_cli import early, output


@dataclass(frozen=True)
class Entry:
    """A command: where its function is, and what the list of commands says of it."""

    function: str
    """As ``module:name``."""
    summary: str

    def load(self) -> Any:  # what typer makes of it has a private type
        """Import the command."""
        module, _, name = self.function.partition(":")
        app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
        app.command(name)(getattr(import_module(module), name))
        return get_command(app)


COMMANDS: Final = {
    "dev": Entry("bullpen_cli.dev:dev", "Run the queues of YAML files on this machine: Redis, workers, scaling."),
    "worker": Entry("bullpen_cli.worker:worker", "Run the jobs of a queue."),
    "enqueue": Entry("bullpen_cli.enqueue:enqueue", "Add a job to a queue; wait for its result if asked."),
    "pause": Entry("bullpen_cli.steering:pause", "Let no further job of a queue start."),
    "resume": Entry("bullpen_cli.steering:resume", "Let jobs of a paused queue start again."),
    "adopt": Entry("bullpen_cli.steering:adopt", "Let a JobQueue take its queue in Redis from another owner."),
    "check": Entry("bullpen_cli.check:check", "Check JobQueues and Redis connections in YAML files."),
    "crd": Entry("bullpen_cli.crd:crd", "Write the CustomResourceDefinitions for Kubernetes."),
    "doctor": Entry("bullpen_cli.doctor:doctor", "Look at a Redis: can Bullpen rely on it, and what to change."),
}


class Commands(TyperGroup):
    """The commands, each imported when it is called (or completed), not when all are listed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Give the command that the arguments name, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = COMMANDS[name].load()
            command.name = name
        return name, command, rest


def make_app() -> typer.Typer:
    """Make the command line."""
    app = typer.Typer(
        name="bullpen",
        cls=Commands,
        help="Job queues on Redis: declare, enqueue, run, scale.",
        epilog="bullpen COMMAND --help shows what a command takes, with examples.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, entry in COMMANDS.items():
        app.command(name, help=entry.summary)(_stand_in)
    return app


def main() -> None:
    """Run the command line, and end the process."""
    if sys.argv[1:2] == ["worker"]:
        early.end_quietly()
    try:
        make_app()(prog_name="bullpen")
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        from bullpen.errors import BullpenError  # noqa: PLC0415 (a command has imported it by now)

        if not isinstance(error, BullpenError):
            raise
        output.write_error(str(error))
        sys.exit(1)


def _show_version(asked: bool) -> None:
    if asked:
        from bullpen._version import __version__  # noqa: PLC0415 (not for `--help`)

        sys.stdout.write(f"bullpen {__version__}\n")
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Write the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Take the options of `bullpen` itself; `--version` has ended it by now."""
    del version


def _stand_in() -> None:
    """Stand for a command in the list of all."""


if __name__ == "__main__":
    main()
