"""What pods say: who is ready, who cannot start and why, how long a start took. Pure; reads the API server's dicts."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bullpen_operator.kube.kinds import Object

HASH: Final = "pod-template-hash"
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
PROTECTIONS: Final = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
"""Annotations that keep a pod from those who drain nodes."""

WORKER_CONTAINER: Final = "worker"

_CANNOT_START: Final = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "CreateContainerConfigError",
        "CreateContainerError",
        "CrashLoopBackOff",
        "RunContainerError",
        "StartError",
        "PostStartHookError",
        "PreStartHookError",
    }
)
"""Reasons of a container that waits which do not pass by waiting alone. `ContainerCreating`, `PodInitializing` do."""

LOOPS_RESTARTS: Final = 2
LOOPS_MS: Final = 60_000
"""A container that has started so often, and whose last run did not last so long, starts again and again."""

STRANDED_MS: Final = 300_000
"""A pod that waits for a node, or for a word of its worker, for so long is told of: until then one may be on its way."""

_MESSAGE_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class Loop:
    """A container that starts again and again; between two of its starts it does not wait, but is no good either."""

    text: str
    until_ms: int | None
    """When the run that goes on has lasted; None while none goes on."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod. Times in ms since 1970, whole seconds as Kubernetes writes them."""

    name: str
    uid: str
    revision: str
    """Of the pod template."""
    created_ms: int
    ready: bool
    ready_ms: int | None
    """Since when it has been ready."""
    going: bool
    """It is being deleted, or has ended: it counts no more."""
    started_ms: int | None
    """When the worker's container started; None while it does not run."""
    restarts: int
    trouble: str
    """Why it cannot start, as `reason: message`; empty when nothing says so."""
    loop: Loop | None
    """Whether it starts again and again, when nothing says that it waits to."""
    unschedulable: str
    """Why no node takes it."""
    cost: str | None
    protected: bool

    @property
    def starting(self) -> bool:
        """Whether it is on its way to take jobs."""
        return not self.ready and not self.going

    def cannot_start(self, now_ms: int) -> str:
        """Say why it cannot start, as `reason: message`; empty when nothing says so."""
        if self.trouble or self.loop is None:
            return self.trouble
        has_lasted = self.loop.until_ms is not None and now_ms >= self.loop.until_ms
        return "" if has_lasted else self.loop.text

    @property
    def startup_ms(self) -> int | None:
        """How long it took from its creation to readiness; None unless it has just become ready for the first time."""
        if self.ready_ms is None or self.restarts:
            return None
        return max(self.ready_ms - self.created_ms, 0)

    @classmethod
    def of(cls, pod: Object) -> "PodView":
        """Read a pod as the API server gave it."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        annotations = metadata.get("annotations") or {}
        ready = _condition(status, "Ready")
        scheduled = _condition(status, "PodScheduled")
        containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        started = _worker_started(status.get("containerStatuses") or ())
        is_unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            revision=(metadata.get("labels") or {}).get(HASH, ""),
            created_ms=time_ms(metadata.get("creationTimestamp")) or 0,
            ready=ready.get("status") == "True",
            ready_ms=time_ms(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
            going=bool(metadata.get("deletionTimestamp")) or status.get("phase") in {"Succeeded", "Failed"},
            started_ms=started,
            restarts=sum(int(container.get("restartCount") or 0) for container in containers),
            trouble=next((found for container in containers if (found := _container_trouble(container))), ""),
            loop=next((loop for container in containers if (loop := _loop(container))), None),
            unschedulable=_text(scheduled.get("message") or "no node takes it") if is_unschedulable else "",
            cost=annotations.get(DELETION_COST),
            protected=all(annotations.get(name) == value for name, value in PROTECTIONS.items()),
        )


def cannot_start(pods: Iterable[PodView], owners: Iterable[Object] = (), *, now_ms: int) -> str:
    """Say why new pods cannot start, as `Reason: message`; empty when they can, or nothing is known of it yet.

    They cannot when the API server refuses them (quota, admission: `ReplicaFailure` of the Deployment or ReplicaSets,
    given as `owners`), or when of the newest template none is ready and one says why. One that is ready shows that they
    can: what ails another is that pod's own. Pods that no node takes yet are no reason: a node may be on its way, and
    whoever brings it counts them.
    """
    for owner in owners:
        failure = _condition(owner.get("status") or {}, "ReplicaFailure")
        if failure.get("status") == "True":
            return f"{failure.get('reason') or 'FailedCreate'}: {_text(failure.get('message') or 'pods are refused')}"
    return next((trouble for pod in _unproven(pods) if (trouble := pod.cannot_start(now_ms))), "")


def stranded(pods: Iterable[PodView], unheard: Container[str] = (), *, now_ms: int) -> str:
    """Say as `Reason: message` why new pods, of which none is ready, have been waiting for minutes; empty when they do not.

    They may start yet, once there is a node or a way to Redis, so this is no reason to ask for no more of them: a person has
    to know. `unheard` are the uids of those whose worker Redis does not know.
    """
    for pod in _unproven(pods):
        if pod.unschedulable and now_ms - pod.created_ms >= STRANDED_MS:
            return f"Unschedulable: {pod.unschedulable}"
        if pod.started_ms is not None and pod.uid in unheard and now_ms - pod.started_ms >= STRANDED_MS:
            return "NeverReady: the worker runs and was never heard of in Redis: see its log"
    return ""


def unschedulable(pods: Iterable[PodView]) -> str:
    """Say how many pods no node takes, and why; empty when there are none."""
    waiting = [pod for pod in pods if pod.unschedulable and not pod.going]
    if not waiting:
        return ""
    return f"{len(waiting)} pod{'s' if len(waiting) > 1 else ''} Unschedulable: {waiting[0].unschedulable}"


def _unproven(pods: Iterable[PodView]) -> list[PodView]:
    """Give the pods of the newest template; none where one of them is ready, and so shows that they can be."""
    alive = [pod for pod in pods if not pod.going]
    newest = max(alive, key=lambda pod: pod.created_ms, default=None)
    newcomers = [pod for pod in alive if newest is not None and pod.revision == newest.revision]
    return [] if any(pod.ready for pod in newcomers) else newcomers


def time_ms(text: object) -> int | None:
    """Read a time of Kubernetes; None where there is none."""
    if not isinstance(text, str):
        return None
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1_000)
    except ValueError:
        return None


def _worker_started(containers: Sequence[Mapping[str, Any]]) -> int | None:
    named = [container for container in containers if container.get("name") == WORKER_CONTAINER]
    for container in named or containers:
        running = (container.get("state") or {}).get("running")
        if running is not None:
            return time_ms(running.get("startedAt")) or 0
    return None


def _container_trouble(container: Mapping[str, Any]) -> str:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason") or ""
    if reason in _CANNOT_START:
        last = (container.get("lastState") or {}).get("terminated") or {}
        ended = f"; the last one ended with {_exit(last)}" if "exitCode" in last else ""
        return f"{reason}: {_text(waiting.get('message') or 'container ' + str(container.get('name')))}{ended}"
    return ""


def _loop(container: Mapping[str, Any]) -> Loop | None:
    """Read from a container that runs, or has just ended, whether it will soon wait as `CrashLoopBackOff` again."""
    state = container.get("state") or {}
    if container.get("ready") or int(container.get("restartCount") or 0) < LOOPS_RESTARTS:
        return None
    last = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    began_ms, ended_ms = time_ms(last.get("startedAt")), time_ms(last.get("finishedAt"))
    if began_ms is None or ended_ms is None or ended_ms - began_ms >= LOOPS_MS:
        return None
    text = f"CrashLoopBackOff: container {container.get('name')} starts again and again; the last one ended with {_exit(last)}"
    running_ms = time_ms((state.get("running") or {}).get("startedAt"))
    return Loop(text, None if running_ms is None else running_ms + LOOPS_MS)


def _exit(terminated: Mapping[str, Any]) -> str:
    reason = terminated.get("reason")
    told = f" ({reason})" if isinstance(reason, str) and reason not in {"", "Error", "Completed"} else ""
    return f"exit code {terminated.get('exitCode')}{told}"


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = [item for item in status.get("conditions") or () if item.get("type") == kind]
    return found[0] if found else {}


def _text(message: str) -> str:
    return message if len(message) <= _MESSAGE_LENGTH else message[: _MESSAGE_LENGTH - 1] + "…"
