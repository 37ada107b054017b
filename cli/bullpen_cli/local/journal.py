"""What workers said about their jobs: read from their log lines, counted for the account, kept for the live view.

Pure: lines go in, numbers come out. A line that is not the worker's own (a `print` of a handler, a library's warning) is
kept to be shown and counts nothing.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Final

KEPT_TIMES: Final = 100_000
"""Waits and run times of so many of the latest attempts make up mean and p95."""

KEPT_LINES: Final = 200
LONGEST_LINE: Final = 2_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a worker wrote."""

    source: str
    """The JobQueue's name."""
    text: str
    level: str = "info"
    job: bool = False
    """Whether it tells how an attempt ended."""
    routine: bool = False
    """Whether nobody misses it: the worker's own news of its start and end, and of jobs that went well."""


@dataclass
class QueueAccount:
    """What the workers of one queue did since local mode started. Times are in ms."""

    completed: int = 0
    retried: int = 0
    failed: int = 0
    """Jobs that failed for good, cancelled ones not counted."""
    cancelled: int = 0
    released: int = 0
    lock_lost: int = 0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_TIMES))
    runs: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_TIMES))

    def count(
        self, outcome: str, *, final: bool = False, wait_ms: float | None, run_ms: float | None, number: int = 1
    ) -> None:
        """Count attempts that ended. `final` tells of a timeout whether it was the job's last attempt."""
        match outcome:
            case "completed":
                self.completed += number
            case "cancelled":
                self.cancelled += number
            case "released":
                self.released += number
            case "lock_lost":
                self.lock_lost += number
            case "failed" | "expired":
                self.failed += number
            case "timeout" if final:
                self.failed += number
            case _:
                self.retried += number
        if wait_ms is not None:
            self.waits.append(wait_ms)
        if run_ms is not None:
            self.runs.append(run_ms)

    def report(self) -> dict[str, float]:
        """Give the account as plain JSON."""
        return {
            "completed": self.completed,
            "retried": self.retried,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "released": self.released,
            "lockLost": self.lock_lost,
            "waitMeanMs": round(mean(self.waits), 3),
            "waitP95Ms": round(quantile(self.waits, 0.95), 3),
            "runMeanMs": round(mean(self.runs), 3),
            "runP95Ms": round(quantile(self.runs, 0.95), 3),
        }


def mean(values: Iterable[float]) -> float:
    """Give the mean, 0 for no values."""
    values = list(values)
    return fmean(values) if values else 0.0


def quantile(values: Iterable[float], share: float) -> float:
    """Give the smallest value that at least `share` of the values do not exceed, 0 for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))] if ordered else 0.0


class Journal:
    """The account of every queue, and the latest lines."""

    def __init__(self, queues: Iterable[str]) -> None:
        self.accounts: dict[str, QueueAccount] = {queue: QueueAccount() for queue in queues}
        self.lines: deque[Line] = deque(maxlen=KEPT_LINES)

    def read(self, source: str, raw: str) -> Line:
        """Take in one line that a worker of the JobQueue `source` wrote, and give it in a form to show."""
        line = self._read(source, raw.rstrip())
        if len(line.text) > LONGEST_LINE:
            line = replace(line, text=line.text[:LONGEST_LINE])
        self.lines.append(line)
        return line

    def report(self) -> dict[str, dict[str, float]]:
        """Give all accounts as plain JSON."""
        return {queue: account.report() for queue, account in self.accounts.items()}

    def _read(self, source: str, raw: str) -> Line:
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError):  # what a handler prints may be anything
            fields = None
        if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
            return Line(source, raw)
        level = str(fields.get("level", "info"))
        calm = level in {"debug", "info"}
        outcome = fields.get("outcome")
        if not isinstance(outcome, str) or not _tells_of_jobs(fields, outcome):
            own = str(fields.get("logger", "")).startswith("bullpen.")
            return Line(source, _sentence(fields), level, routine=own and calm)
        number = fields.get("count")
        account = self.accounts.setdefault(source, QueueAccount())
        account.count(
            outcome,
            final=fields.get("final") is True,
            wait_ms=_number(fields.get("wait_ms")),
            run_ms=_number(fields.get("duration_ms")),
            # A worker that ends very many jobs writes a line for some, and one with the number of the others.
            number=number if isinstance(number, int) and number > 0 else 1,
        )
        return Line(source, _ending(fields, outcome), level, job=True, routine=calm)


_SHOWN_APART: Final = frozenset(
    {"event", "level", "timestamp", "queue", "worker", "logger", "exception", "stack", "name", "attempt"}
)


def _tells_of_jobs(fields: Mapping[str, object], outcome: str) -> bool:
    """Say whether the worker wrote it of its jobs: an application's own lines may have an outcome, too."""
    event = str(fields["event"])
    return "logger" not in fields and (event == f"job {outcome}" or event.endswith(f" more jobs {outcome}"))


def _ending(fields: Mapping[str, object], outcome: str) -> str:
    """Say in a sentence how a job's attempt ended."""
    if "job" not in fields:
        return _sentence(fields)
    took = _number(fields.get("duration_ms"))
    attempt = f"attempt {fields.get('attempt', '?')}" + ("" if took is None else f", {took:.0f} ms")
    reason = f": {fields['reason']}" if fields.get("reason") else ""
    return f"{fields.get('name', '?')} {outcome.replace('_', ' ')} ({attempt}){reason}  job={fields['job']}"


def _sentence(fields: Mapping[str, object]) -> str:
    """Write a structured line for a person: the event, then what stands beside it."""
    beside = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _SHOWN_APART)
    return f"{fields['event']}  {beside}".rstrip()


def _number(value: object) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else None
    )
