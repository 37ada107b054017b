"""Plain objects, as a user would write them. All pass restricted PodSecurity."""

from collections.abc import Mapping, Sequence

from tests.support.e2e import images
from tests.support.kubernetes.api import Object

POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def environment(values: Mapping[str, str]) -> list[Object]:
    """A container's `env`."""
    return [{"name": name, "value": value} for name, value in values.items()]


def deployment(
    namespace: str,
    name: str,
    container: Object,
    *,
    replicas: int = 1,
    grace_seconds: int = 30,
    volumes: Sequence[Object] = (),
    labels: Mapping[str, str] | None = None,
) -> Object:
    """A Deployment of one container; `labels` are its own, beside the pods'."""
    pods = {"app": name}
    volumes = [{"name": "tmp", "emptyDir": {}}, *volumes]
    container = {
        "imagePullPolicy": "IfNotPresent",
        "securityContext": CONTAINER_SECURITY,
        **container,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *container.get("volumeMounts", [])],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {**pods, **(labels or {})}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pods},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": pods},
                "spec": {
                    "terminationGracePeriodSeconds": grace_seconds,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": POD_SECURITY,
                    "containers": [container],
                    "volumes": list(volumes),
                },
            },
        },
    }


def redis(namespace: str, name: str = "redis") -> list[Object]:
    """A Redis that keeps nothing, and its Service."""
    container = {
        "name": "redis",
        "image": images.REDIS,
        "ports": [{"containerPort": 6379}],
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
        # In its working directory it keeps nothing: the root cannot be written to.
        "command": ["redis-server", "--protected-mode", "no", "--save", "", "--dir", "/tmp"],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": 6379}]},
    }
    return [deployment(namespace, name, container), service]


def workers(
    namespace: str,
    image: str,
    env: Mapping[str, str],
    *,
    replicas: int,
    slots: int,
    grace_seconds: int = 60,
    name: str = "workers",
) -> Object:
    """Bullpen's workers without Bullpen's operator: a Deployment by hand."""
    probe = {"port": 8080}
    pod_name = {"name": "BULLPEN_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    container = {
        "name": "worker",
        "image": image,
        "command": ["bullpen", "worker", "--handlers", "load.jobs", "--queue", "load"],
        "args": ["--concurrency", str(slots), "--probes", "0.0.0.0:8080", "--grace", f"{grace_seconds - 5}s"],
        "env": [*environment(env), pod_name],
        "startupProbe": {"httpGet": {"path": "/healthz", **probe}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {"httpGet": {"path": "/readyz", **probe}, "periodSeconds": 1, "failureThreshold": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }
    return deployment(namespace, name, container, replicas=replicas, grace_seconds=grace_seconds)


def toolbox(namespace: str, env: Mapping[str, str], *, binding: str = "") -> Object:
    """A pod of an application that uses the client package; it waits for commands. `binding`: the Secret it mounts."""
    container: Object = {
        "name": "toolbox",
        "image": images.LOAD,
        "command": ["sleep", "infinity"],
        "env": environment(env),
    }
    volumes: list[Object] = []
    if binding:
        container["env"].append({"name": "SERVICE_BINDING_ROOT", "value": "/bindings"})
        container["volumeMounts"] = [{"name": "binding", "mountPath": "/bindings/load", "readOnly": True}]
        volumes.append({"name": "binding", "secret": {"secretName": binding}})
    return deployment(namespace, "toolbox", container, volumes=volumes, grace_seconds=1)


def jobqueue(namespace: str, name: str = "load", **spec: object) -> Object:
    """A JobQueue on the chart's Redis; `spec` goes over what the load wants. It shrinks soon, not after a minute."""
    wanted: Object = {
        "concurrency": {"perWorker": 5},
        "timeout": "1m",
        "retention": {"completed": {"age": "1h", "count": 20_000}},
        "scaling": {},
        **spec,
    }
    wanted["scaling"] = {
        "maxReplicas": 5,
        "zeroAfter": "5s",
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3}},
        **wanted["scaling"],
    }
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "bullpen.dev/v1alpha1", "kind": "JobQueue", "metadata": meta, "spec": wanted}


def handlers(image: str = images.LOAD) -> Object:
    """A JobQueue's `worker`: the load's handlers."""
    return {
        "image": image,
        "handlers": ["load.jobs"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }


def node_workers(namespace: str, binding: str, *, slots: int, scaled_by: str) -> Object:
    """A Deployment of Node's BullMQ, as somebody has it already; it reads the binding's keys from its environment."""

    def of_binding(name: str, key: str) -> Object:
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": binding, "key": key}}}

    container = {
        "name": "node",
        "image": images.NODE_WORKER,
        "env": [
            of_binding("REDIS_HOST", "host"),
            of_binding("REDIS_PORT", "port"),
            of_binding("REDIS_USERNAME", "username"),
            of_binding("REDIS_PASSWORD", "password"),
            of_binding("BULLPEN_PREFIX", "prefix"),
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "SLOTS", "value": str(slots)},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }
    labels = {"bullpen.dev/scaled-by": scaled_by}
    return deployment(namespace, "node-workers", container, replicas=0, grace_seconds=60, labels=labels)
