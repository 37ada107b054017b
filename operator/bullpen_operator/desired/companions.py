"""What stands beside the Deployment: ServiceAccount, PodDisruptionBudget, NetworkPolicy. Pure."""

from typing import Final

from bullpen_operator.desired import naming
from bullpen_operator.desired.deployments import PROBE_PORT
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Object

MAX_UNAVAILABLE: Final = "25%"
"""Share of a queue's pods that drains of nodes may take at a time; of few pods it is one."""


def service_account(jobqueue: Object) -> Object:
    """Give the account that the pods run under. It has no token: workers have no business with the API server."""
    return {
        "apiVersion": kinds.SERVICE_ACCOUNT.api_version,
        "kind": kinds.SERVICE_ACCOUNT.kind,
        "metadata": naming.metadata(jobqueue, naming.workers(jobqueue["metadata"]["name"])),
        "automountServiceAccountToken": False,
    }


def disruption_budget(jobqueue: Object) -> Object:
    """Give the budget for drains of nodes. A pod that is not ready, retired or broken, may always go."""
    name = jobqueue["metadata"]["name"]
    return {
        "apiVersion": kinds.POD_DISRUPTION_BUDGET.api_version,
        "kind": kinds.POD_DISRUPTION_BUDGET.kind,
        "metadata": naming.metadata(jobqueue, naming.workers(name)),
        "spec": {
            "maxUnavailable": MAX_UNAVAILABLE,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": naming.selector(name)},
        },
    }


def network_policy(jobqueue: Object) -> Object:
    """Give the policy that lets nobody speak to workers but who reads their metrics; what they speak to is theirs."""
    name = jobqueue["metadata"]["name"]
    return {
        "apiVersion": kinds.NETWORK_POLICY.api_version,
        "kind": kinds.NETWORK_POLICY.kind,
        "metadata": naming.metadata(jobqueue, naming.workers(name)),
        "spec": {
            "podSelector": {"matchLabels": naming.selector(name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"namespaceSelector": {}}], "ports": [{"port": PROBE_PORT, "protocol": "TCP"}]},
            ],
        },
    }
