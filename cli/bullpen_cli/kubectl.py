"""JobQueues in a cluster, reached as its user reaches it: by kubectl, with the contexts and sign-ins it is set up with."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from bullpen.errors import ConfigurationError

TIMEOUT_SECONDS: Final = 60


@dataclass(frozen=True)
class JobQueues:
    """The JobQueues of one namespace; empty words leave the choice to kubectl's own configuration."""

    namespace: str = ""
    context: str = ""

    def get(self, name: str) -> dict[str, Any]:
        """Read one. Raises `ConfigurationError` in kubectl's words when it cannot be read."""
        found: dict[str, Any] = json.loads(self._run("get", f"jobqueues.bullpen.dev/{name}", "--output", "json"))
        return found

    def patch(self, name: str, change: dict[str, Any]) -> None:
        """Change one by a merge patch. Raises `ConfigurationError` in kubectl's words when that is refused."""
        self._run("patch", f"jobqueues.bullpen.dev/{name}", "--type", "merge", "--patch", json.dumps(change))

    def _run(self, *arguments: str) -> str:
        program = shutil.which("kubectl")
        if program is None:
            msg = "kubectl is not on the PATH: it is what reaches the cluster; or name the queue to do it in Redis"
            raise ConfigurationError(msg)
        command = [program, *arguments]
        if self.namespace:
            command += ["--namespace", self.namespace]
        if self.context:
            command += ["--context", self.context]
        try:
            done = subprocess.run(  # noqa: S603 - no shell; the names are arguments of kubectl's
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ConfigurationError(f"kubectl did not end within {TIMEOUT_SECONDS} s") from None
        if done.returncode:
            said = done.stderr.strip().removeprefix("Error from server ").removeprefix("error: ")
            raise ConfigurationError(f"kubectl: {said or f'exit code {done.returncode}'}")
        return done.stdout
