"""containerd: its configuration, the image of pods' sandboxes, images brought to it, what is left of it after a kill."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from tests.support.node import images, network
from tests.support.node.layout import PAUSE, Layout
from tests.support.node.shell import CommandFailed, Word, run, succeeds

PAUSE_SOURCE = Path(__file__).with_name("pause")
OPEN_FILES = 16_384
"""A machine's own limit may be lower than what containerd gives by itself, and then nothing starts."""


def configure(layout: Layout) -> list[str]:
    """Write containerd's files; the command that starts it."""
    cni = network.write_cni(layout)
    spec = json.loads(run("ctr", "oci", "spec"))
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": OPEN_FILES, "soft": OPEN_FILES}]
    base_spec = layout.etc / "spec.json"
    base_spec.write_text(json.dumps(spec))
    # Network namespaces under the state folder: so those of this node are told from others', and go with it.
    config = f"""version = 2
root = "{layout.containerd}"
state = "{layout.containerd_state}"
[grpc]
  address = "{layout.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{base_spec}"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"""
    file = layout.etc / "containerd.toml"
    file.write_text(config)
    return ["containerd", "-c", str(file)]


def answers(layout: Layout) -> bool:
    """Whether containerd answers."""
    return succeeds("ctr", "-a", layout.socket, "version")


def ensure_pause(layout: Layout) -> None:
    """The image of a pod's sandbox, built where it is missing."""
    if PAUSE not in _ctr(layout, "images", "ls", "-q"):
        images.build_pause(PAUSE_SOURCE)
        load(layout, PAUSE)


def load(layout: Layout, *tags: str) -> None:
    """Bring images that buildah built to the node, where they are not there. Pods pull Never or IfNotPresent."""
    known = layout.containerd / "bullpen-images.json"  # goes with the images
    loaded: dict[str, str] = json.loads(known.read_text()) if known.exists() else {}
    for tag in tags:
        image = images.identity(tag)
        if loaded.get(tag) == image:
            continue
        archive = layout.run / f"image-{os.getpid()}.tar"
        try:
            images.save(tag, archive)
            _ctr(layout, "images", "import", archive)
        finally:
            archive.unlink(missing_ok=True)
        loaded[tag] = image
        known.write_text(json.dumps(loaded))


def end_all(layout: Layout) -> None:
    """Kill every container, by containerd."""
    with contextlib.suppress(CommandFailed):
        for task in _ctr(layout, "tasks", "ls", "-q").split():
            succeeds("ctr", "-a", layout.socket, "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", task)
        deadline = time.monotonic() + 5
        while "RUNNING" in _ctr(layout, "tasks", "ls") and time.monotonic() < deadline:
            time.sleep(0.05)
        for task in _ctr(layout, "tasks", "ls", "-q").split():
            succeeds("ctr", "-a", layout.socket, "-n", "k8s.io", "tasks", "rm", "-f", task)
        for container in _ctr(layout, "containers", "ls", "-q").split():
            succeeds("ctr", "-a", layout.socket, "-n", "k8s.io", "containers", "rm", container)


def sweep(layout: Layout) -> bool:
    """End what outlived containerd: its shims with what they run, and its mounts. Whether there was anything."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if not (process / "comm").read_text().startswith("containerd-shim"):
                continue
            if str(layout.socket) in (process / "cmdline").read_text():
                found = True
                children = (process / "task" / process.name / "children").read_text().split()
                for pid in (*children, process.name):
                    os.kill(int(pid), signal.SIGKILL)
    roots = (str(layout.kubelet), str(layout.containerd_state))
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if (target := line.split()[1]).startswith(roots):
            succeeds("umount", "-l", target)
    return found


def _ctr(layout: Layout, *words: Word) -> str:
    return run("ctr", "-a", layout.socket, "-n", "k8s.io", *words)
