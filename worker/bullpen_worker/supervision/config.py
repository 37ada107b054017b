"""What one `bullpen worker` is to do."""

import json
import os
from dataclasses import dataclass, field
from typing import Final

from bullpen import durations
from bullpen.errors import ConfigurationError
from bullpen.redis.settings import RedisSettings
from bullpen_worker.executors import frames
from bullpen_worker.executors.recycling import Recycling
from bullpen_worker.reports.logs import LogSettings
from bullpen_worker.reports.probes import Address

DEFAULT_CONCURRENCY: Final = 10

MOST_CONCURRENCY: Final = 10_000
"""What a policy may say; one with more was written by hand, and no child follows it."""


@dataclass(frozen=True)
class WorkerConfig:
    """What one `bullpen worker` is to do."""

    queue: str
    handlers: tuple[str, ...]
    """Modules, or ``module:name``, that hold the handlers."""

    redis: RedisSettings
    """Where, and the prefix of the keys."""

    log: LogSettings
    concurrency: int | None = None
    """Jobs that may run at once, over all processes. None follows the queue's policy, at run time too."""

    processes: int = 1
    """Child processes that share the concurrency."""

    grace_ms: int = 30_000
    """What jobs get to end in after SIGTERM; then they are cancelled and given back."""

    kill_grace_ms: int = field(default_factory=lambda: _duration_ms("BULLPEN_KILL_GRACE", "5s"))
    """How long a job may go on past its timeout before its process is ended; D: what BULLPEN_KILL_GRACE says, or 5 s."""

    recycling: Recycling = field(default_factory=Recycling)
    """When processes of ``executor="process"`` are replaced; D: never."""

    name: str = "worker"
    """The first part of the worker's name: its host."""

    probes: Address | None = None

    def __post_init__(self) -> None:
        if not self.handlers:
            msg = "no handlers: name the modules that register them, such as --handlers shop.jobs"
            raise ConfigurationError(msg)
        if self.processes < 1 or (self.concurrency is not None and self.concurrency < 1):
            msg = f"processes ({self.processes}) and concurrency ({self.concurrency}) must be at least 1"
            raise ConfigurationError(msg)


def _duration_ms(variable: str, default: str) -> int:
    try:
        return durations.parse_ms(os.environ.get(variable) or default)
    except ValueError as error:
        msg = f"{variable}: {error}"
        raise ConfigurationError(msg) from None


def per_worker(doc: str) -> int:
    """Give the concurrency of one worker that the policy's document says, else the one that is built in."""
    try:
        found = (json.loads(doc or "{}").get("concurrency") or {}).get("perWorker", DEFAULT_CONCURRENCY)
    except (ValueError, RecursionError, AttributeError):
        return DEFAULT_CONCURRENCY
    return found if type(found) is int and 0 < found <= MOST_CONCURRENCY else DEFAULT_CONCURRENCY


def plain(settings: RedisSettings) -> str:
    """Write the settings for a child, the secrets too: only for the socket between supervisor and child."""
    return json.dumps(frames.exposed(settings))
