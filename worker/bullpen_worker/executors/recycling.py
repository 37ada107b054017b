"""When a process for handlers is replaced by a new one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recycling:
    """When a process is replaced between two jobs, against memory that leaks. None: never."""

    jobs: int | None = None
    """After so many jobs."""
    memory_bytes: int | None = None
    """When it holds more resident memory than this after a job."""
