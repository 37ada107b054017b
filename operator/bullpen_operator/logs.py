"""The operator's logs: one line for each thing that happens, as JSON, or as text for a terminal.

A line has ``timestamp`` (UTC), ``level``, ``event`` (a word, or a sentence), ``logger`` and what belongs to it. No value of a
Secret is ever logged; whatever looks like a password in a URL is blotted out all the same.
"""

import logging
import re
import sys
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from bullpen_operator.settings import LogFormat, LogLevel

_CREDENTIALS: Final = re.compile(r"(://)[^/\s@'\"]*:[^/\s@'\"]*@")
_QUIET: Final = {
    "kopf": logging.CRITICAL,  # what becomes of its watches is told by the informers
    "asyncio": logging.WARNING,
    "aiohttp.access": logging.WARNING,
}


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Set up this process's logging, to the error output where no stream is given."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.StackInfoRenderer(),
    ]
    last: Processor = structlog.dev.ConsoleRenderer()
    if log_format == "json":
        last = structlog.processors.JSONRenderer(default=str)
    rendered: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,  # before the next: what an error says may hold a URL, too
        _blot_out_credentials,
        last,
    ]
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendered))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(capture=True)


def _blot_out_credentials(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[name] = _CREDENTIALS.sub(r"\1***@", value)
    return event
