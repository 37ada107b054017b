"""The flags and files of each part of the control plane and the node: plain functions of where things are."""

import json
from pathlib import Path

from tests.support.kubernetes.apiserver import AUDIT_POLICY
from tests.support.node.credentials import Credentials
from tests.support.node.layout import (
    API_PORT,
    DNS_IP,
    ETCD_PEER_PORT,
    ETCD_PORT,
    NODE,
    NODE_IP,
    POD_CIDR,
    SERVICE_CIDR,
    Layout,
)


def etcd(layout: Layout) -> list[str]:
    """One member, nothing synced to disk: its data end with the node."""
    client, peer = (f"http://127.0.0.1:{port}" for port in (ETCD_PORT, ETCD_PEER_PORT))
    return [
        f"--data-dir={layout.etcd}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(layout: Layout, keys: Credentials) -> list[str]:
    """RBAC, node restriction, tokens for pods, an audit log."""
    policy = layout.etc / "audit.yaml"
    policy.write_text(json.dumps(AUDIT_POLICY))
    return [
        f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
        f"--secure-port={API_PORT}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_IP}",
        f"--client-ca-file={keys.authority}",
        f"--tls-cert-file={keys.server.certificate}",
        f"--tls-private-key-file={keys.server.key}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys.tokens.certificate}",
        f"--service-account-signing-key-file={keys.tokens.key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--requestheader-client-ca-file={keys.authority}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys.front_proxy.certificate}",
        f"--proxy-client-key-file={keys.front_proxy.key}",
        f"--kubelet-client-certificate={keys.admin.certificate}",
        f"--kubelet-client-key={keys.admin.key}",
        f"--kubelet-certificate-authority={keys.authority}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={layout.log / 'audit.log'}",
        "--profiling=false",
    ]


def controller_manager(layout: Layout, keys: Credentials) -> list[str]:
    """All controllers, with the rights that each has in a real cluster."""
    return [
        *_logged_in(layout.kubeconfig("kube-controller-manager")),
        f"--service-account-private-key-file={keys.tokens.key}",
        f"--root-ca-file={keys.authority}",
        "--use-service-account-credentials=true",
        "--node-monitor-grace-period=60s",
    ]


def scheduler(layout: Layout) -> list[str]:
    """Nothing of its own."""
    return _logged_in(layout.kubeconfig("kube-scheduler"))


def _logged_in(login: Path) -> list[str]:
    return [
        f"--kubeconfig={login}",
        f"--authentication-kubeconfig={login}",
        f"--authorization-kubeconfig={login}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def kube_proxy(layout: Layout) -> list[str]:
    """Services by iptables; no limits set that a container may not set."""
    return [
        f"--kubeconfig={layout.kubeconfig('kube-proxy')}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_CIDR}",
        f"--hostname-override={NODE}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--iptables-sync-period=10s",
        "--iptables-min-sync-period=100ms",
    ]


def coredns(layout: Layout) -> list[str]:
    """The cluster's names, and no others."""
    corefile = layout.etc / "Corefile"
    corefile.write_text(
        f".:53 {{\n  bind {DNS_IP}\n  errors\n"
        f"  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n"
        f"    kubeconfig {layout.kubeconfig('coredns')} test\n    ttl 1\n  }}\n}}\n"
    )
    return ["-conf", str(corefile)]


def kubelet(layout: Layout, keys: Credentials) -> list[str]:
    """On containerd, cgroups as the machine has them, images never collected."""
    config = layout.etc / "kubelet.json"
    config.write_text(
        json.dumps(
            {
                "kind": "KubeletConfiguration",
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(keys.authority)},
                },
                "authorization": {"mode": "Webhook"},
                "cgroupDriver": "cgroupfs",
                "failSwapOn": False,
                "clusterDNS": [DNS_IP],
                "clusterDomain": "cluster.local",
                "containerRuntimeEndpoint": f"unix://{layout.socket}",
                "tlsCertFile": str(keys.kubelet.certificate),
                "tlsPrivateKeyFile": str(keys.kubelet.key),
                "enforceNodeAllocatable": [],
                "evictionHard": {"memory.available": "100Mi"},
                "imageGCHighThresholdPercent": 100,
                "resolvConf": "",
                "serializeImagePulls": False,
                "maxPods": 200,
                "podLogsDir": str(layout.root / "pods"),
                "oomScoreAdj": 0,
                "nodeStatusUpdateFrequency": "5s",
                "syncFrequency": "10s",
                "registryPullQPS": 0,
            }
        )
    )
    return [
        f"--config={config}",
        f"--kubeconfig={layout.kubeconfig('kubelet')}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_IP}",
        f"--root-dir={layout.kubelet}",
    ]
