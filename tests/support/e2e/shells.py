"""kubectl and helm, as a user runs them."""

import os
import subprocess
from pathlib import Path

from tests.support.kubernetes import binaries


class CommandFailed(AssertionError):
    """A command exited with something else than 0; the message has what it wrote."""


class _Shell:
    program: str

    def __init__(self, kubeconfig: Path) -> None:
        self._path = binaries.ensure(self.program)[self.program]
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run it and give what it printed; raises `CommandFailed`, or `TimeoutExpired` after so many seconds."""
        done = subprocess.run(
            [str(self._path), *words],
            input=stdin,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(
                f"{self.program} {' '.join(words)} exited with {done.returncode}: {done.stderr[-3000:]}"
            )
        return done.stdout


class Kubectl(_Shell):
    """kubectl with the tests' kubeconfig."""

    program = "kubectl"


class Helm(_Shell):
    """helm with the tests' kubeconfig."""

    program = "helm"
