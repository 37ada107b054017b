"""What the engine tells of a job that was fetched, once its outcome is written. Pure."""

from typing import Final

from bullpen.handling.failures import Failure
from bullpen.handling.outcomes import Completed, Failed, Retried
from bullpen_worker.running import acks
from bullpen_worker.running.acks import Ending
from bullpen_worker.running.hooks import JobEnd
from bullpen_worker.running.runs import Run

_MOST_DIGITS: Final = 16
_NO_FAILURE: Final = Failure("", "", "")


def job_end(run: Run, ending: Ending, run_ms: float | None) -> JobEnd:
    """Sum the job up. A retry, or a snoozed job, has waited from when it was due."""
    stored, terms, fields = run.stored, run.terms, run.fields
    due_ms = run.timestamp + terms.delay_ms
    if b"bullpen:due" in fields:
        due_ms = max(due_ms, _number(fields[b"bullpen:due"]))
    wait_ms = max(_number(fields.get(b"processedOn", b"")) - due_ms, 0)
    attempts = terms.settings.retry.attempts
    if ending.__class__ is Completed:
        return JobEnd(stored.id, terms.name, run.attempt, attempts, "completed", wait_ms, run_ms)
    failure = ending.failure if isinstance(ending, Retried | Failed) else _NO_FAILURE
    told = (failure.error_type, failure.reason, failure.stack)
    return JobEnd(stored.id, terms.name, run.attempt, attempts, acks.label(ending), wait_ms, run_ms, *told)


def _number(raw: bytes) -> int:
    return int(raw) if len(raw) <= _MOST_DIGITS and raw.isdigit() else 0
