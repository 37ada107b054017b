"""What local mode does for a JobQueue: its keys, its scaling, and how its workers are started. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bullpen import durations, scaling
from bullpen.api.v1alpha1 import JobQueue
from bullpen.queue.keys import QueueKeys
from bullpen.scaling.policy import ScalingPolicy
from bullpen_cli.local import environment
from bullpen_cli.local.fleet import WorkerCommand

_SET_HERE: Final = frozenset(
    {"BULLPEN_PREFIX", "BULLPEN_PROBES", "BULLPEN_REDIS_URL", "BULLPEN_REDIS_URL_FILE", "SERVICE_BINDING_ROOT"}
)
"""What YAML and shell say of these is for elsewhere: here is one Redis, and one machine's ports for all workers."""


@dataclass(frozen=True)
class LocalQueue:
    """One JobQueue, ready to be run on this machine."""

    jobqueue: JobQueue
    keys: QueueKeys
    policy: ScalingPolicy
    command: WorkerCommand | None
    """How to start a worker; None where the JobQueue has none (`worker` is absent)."""
    grace_seconds: float

    @property
    def name(self) -> str:
        """The JobQueue's name."""
        return self.jobqueue.name

    @property
    def most(self) -> int:
        """The largest number of workers there may be."""
        if self.command is None:
            return 0
        return self.policy.max_replicas if self.policy.mode == "Auto" else self.policy.manual_replicas


def plan(jobqueue: JobQueue, *, prefix: str, inherited: Mapping[str, str], secrets: Mapping[str, str]) -> LocalQueue:
    """Say how a JobQueue runs here.

    `inherited` is the environment of every worker, the address of Redis included; `secrets` stands in for what YAML takes
    from Secrets. Raises `ConfigurationError` for one that is missing. Workers log no less than the account is made of
    (`bullpen_cli.local.journal`).
    """
    spec = jobqueue.spec
    worker = spec.worker
    grace_ms = durations.parse_ms(spec.termination_grace_period)
    command = None
    if worker is not None:
        variables = [each.to_dict() for each in worker.env]
        own = environment.resolve(variables, worker.env_from, secrets=secrets, where=f"JobQueue {jobqueue.name!r}")
        asked = {**inherited, **own}
        handlers = [word for module in worker.handlers for word in ("--handlers", module)]
        here = {name: value for name, value in inherited.items() if name == "BULLPEN_REDIS_URL"}
        here["BULLPEN_PREFIX"] = prefix
        command = WorkerCommand(
            (
                *handlers,
                *("--queue", jobqueue.queue_name),
                *("--prefix", prefix),
                *("--concurrency", str(spec.concurrency.per_worker)),
                *("--processes", str(worker.processes)),
                *("--grace", durations.format_ms(grace_ms)),
                *("--log-format", "json"),
                *("--log-level", "debug" if asked.get("BULLPEN_LOG_LEVEL") == "debug" else "info"),
                *("--log-jobs", "all" if asked.get("BULLPEN_LOG_JOBS") == "all" else "sampled"),
            ),
            {name: value for name, value in asked.items() if name not in _SET_HERE} | here,
        )
    return LocalQueue(
        jobqueue=jobqueue,
        keys=QueueKeys(prefix, jobqueue.queue_name),
        policy=scaling.policy_of(spec),
        command=command,
        grace_seconds=grace_ms / 1000,
    )


def plan_all(
    jobqueues: Sequence[JobQueue], *, prefix: str, inherited: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[str, LocalQueue]:
    """Plan each, by name."""
    return {
        jobqueue.name: plan(jobqueue, prefix=prefix, inherited=inherited, secrets=secrets) for jobqueue in jobqueues
    }
