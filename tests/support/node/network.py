"""The bridge that pods hang on, and the address at which CoreDNS answers."""

import json
from pathlib import Path

from tests.support.node.layout import BRIDGE, DNS_IP, NODE_IP, POD_CIDR, Layout
from tests.support.node.shell import run, succeeds


def up() -> None:
    """Make the bridge and the address; nothing where they are."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if not succeeds("ip", "link", "show", BRIDGE):
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NODE_IP}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():  # services hold between pods on the one bridge, too
        bridged.write_text("1")
    if DNS_IP not in run("ip", "addr", "show", "dev", "lo"):
        run("ip", "addr", "add", f"{DNS_IP}/32", "dev", "lo")


KUBELET_CHAINS = (
    ("filter", "KUBE-FIREWALL"),
    *((table, "KUBE-KUBELET-CANARY") for table in ("filter", "nat", "mangle")),
)
HINT = ("mangle", "KUBE-IPTABLES-HINT")


def down() -> None:
    """Take both away, and the kubelet's rules, which nobody else takes away."""
    for table, chain in (*KUBELET_CHAINS, HINT):
        for jumps in ("INPUT", "OUTPUT"):
            succeeds("iptables", "-t", table, "-D", jumps, "-j", chain)
        if succeeds("iptables", "-t", table, "-F", chain):
            succeeds("iptables", "-t", table, "-X", chain)
    succeeds("ip", "link", "del", BRIDGE)
    succeeds("ip", "addr", "del", f"{DNS_IP}/32", "dev", "lo")


def write_cni(layout: Layout) -> Path:
    """Say to containerd how a pod gets its network; the folder that says it."""
    folder = layout.etc / "cni"
    folder.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(layout.root / "ipam"),
            "ranges": [[{"subnet": POD_CIDR, "gateway": NODE_IP}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    conf = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}
    (folder / "10-bridge.conflist").write_text(json.dumps(conf))
    return folder
