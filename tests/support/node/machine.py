"""The node on this very machine: brought up from its parts, and taken down to the last mount."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.support.kubernetes import binaries
from tests.support.kubernetes.api import Api
from tests.support.node import components, containers, credentials, images, network
from tests.support.node.daemons import Daemon
from tests.support.node.layout import DNS_IP, ETCD_PORT, NODE, PROGRAMS, Layout
from tests.support.node.shell import run, succeeds

PACKAGES = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "buildah",
    "debootstrap",
    "iptables",
    "iproute2",
    "conntrack",
    "ca-certificates",
)
PARTS = (
    "kubelet",
    "coredns",
    "kube-proxy",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-apiserver",
    "etcd",
    "containerd",
)
"""In the order in which they end."""


class Machine:
    """A node, its control plane beside it. Needs root, and Debian for what `up` installs."""

    def __init__(self, layout: Layout, tell: Callable[[str], None]) -> None:
        self.layout = layout
        self._tell = tell
        self._daemons = {name: Daemon(name, layout.run, layout.log) for name in PARTS}

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.layout.admin

    def up(self) -> None:
        """Start it; nothing where it runs. What an earlier one left behind goes first."""
        if os.geteuid():
            raise PermissionError("the node needs root: containers, mounts, a bridge")
        if all(daemon.alive for daemon in self._daemons.values()):
            return
        _install(self._tell)
        programs = binaries.ensure(*PROGRAMS, tell=self._tell)
        self.down()
        for folder in (self.layout.run, self.layout.log, self.layout.etcd):
            folder.mkdir(parents=True, exist_ok=True)
        keys = credentials.issue(self.layout)
        network.up()

        def start(name: str, flags: list[str]) -> Daemon:
            self._daemons[name].start([str(programs[name]), *flags])
            return self._daemons[name]

        # Side by side, as far as they do not need each other.
        containerd = self._daemons["containerd"]
        containerd.start(containers.configure(self.layout))
        start("etcd", components.etcd(self.layout)).wait(lambda: _answers(f"http://127.0.0.1:{ETCD_PORT}/health"))
        server = start("kube-apiserver", components.apiserver(self.layout, keys))
        containerd.wait(lambda: containers.answers(self.layout))
        containers.ensure_pause(self.layout)
        api = Api(self.kubeconfig)
        server.wait(api.ready)
        manager = start("kube-controller-manager", components.controller_manager(self.layout, keys))
        scheduler = start("kube-scheduler", components.scheduler(self.layout))
        kubelet = start("kubelet", components.kubelet(self.layout, keys))
        dns = start("coredns", components.coredns(self.layout))
        proxy = start("kube-proxy", components.kube_proxy(self.layout))
        manager.wait(lambda: _answers("https://127.0.0.1:10257/healthz"))
        scheduler.wait(lambda: _answers("https://127.0.0.1:10259/healthz"))
        dns.wait(_resolves)
        kubelet.wait(lambda: _node_ready(api))
        proxy.wait(lambda: _answers("http://127.0.0.1:10256/livez"))
        manager.wait(lambda: api.find("v1", "ServiceAccount", "default", "default") is not None)
        api.close()

    def down(self) -> None:
        """End it, also after it ended uncleanly; images are kept, unless containerd was killed."""
        for name in PARTS[:-1]:
            self._daemons[name].stop()
        containerd = self._daemons["containerd"]
        clean = containerd.alive
        if clean:
            containers.end_all(self.layout)
            containerd.stop()
        clean = not containers.sweep(self.layout) and clean
        proxy = binaries.find("kube-proxy")
        if proxy is not None and self.layout.run.exists():
            succeeds(proxy, "--cleanup", "--proxy-mode=iptables")
        network.down()
        existed = self.layout.run.exists()
        for folder in self.layout.passing:
            shutil.rmtree(folder, ignore_errors=True)
        if existed and not clean:
            shutil.rmtree(self.layout.containerd, ignore_errors=True)
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def status(self) -> dict[str, bool]:
        """Which parts run."""
        return {name: daemon.alive for name, daemon in self._daemons.items()}

    def build(self, tag: str, context: Path, dockerfile: Path | None = None, **arguments: str) -> None:
        """Build an image and bring it to the node."""
        images.build(tag, context, dockerfile, **arguments)
        self.load(tag)

    def load(self, *tags: str) -> None:
        """Bring images that were built to the node."""
        containers.load(self.layout, *tags)


def _install(tell: Callable[[str], None]) -> None:
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    there = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    missing = [package for package in PACKAGES if package not in there]
    if missing:
        tell(f"installing {' '.join(missing)}")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", env=quiet)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=quiet)


def _node_ready(api: Api) -> bool:
    node = api.find("v1", "Node", "", NODE)
    conditions = node["status"].get("conditions", []) if node else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _answers(url: str) -> bool:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=2, context=trusting):
            return True
    except urllib.error.HTTPError:
        return url.endswith("/livez")  # kube-proxy is there, whatever it thinks of its rules
    except OSError:
        return False


def _resolves() -> bool:
    name = b"".join(bytes([len(part)]) + part for part in b"kubernetes.default.svc.cluster.local".split(b"."))
    question = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + name + b"\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        try:
            asking.sendto(question, (DNS_IP, 53))
            answer = asking.recv(512)
        except OSError:
            return False
    return len(answer) > len(question)  # there is more than the question in it: an address


def tell_stderr(line: str) -> None:
    """Say what takes long."""
    print(line, file=sys.stderr, flush=True)
