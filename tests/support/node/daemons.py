"""Processes that outlive the command that started them, known by a file with their id."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.kubernetes.processes import NotStarted

READY_WITHIN_S = 90.0
END_WITHIN_S = 5.0


class Daemon:
    """One such process. `program` is how its command begins: by it a stranger that took over the id is told apart."""

    def __init__(self, name: str, run: Path, log: Path) -> None:
        self.name = name
        self._pidfile = run / f"{name}.pid"
        self._log = log / f"{name}.log"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._pid() is not None

    def start(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it, and wait for nothing."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=env
            )
        self._pidfile.write_text(str(process.pid))
        process.returncode = 0  # it is nobody's child to wait for: the pid file knows it

    def wait(self, ready: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
        """Wait until it is ready; raises `NotStarted` where it ends, or takes too long."""
        deadline = time.monotonic() + within_s
        while not ready():
            if not self.alive:
                raise NotStarted(f"{self.name} exited: {self._tail()}")
            if time.monotonic() > deadline:
                raise NotStarted(f"{self.name} was not ready within {within_s:.0f} s: {self._tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL. Does nothing where it does not run."""
        pid = self._pid()
        if pid is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + END_WITHIN_S
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.05)

    def _pid(self) -> int | None:
        try:
            pid = int(self._pidfile.read_text())
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # where it was started by this very process
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (OSError, ValueError):
            return None
        return pid if command[0].endswith(self.name) else None

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]
