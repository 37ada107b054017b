"""A worker's logs: one line for each thing that happens, with the job it happened to.

JSON lines, or text for a terminal. Whatever logs in the process comes out alike: Bullpen itself, handlers that use the
standard library's `logging`, handlers that use structlog, libraries, warnings. A line has ``timestamp`` (UTC),
``level``, ``event``, ``queue``, ``worker``, where a job is at work ``job``, ``name`` and ``attempt``, at a job's end
``outcome``, ``duration_ms`` and ``wait_ms``, with a failure ``error`` (its class), ``reason`` and ``exception`` (the
traceback). Payloads and results are never logged by Bullpen, and passwords in URLs are blotted out.

A worker can end 20,000 jobs a second; a line costs some 50 us. So `JobLog` writes a line for each job up to a number a
second, and beyond that one line a second that says how many there were: see `JobLines`.
"""

import json
import logging
import os
import re
import sys
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Final, Literal, Self, TextIO, get_args

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from bullpen.errors import ConfigurationError
from bullpen_worker.reports.metrics import JobOutcome

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
JobLines = Literal["all", "sampled", "failures"]
"""Which ends of jobs are logged line by line: ``sampled``: up to `LINES_PER_SECOND` completions, and as many others, in
each second, the rest counted in one line; ``all``: each, whatever it costs; ``failures``: as ``sampled``, completions
only counted in the metrics."""

LINES_PER_SECOND: Final = 100

_CREDENTIALS = re.compile(r"(://)[^/\s@'\"]*:[^/\s@'\"]*@")
_FIRST: Final = (
    "timestamp", "level", "event", "queue", "job", "name", "attempt", "outcome", "duration_ms", "wait_ms", "worker",
)  # fmt: skip
_LEVELS: Final[dict[JobOutcome, int]] = {
    "completed": logging.INFO,
    "cancelled": logging.INFO,
    "released": logging.INFO,
    "retried": logging.WARNING,
    "expired": logging.WARNING,
    "lock_lost": logging.WARNING,
    "timeout": logging.WARNING,
    "failed": logging.ERROR,
}


@dataclass(frozen=True)
class LogSettings:
    """How the processes of one worker log."""

    queue: str
    worker: str
    """The worker's name, whole where it is known: as in the registry, in ``pb`` of its jobs, in BullMQ's tools."""
    format: LogFormat | None = None
    """None: text when the error output is a terminal, else JSON."""
    level: LogLevel = "info"
    """Lines below it are not written, the standard library's included."""
    jobs: JobLines = "sampled"

    def __post_init__(self) -> None:
        _check("log format", self.format, (*get_args(LogFormat), None))
        _check("log level", self.level, get_args(LogLevel))
        _check("log jobs", self.jobs, get_args(JobLines))

    def to_json(self) -> str:
        """Write them for a child process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises `ConfigurationError` for a value that is not allowed."""
        return cls(**json.loads(text))


_Job = tuple[str, str, int]
"""Id, name and attempt: a plain tuple, as one is made for each job that runs."""

_current_job: ContextVar[_Job | None] = ContextVar("bullpen_logged_job", default=None)


def bind_job(job_id: str, name: str, attempt: int) -> None:
    """Say which job the current task or thread works on.

    Its log lines carry the job from here on, those of the tasks and handler threads that it starts too.
    """
    _current_job.set((job_id, name, attempt))


def leave_job() -> None:
    """Say that the current task works on no job any more."""
    _current_job.set(None)


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Set up this process's logging, structlog's and the standard library's, to `stream` (the error output).

    It takes the place of what was set up before. For processes of Bullpen's own; an application that embeds a
    `Worker` keeps its own logging.
    """
    out = stream if stream is not None else sys.stderr
    fields: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.contextvars.merge_contextvars,
        _JobFields(settings.queue, settings.worker),
    ]
    is_terminal = out.isatty()
    text = settings.format == "console" or (settings.format is None and is_terminal)
    rendered: list[Processor] = [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
        _blot_out_credentials,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.dev.ConsoleRenderer(colors=is_terminal and not os.environ.get("NO_COLOR"), sort_keys=False)
        if text
        else structlog.processors.JSONRenderer(serializer=_dumps),
    ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=rendered,
            foreign_pre_chain=[*fields, structlog.stdlib.ExtraAdder(), _add_logger],
        )
    )
    root = logging.getLogger()
    for before in root.handlers[:]:
        root.removeHandler(before)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *fields,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class JobLog:
    """Logs the ends of jobs: at most so many lines a second, so that logging cannot slow the worker down.

    Its owner calls `tick` once a second and before it ends; a job beyond the second's lines costs well under a
    microsecond.
    """

    def __init__(self, lines: JobLines = "sampled", *, per_second: int = LINES_PER_SECOND) -> None:
        self._logger = logging.getLogger("bullpen.jobs")
        self._lines = lines
        self._per_second = per_second
        self._completions_left = self._others_left = per_second
        self._untold: dict[tuple[str, JobOutcome, bool], list[float]] = {}

    def ended(
        self,
        job_id: str,
        name: str,
        attempt: int,
        outcome: JobOutcome,
        *,
        wait_ms: float,
        run_ms: float | None,
        error: str = "",
        reason: str = "",
        traceback: str = "",
        final: bool = False,
    ) -> None:
        """Log the end of an attempt, at a level that fits its outcome, or count it for the second's summary.

        `run_ms` is None for a job whose handler was not called. `final` says of a timeout that the job has failed by it
        for good, which no other outcome leaves open.
        """
        if outcome == "completed":
            if self._lines == "failures":
                return
            self._completions_left -= 1
            left = self._completions_left
        else:
            self._others_left -= 1
            left = self._others_left
        if left < 0 and self._lines != "all":
            untold = self._untold.get((name, outcome, final))
            if untold is None:
                untold = self._untold[name, outcome, final] = [0, 0.0]
            untold[0] += 1
            untold[1] += run_ms or 0.0
            return
        level = _LEVELS[outcome]
        if not self._logger.isEnabledFor(level):
            return
        fields: dict[str, object] = {"outcome": outcome, "wait_ms": round(wait_ms, 1)}
        if run_ms is not None:
            fields["duration_ms"] = round(run_ms, 1)
        fields |= {key: text for key, text in (("error", error), ("reason", reason)) if text}
        if final:
            fields["final"] = True
        if traceback:
            fields["exception"] = traceback.rstrip("\n")
        before = _current_job.set((job_id, name, attempt))
        self._logger.log(level, "job %s", outcome, extra=fields)
        _current_job.reset(before)

    def tick(self) -> None:
        """Begin a new second: log how many jobs the last one had beyond its lines."""
        self._completions_left = self._others_left = self._per_second
        untold, self._untold = self._untold, {}
        before = _current_job.set(None)
        for (name, outcome, final), (count, run_ms) in untold.items():
            fields = {"job_name": name, "outcome": outcome, "count": int(count), "mean_ms": round(run_ms / count, 1)}
            if final:
                fields["final"] = True
            self._logger.log(_LEVELS[outcome], "%d more jobs %s", count, outcome, extra=fields)
        _current_job.reset(before)


class _JobFields:
    """The processor that says whose line it is. What the line brings itself wins."""

    def __init__(self, queue: str, worker: str) -> None:
        self._queue = queue
        self._worker = worker

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        del logger, method
        line: dict[str, object] = {"queue": self._queue, "worker": self._worker}
        job = _current_job.get()
        if job is not None:
            line["job"], line["name"], line["attempt"] = job
        return line | dict(event)


def _add_logger(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    del logger, method
    record = event.get("_record")
    if isinstance(record, logging.LogRecord) and record.name != "bullpen.jobs":
        event.setdefault("logger", record.name)
    name = event.pop("job_name", None)  # a LogRecord has a `name` of its own, so `extra` cannot bring one
    if name is not None:
        event["name"] = name
    return event


def _blot_out_credentials(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    del logger, method
    for key, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[key] = _CREDENTIALS.sub(r"\1***@", value)
    return event


def _dumps(event: EventDict, **_: object) -> str:
    line = {key: event.pop(key) for key in _FIRST if key in event} | dict(event)
    return json.dumps(line, default=str, ensure_ascii=False)


def _check(option: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        names = ", ".join(str(each) for each in allowed if each is not None)
        msg = f"{option}: {value!r} is not allowed; allowed: {names}"
        raise ConfigurationError(msg)
