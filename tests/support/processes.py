"""What can be seen of processes that come and go."""

from pathlib import Path


def is_gone(pid: int) -> bool:
    """Whether the process is over; one that nobody has reaped yet is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:  # there is no such file, or the process went while it was read
        return True
