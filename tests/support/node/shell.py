"""Other programs, run to their end."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

Word = str | Path | int


class CommandFailed(Exception):
    """A program exited with something else than 0; the message has the end of what it wrote."""


def run(*command: Word, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 600) -> str:
    """Run a program and give what it wrote, both streams; raises `CommandFailed`."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        env=env,
        cwd=cwd,
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(words)} exited with {done.returncode}: {done.stdout[-4000:]}")
    return done.stdout


def succeeds(*command: Word) -> bool:
    """Whether a program exits with 0."""
    try:
        run(*command)
    except (CommandFailed, OSError):
        return False
    return True
