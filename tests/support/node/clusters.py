"""Which cluster end-to-end tests run on.

`BULLPEN_E2E_KUBECONFIG` names one that somebody else made; then `BULLPEN_E2E_LOAD` is a command that brings an image, its
last argument, to the nodes (or pushes it), and `BULLPEN_E2E_BUILD` one that takes a tag and what `docker build` takes after
it. Otherwise kind is taken where Docker answers, and else the node on this machine, where root and Go are.
"""

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.support.kubernetes import binaries
from tests.support.node import kind, layout
from tests.support.node.kind import Kind
from tests.support.node.machine import Machine
from tests.support.node.shell import run


class Unavailable(Exception):
    """There is no cluster, and none can be made here; the message says what is missing."""


class Cluster(Protocol):
    """A cluster, and how images get to it."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        ...

    def up(self) -> None:
        """Make it; nothing where it is."""
        ...

    def down(self) -> None:
        """Take it away."""
        ...

    def status(self) -> dict[str, bool]:
        """Which of its parts run."""
        ...

    def build(self, tag: str, context: Path, dockerfile: Path | None = None, **arguments: str) -> None:
        """Build an image, and bring it to the node."""
        ...

    def load(self, *tags: str) -> None:
        """Bring images that were built to the node."""
        ...


class Given:
    """A cluster that somebody else made and ends."""

    def __init__(self, kubeconfig: Path, build: str, load: str) -> None:
        self.kubeconfig = kubeconfig
        self._build, self._load = shlex.split(build), shlex.split(load)

    def up(self) -> None:
        """Nothing: it is there."""

    def down(self) -> None:
        """Nothing: it is somebody else's."""

    def status(self) -> dict[str, bool]:
        """Whether its kubeconfig is there."""
        return {str(self.kubeconfig): self.kubeconfig.exists()}

    def build(self, tag: str, context: Path, dockerfile: Path | None = None, **arguments: str) -> None:
        """By the command that was given."""
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        run(*self._build, tag, *given, "-f", dockerfile or context / "Dockerfile", context, timeout=1800)
        self.load(tag)

    def load(self, *tags: str) -> None:
        """By the command that was given."""
        for tag in tags:
            run(*self._load, tag)


def choose(tell: Callable[[str], None]) -> Cluster:
    """The cluster to use; raises `Unavailable`."""
    given = os.environ.get("BULLPEN_E2E_KUBECONFIG")
    if given:
        try:
            return Given(Path(given), os.environ["BULLPEN_E2E_BUILD"], os.environ["BULLPEN_E2E_LOAD"])
        except KeyError as missing:
            raise Unavailable(f"BULLPEN_E2E_KUBECONFIG is set and {missing} is not") from None
    rooms = layout.default()
    if kind.available():
        return Kind(rooms, tell)
    if os.geteuid() or shutil.which("apt-get") is None:
        raise Unavailable("no Docker with kind answers, and a node on this machine needs root and Debian")
    if shutil.which("go") is None and any(binaries.find(name) is None for name in layout.PROGRAMS):
        raise Unavailable("no Docker with kind answers, and Go is not installed to build a node's programs")
    return Machine(rooms, tell)
