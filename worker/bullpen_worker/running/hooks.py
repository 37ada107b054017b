"""What the engine tells of its work: for metrics, logs, and whoever steers the worker."""

import logging
from typing import Final, NamedTuple, Protocol

from bullpen.redis.link import LinkState
from bullpen_worker.reports.metrics import JobOutcome

_RAISED: Final = "the hook %s raised; no job is affected"

logger = logging.getLogger("bullpen.worker")


class JobEnd(NamedTuple):
    """What became of a job that was fetched, once it is written (or void)."""

    job_id: str
    name: str
    attempt: int
    attempts: int
    outcome: JobOutcome
    wait_ms: float
    """From when it could have started to its start."""
    run_ms: float | None
    """How long its handler ran; None where it was not called."""
    error: str = ""
    """The class of its error, as ``module.Class``."""
    reason: str = ""
    traceback: str = ""


class EngineHooks(Protocol):
    """Who is told. Called on the engine's loop, on the hot path: must return at once and not raise."""

    def job_started(self, job_id: str, name: str, attempt: int) -> None:
        """The handler is about to be called; runs in the attempt's own context (for context variables)."""

    def job_left(self) -> None:
        """The attempt is over: take back what `job_started` set in the context variables. Also called between jobs."""

    def job_ended(self, end: JobEnd) -> None:
        """The job's outcome is written, or void."""

    def fetched(self) -> None:
        """Redis answered a fetch, or, told once a second, acks that may bring the next job."""

    def suspect(self, job_id: str, token: str) -> bool:
        """Run this suspected job in a process of its own, under this token; False when there is no way to."""

    def connection(self, state: LinkState, reason: str) -> None:
        """The engine's connection to Redis came or went."""


class NoHooks:
    """Tells nobody."""

    def job_started(self, job_id: str, name: str, attempt: int) -> None:
        """Do nothing."""

    def job_left(self) -> None:
        """Do nothing."""

    def job_ended(self, end: JobEnd) -> None:
        """Do nothing."""

    def fetched(self) -> None:
        """Do nothing."""

    def suspect(self, job_id: str, token: str) -> bool:  # noqa: ARG002
        """Say that there is no way to."""
        return False

    def connection(self, state: LinkState, reason: str) -> None:
        """Do nothing."""


class Guarded:
    """Somebody else's hooks: what they raise is logged, and disturbs neither the job nor the worker."""

    def __init__(self, hooks: EngineHooks) -> None:
        self._hooks = hooks

    def job_started(self, job_id: str, name: str, attempt: int) -> None:
        """Pass on."""
        try:
            self._hooks.job_started(job_id, name, attempt)
        except Exception:
            logger.exception(_RAISED, "job_started")

    def job_left(self) -> None:
        """Pass on."""
        try:
            self._hooks.job_left()
        except Exception:
            logger.exception(_RAISED, "job_left")

    def job_ended(self, end: JobEnd) -> None:
        """Pass on."""
        try:
            self._hooks.job_ended(end)
        except Exception:
            logger.exception(_RAISED, "job_ended")

    def fetched(self) -> None:
        """Pass on."""
        try:
            self._hooks.fetched()
        except Exception:
            logger.exception(_RAISED, "fetched")

    def suspect(self, job_id: str, token: str) -> bool:
        """Pass on."""
        try:
            return self._hooks.suspect(job_id, token)
        except Exception:
            logger.exception(_RAISED, "suspect")
            return False

    def connection(self, state: LinkState, reason: str) -> None:
        """Pass on."""
        try:
            self._hooks.connection(state, reason)
        except Exception:
            logger.exception(_RAISED, "connection")
