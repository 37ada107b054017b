"""Where the node keeps its files, and at which addresses things answer."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.kubernetes import binaries
from tests.support.kubernetes.binaries import KUBERNETES

NODE = "node1"
BRIDGE = "bullpen0"
NODE_IP = "10.213.0.1"
"""The bridge's address: the machine as pods see it."""
POD_CIDR = "10.213.0.0/24"
SERVICE_CIDR = "10.212.0.0/16"
API_IP, DNS_IP = "10.212.0.1", "10.212.0.10"
API_PORT, ETCD_PORT, ETCD_PEER_PORT = 16443, 12379, 12380
PROGRAMS = (*KUBERNETES, "etcd", "coredns")
PAUSE = "localhost/pause:1"
BASE = "localhost/python:3.11-slim"
"""Debian 12 with its Python 3.11, for the image that a registry would give."""


@dataclass(frozen=True)
class Layout:
    """The folders of one node. There is one a machine: its ports and its bridge are fixed."""

    root: Path

    @cached_property
    def run(self) -> Path:
        """Process ids and sockets: there is a node, or the rest of one, while this is there."""
        return self.root / "run"

    @cached_property
    def log(self) -> Path:
        """What each process wrote."""
        return self.root / "log"

    @cached_property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @cached_property
    def etc(self) -> Path:
        """Configuration files."""
        return self.root / "etc"

    @cached_property
    def etcd(self) -> Path:
        """The cluster's data."""
        return self.root / "etcd"

    @cached_property
    def kubelet(self) -> Path:
        """Pods' volumes."""
        return self.root / "kubelet"

    @cached_property
    def containerd(self) -> Path:
        """Images and layers, kept over a `down`."""
        return self.root / "containerd"

    @cached_property
    def containerd_state(self) -> Path:
        """What containerd mounts: containers' roots, network namespaces."""
        return self.run / "containerd"

    @cached_property
    def socket(self) -> Path:
        """Where containerd listens."""
        return self.containerd_state / "containerd.sock"

    @cached_property
    def admin(self) -> Path:
        """The administrator's kubeconfig."""
        return self.kubeconfig("admin")

    @property
    def passing(self) -> tuple[Path, ...]:
        """What goes with the node."""
        return (self.etcd, self.kubelet, self.root / "ipam", self.root / "pods", self.pki, self.etc)

    def kubeconfig(self, user: str) -> Path:
        """The file by which this user logs in."""
        return self.etc / f"{user}.kubeconfig"


def default() -> Layout:
    """The node of this user's cache folder."""
    return Layout(binaries.cluster_directory() / "node")
