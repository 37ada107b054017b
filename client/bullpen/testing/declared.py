"""What YAML declares, for a harness: the JobQueues of a file by the queue's name."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bullpen.errors import ConfigurationError

if TYPE_CHECKING:
    from bullpen.api.v1alpha1 import JobQueue


def read(path: str | Path) -> "Mapping[str, JobQueue]":
    """Read the file (or the folder's files). Raises `ConfigurationError` with each mistake's file and line."""
    from bullpen.api import checks  # noqa: PLC0415 - 100 ms, for those who declare queues

    report = checks.check_files([path])
    if report.errors:
        lines = "\n".join(f"  {finding}" for finding in report.errors)
        msg = f"queues={str(path)!r} cannot be used:\n{lines}"
        raise ConfigurationError(msg)
    found = {queue.queue_name: queue for queue in report.files.jobqueues}
    if not found:
        msg = f"queues={str(path)!r} declares no JobQueue"
        raise ConfigurationError(msg)
    return found
