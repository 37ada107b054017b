"""The Deployment of a JobQueue's workers. Pure.

The pods pass the restricted PodSecurity standard, need no Kubernetes API (no token), and are told where Redis is by the
binding, mounted as files, so that a rotated password needs no rollout. What is a matter of the queue's policy
(timeouts, retries, `concurrency.perWorker`) is not in the template: workers take it from Redis, at run time.
"""

import math
from dataclasses import dataclass
from typing import Final

from bullpen import durations
from bullpen.api.v1alpha1 import JobQueueSpec, Worker
from bullpen_operator.desired import naming, templates
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Object

CONTAINER: Final = "worker"
PROBE_PORT: Final = 8080
BINDING_ROOT: Final = "/bindings"
"""Where bindings are mounted, a folder each: `$SERVICE_BINDING_ROOT`."""

USER: Final = 10_001
"""Who the pods run as; an image may be made for another, then `podTemplate` says so."""

START_SECONDS: Final = 600
"""How long the import of handlers may take until the pod is given up and started anew."""

HAND_BACK_SECONDS: Final = 10.0
"""What is left of the grace period, once running jobs were cut, to give them back before SIGKILL."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What the cluster's owner says of all worker pods."""

    image_pull_secrets: tuple[str, ...] = ()


def deployment(
    jobqueue: Object, spec: JobQueueSpec, worker: Worker, workplace: Workplace, *, replicas: int | None = None
) -> Object:
    """Give the Deployment; with `replicas` only where it is we who set them at first."""
    name = jobqueue["metadata"]["name"]
    metadata = naming.metadata(jobqueue, naming.workers(name))
    metadata["labels"][kinds.LABEL_SCALED_BY] = name
    body: Object = {
        "selector": {"matchLabels": naming.selector(name)},
        "revisionHistoryLimit": 3,
        # A pod that starts slowly is no failed rollout: the start-up probe decides that.
        "progressDeadlineSeconds": START_SECONDS + 300,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxSurge": worker.strategy.max_surge,
                "maxUnavailable": worker.strategy.max_unavailable,
            },
        },
        "template": templates.merge_pod_template(_template(jobqueue, spec, worker, workplace), worker.pod_template),
    }
    if replicas is not None:
        body["replicas"] = replicas
    return {
        "apiVersion": kinds.DEPLOYMENT.api_version,
        "kind": kinds.DEPLOYMENT.kind,
        "metadata": metadata,
        "spec": body,
    }


def _template(jobqueue: Object, spec: JobQueueSpec, worker: Worker, workplace: Workplace) -> Object:
    name = jobqueue["metadata"]["name"]
    pod: Object = {
        "serviceAccountName": worker.service_account_name or naming.workers(name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(spec),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": naming.selector(name)},
            }
        ],
        "containers": [_container(jobqueue, spec, worker)],
        "volumes": [
            {"name": "binding", "secret": {"secretName": naming.binding(name), "defaultMode": 0o444}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if workplace.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": each} for each in workplace.image_pull_secrets]
    annotations = {"kubectl.kubernetes.io/default-container": CONTAINER}
    return {"metadata": {"labels": naming.labels(name), "annotations": annotations}, "spec": pod}


def _container(jobqueue: Object, spec: JobQueueSpec, worker: Worker) -> Object:
    name = jobqueue["metadata"]["name"]
    container: Object = {
        "name": CONTAINER,
        "image": worker.image,
        "command": ["bullpen", "worker"],
        "args": [
            *(word for module in worker.handlers for word in ("--handlers", module)),
            *("--queue", spec.queue_name or name),
            *("--processes", str(worker.processes)),
            *("--grace", durations.format_ms(_own_grace_ms(spec))),
            *("--probes", f"0.0.0.0:{PROBE_PORT}"),
            *("--log-format", "json"),
        ],
        "env": [
            {"name": "SERVICE_BINDING_ROOT", "value": BINDING_ROOT},
            # The worker is known in Redis by its pod's name: so the scaler tells which pod to retire.
            {"name": "BULLPEN_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [{"name": "http", "containerPort": PROBE_PORT, "protocol": "TCP"}],
        "volumeMounts": [
            {"name": "binding", "mountPath": f"{BINDING_ROOT}/{name}", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own, an emptyDir
        ],
        "startupProbe": _probe("/healthz", period=1, failures=START_SECONDS),
        "livenessProbe": _probe("/healthz", period=10, failures=3),
        # A worker that was retired and is idle says that it is not ready: its ReplicaSet then takes it first, at once.
        "readinessProbe": _probe("/readyz", period=1, failures=1),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    own: Object = {"env": [each.to_dict() for each in worker.env]}
    if worker.env_from:
        own["envFrom"] = [dict(each) for each in worker.env_from]
    if worker.resources:
        own["resources"] = dict(worker.resources)
    return templates.merge(container, own)


def _probe(path: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def grace_seconds(spec: JobQueueSpec) -> int:
    """Give the pod's termination grace period."""
    return math.ceil(spec.termination_grace_period.total_seconds())


def _own_grace_ms(spec: JobQueueSpec) -> int:
    """Give what jobs have to end in after SIGTERM: less than the pod's time, so that the rest goes back in order."""
    seconds = float(grace_seconds(spec))
    return round(max(seconds - HAND_BACK_SECONDS, seconds / 2) * 1000)
