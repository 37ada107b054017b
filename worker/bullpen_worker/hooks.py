"""What the engine tells of its work: for metrics, logs, and whoever steers the worker."""

from typing import NamedTuple, Protocol

from bullpen.redis.link import LinkState
from bullpen_worker.metrics import JobOutcome


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
        """Redis answered a fetch."""

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
