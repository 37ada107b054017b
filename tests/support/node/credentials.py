"""Certificates of the node's components, and the files by which they log in."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Authority, Pair
from tests.support.kubernetes import kubeconfig
from tests.support.node.layout import API_IP, API_PORT, NODE, NODE_IP, Layout

USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("admin", ("system:masters",)),
    "kubelet": (f"system:node:{NODE}", ("system:nodes",)),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-proxy": ("kube-proxy", ("system:masters",)),
    "coredns": ("coredns", ("system:masters",)),
}
SERVER_NAMES = (
    "localhost",
    "127.0.0.1",
    API_IP,
    NODE_IP,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class Credentials:
    """What `issue` wrote."""

    authority: Path
    server: Pair
    kubelet: Pair
    """What the kubelet serves with."""
    tokens: Pair
    """What ServiceAccounts' tokens are signed with."""
    front_proxy: Pair
    admin: Pair


def issue(layout: Layout) -> Credentials:
    """Write all certificates anew, and a kubeconfig for each of USERS."""
    for folder in (layout.pki, layout.etc):
        folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(layout.pki, "bullpen-test", days=30)
    pairs = {name: authority.issue(user, groups=groups) for name, (user, groups) in USERS.items()}
    for name, pair in pairs.items():
        kubeconfig.write(
            layout.kubeconfig(name),
            server=f"https://127.0.0.1:{API_PORT}",
            authority=authority.certificate,
            user=name,
            credentials=pair,
        )
    return Credentials(
        authority=authority.certificate,
        server=authority.issue("kube-apiserver", hosts=SERVER_NAMES),
        kubelet=authority.issue("kubelet", hosts=(NODE, NODE_IP)),
        tokens=authority.issue("service-accounts"),
        front_proxy=authority.issue("front-proxy"),
        admin=pairs["admin"],
    )
