"""The node by kind, where Docker is."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.node.layout import Layout
from tests.support.node.shell import run, succeeds

NAME = "bullpen-e2e"


def available() -> bool:
    """Whether kind is installed and Docker answers."""
    return shutil.which("kind") is not None and shutil.which("docker") is not None and succeeds("docker", "info")


class Kind:
    """A cluster of kind's; images are built by Docker on the bases that the Dockerfiles name."""

    def __init__(self, layout: Layout, tell: Callable[[str], None]) -> None:
        self.kubeconfig = layout.root / "kind.kubeconfig"
        self._tell = tell

    def up(self) -> None:
        """Make it; nothing where it is."""
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if NAME in run("kind", "get", "clusters").split():
            run("kind", "export", "kubeconfig", "--name", NAME, "--kubeconfig", self.kubeconfig)
            return
        self._tell("making a cluster with kind (a minute)")
        run("kind", "create", "cluster", "--name", NAME, "--kubeconfig", self.kubeconfig, "--wait", "180s")

    def down(self) -> None:
        """Take it away."""
        run("kind", "delete", "cluster", "--name", NAME)

    def status(self) -> dict[str, bool]:
        """Whether it is there."""
        return {NAME: NAME in run("kind", "get", "clusters").split()}

    def build(self, tag: str, context: Path, dockerfile: Path | None = None, **arguments: str) -> None:
        """Build an image and bring it to the node."""
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        run(
            "docker",
            "build",
            "-q",
            *given,
            "-t",
            tag,
            "-f",
            dockerfile or context / "Dockerfile",
            context,
            timeout=1800,
        )
        self.load(tag)

    def load(self, *tags: str) -> None:
        """Bring images that were built to the node."""
        run("kind", "load", "docker-image", "--name", NAME, *tags)
