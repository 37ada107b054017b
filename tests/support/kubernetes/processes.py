"""Processes that a test owns: started until they are ready, ended by their process id."""

import contextlib
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

READY_WITHIN_S = 90.0
END_WITHIN_S = 30.0


class NotStarted(Exception):
    """A process exited, or was not ready in time; the message has the end of its log."""


class Process:
    """One program, its output in a file. It ends with the process that started it, even where that one is killed."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = [*_dies_with_us(), *command]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def launch(self) -> None:
        """Start it and wait for nothing."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.log.parent
            )

    def wait_ready(self, ready: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
        """Wait until `ready` says so; raises `NotStarted` where the process exits, or the time is up."""
        deadline = time.monotonic() + within_s
        while not ready():
            if self.pid is None:
                raise NotStarted(f"{self.name} exited: {self.tail()}")
            if time.monotonic() > deadline:
                raise NotStarted(f"{self.name} was not ready within {within_s:.0f} s: {self.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough. Does nothing where it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_WITHIN_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_WITHIN_S)
            self._process = None

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else "(it wrote nothing)"


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now.

    They lie below the range that the kernel hands out, so that a server which is stopped for a while, or takes its time to start,
    finds its port free. None is given twice before all others were, and each of pytest-xdist's processes has ports of its own.
    """
    found: list[int] = []
    while len(found) < number:
        port = _FIRST_PORT + _LANE_PORTS * _LANE + next(_ports) % _LANE_PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


_FIRST_PORT = 15_000
_LANES = 16
_LANE_PORTS = 1_000
_LANE = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _LANES
_ports = itertools.count(random.SystemRandom().randrange(_LANE_PORTS))  # others' pytest may run beside this one


def _dies_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
