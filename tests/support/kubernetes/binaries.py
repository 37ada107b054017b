"""The programs that a cluster is made of: found, or built once from pinned Go modules into a folder outside the tree.

Looked for in `$KUBEBUILDER_ASSETS`, then in `$BULLPEN_CLUSTER_DIR/bin` (by default `~/.cache/bullpen-cluster/bin`), where a
file beside each program says what it was built from: another pin, and it is built anew. A file lock lets one process
build while the others wait for it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).with_name("go")
VERSION = "1.34.4"
"""Of Kubernetes; go/kubernetes/go.mod says the same."""


class Missing(Exception):
    """A program is neither there nor can it be built here."""


@dataclass(frozen=True)
class Program:
    """How one program is built."""

    package: str
    module: str = ""
    """The folder under go/ that pins it; empty: the package carries its version, and `go install` builds it."""
    ldflags: str = "-s -w"

    @property
    def pin(self) -> str:
        """What its source is pinned to."""
        if not self.module:
            return self.package
        sums = hashlib.sha256((MODULES / self.module / "go.sum").read_bytes()).hexdigest()
        return f"{self.package} {sums}"


_STAMP = "k8s.io/component-base/version"
_KUBERNETES_FLAGS = (
    f"-s -w -X {_STAMP}.gitVersion=v{VERSION} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor={VERSION.split('.')[1]}"
)
KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
PROGRAMS: dict[str, Program] = {
    **{name: Program(f"k8s.io/kubernetes/cmd/{name}", "kubernetes", _KUBERNETES_FLAGS) for name in KUBERNETES},
    "etcd": Program("go.etcd.io/etcd/server/v3", "kubernetes"),
    "coredns": Program(".", "coredns"),
    "helm": Program("helm.sh/helm/v3/cmd/helm@v3.22.0"),
    "kubeconform": Program("github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"),
}


def cluster_directory() -> Path:
    """Where programs, and the state of a node, are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("BULLPEN_CLUSTER_DIR") or cache / "bullpen-cluster")


def find(name: str) -> Path | None:
    """The program, where it is there already, built from what is pinned now."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (given := Path(assets) / name).is_file():
        return given
    built = _bin() / name
    stamp = _stamp(name)
    if built.is_file() and stamp.is_file() and stamp.read_text() == PROGRAMS[name].pin:
        return built
    return None


def ensure(*names: str, tell: Callable[[str], None] | None = None) -> dict[str, Path]:
    """Find these programs, and build those that are missing; `tell` hears what is being built.

    Raises `Missing` where Go is needed and not there, or a build fails. A build of everything takes some six minutes on two
    cores.
    """
    if all(find(name) for name in names):
        return {name: _found(name) for name in names}
    with _alone(tell or _print):
        groups: dict[tuple[str, str], list[str]] = {}
        for name in names:
            if find(name) is None:
                program = PROGRAMS[name]
                groups.setdefault((program.module or name, program.ldflags), []).append(name)
        for group in groups.values():
            (tell or _print)(f"building {' '.join(group)} into {_bin()} (once; minutes)")
            _build(group)
    return {name: _found(name) for name in names}


def _found(name: str) -> Path:
    path = find(name)
    if path is None:
        raise Missing(f"{name}: was built and is not in {_bin()}")
    return path


def _build(names: list[str]) -> None:
    go = shutil.which("go")
    if go is None:
        raise Missing(
            f"{', '.join(names)}: not in $KUBEBUILDER_ASSETS or {_bin()}, and Go is not installed to build them"
        )
    program = PROGRAMS[names[0]]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(_bin())}
    if program.module:
        # One command for all: the packages that they share are compiled once. etcd's package has not the program's name.
        target = _bin() if names[0] in KUBERNETES else _bin() / names[0]
        command = [go, "build", "-trimpath", "-ldflags", program.ldflags, "-o", f"{target}{'/' * target.is_dir()}"]
        command += [PROGRAMS[name].package for name in names]
        environment |= {"GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
        folder = MODULES / program.module
    else:
        command = [go, "install", "-trimpath", "-ldflags", program.ldflags, program.package]
        environment |= {"GOFLAGS": "-mod=mod"}
        folder = _bin()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{' '.join(command)} exited with {done.returncode}: {done.stderr[-2000:]}")
    for name in names:
        _stamp(name).write_text(PROGRAMS[name].pin)


@contextlib.contextmanager
def _alone(tell: Callable[[str], None]) -> Iterator[None]:
    _bin().mkdir(parents=True, exist_ok=True)
    with (_bin() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another process builds the cluster's programs; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bin() -> Path:
    return cluster_directory() / "bin"


def _stamp(name: str) -> Path:
    return _bin() / f"{name}.pin"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
