"""`bullpen-operator`, or `python -m bullpen_operator`: flags and environment, logging, signals, exit code."""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Final

from bullpen._version import __version__
from bullpen.errors import BullpenError, ConfigurationError
from bullpen_operator import logs
from bullpen_operator.settings import PREFIX, Settings, described

EXAMPLES: Final = """\
examples:
  bullpen-operator                                      in a cluster, as the chart starts it
  bullpen-operator --kubeconfig ~/.kube/config --leader-election false --probes ""
                                                        on a developer's machine, alone
  bullpen-operator --namespaces shop,mail               for two namespaces only

Each flag may be given as an environment variable, such as BULLPEN_OPERATOR_LOG_LEVEL; a flag goes before it.
Exit codes: 0 it was told to stop, 1 it could not start or go on, 2 wrong usage.
"""

SWITCH_SECONDS: Final = 0.001
"""How long Kopf's thread may keep the interpreter while the scaler waits for it; Python's own 5 ms would be felt."""

log = logging.getLogger("bullpen.operator")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the operator, and end the process."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
        logs.configure(settings.log_format, settings.log_level)
    except ConfigurationError as error:
        sys.stderr.write(f"bullpen-operator: {error}\n")
        sys.exit(2)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings))
    except BaseExceptionGroup as group:
        for each in leaves(group):
            log.exception(
                "ended", extra={"error": str(each)}, exc_info=None if isinstance(each, BullpenError) else each
            )
        sys.exit(1)
    except BullpenError as error:
        log.error("ended", extra={"error": str(error)})  # noqa: TRY400 - what it says is all there is to know
        sys.exit(1)


def leaves(group: BaseExceptionGroup) -> Iterator[BaseException]:
    """Give the errors of a group, and of the groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read flags over the environment. Raises `ConfigurationError`; ends the process for --help and unknown flags."""
    parser = argparse.ArgumentParser(
        prog="bullpen-operator",
        description="Reconciles JobQueues on Kubernetes, and scales their workers with the work.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bullpen-operator {__version__}")
    settings = Settings.from_environment()
    texts = described()
    for each in fields(Settings):
        value = getattr(settings, each.name)
        shown = ",".join(value) if isinstance(value, tuple) else value
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            dest=each.name,
            metavar="VALUE",
            help=f"{texts[each.name]} [{PREFIX}{each.name.upper()}; now: {shown!r}]".replace("%", "%%"),
        )
    given = {name: text for name, text in vars(parser.parse_args(list(arguments))).items() if text is not None}
    return settings.over(given, named=lambda name: f"--{name.replace('_', '-')}")


async def _run(settings: Settings) -> None:
    from bullpen_operator import operator  # noqa: PLC0415 - Kopf and Kubernetes take a second, and --help needs neither
    from bullpen_operator.kube import access  # noqa: PLC0415 - the same

    access.read_what_the_api_server_takes()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info(
        "starts",
        extra={"version": __version__, "identity": settings.identity, "namespaces": list(settings.namespaces) or "all"},
    )
    await operator.run(settings, stop)
    log.info("ends")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an extra of some platforms

        return uvloop.new_event_loop
    return None


if __name__ == "__main__":
    main()
