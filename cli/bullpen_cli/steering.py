"""`bullpen pause`, `resume` and `adopt`: in Redis itself, or by a JobQueue's spec in a cluster."""

import contextlib
import re
import sys
from typing import Annotated, Any, Final

import typer

from bullpen.clients.queues import SyncQueue
from bullpen.clients.sync_session import SyncSession, SyncStore
from bullpen.errors import ConfigurationError
from bullpen.queue.declaration import ReadOwnership
from bullpen_cli import arguments
from bullpen_cli.kubectl import JobQueues

ADOPT_ANNOTATION: Final = "bullpen.dev/adopt"
_TIMEOUT_SECONDS: Final = 10.0
_OWNER: Final = re.compile(r"belongs to '([^']+/[^']+/[^']+)'")

QueueName = Annotated[str | None, typer.Argument(metavar="QUEUE", help="The queue in Redis.", show_default=False)]
JobQueueName = Annotated[
    str | None,
    typer.Option("--jobqueue", metavar="NAME", help="A JobQueue in the cluster, in place of a queue in Redis."),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Of the JobQueue; else that of the context.")]
ContextName = Annotated[str, typer.Option("--context", help="Of the kubeconfig; else its current one.")]
RedisUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where Redis is; else the queue's binding, else BULLPEN_REDIS_URL and its kin."),
]
Prefix = Annotated[str | None, typer.Option(help="The prefix of the queue's keys; else BULLPEN_PREFIX, else bull.")]


def pause(
    queue: QueueName = None,
    *,
    jobqueue: JobQueueName = None,
    namespace: Namespace = "",
    context: ContextName = "",
    redis: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Let no further job of a queue start. Those that run go on; jobs can still be enqueued.

    With QUEUE it is done in Redis, at once, and holds where the JobQueue's spec says nothing of `paused`. With --jobqueue it
    is written to `spec.paused` by kubectl, and the operator does it.

    ```text
    bullpen pause emails
    bullpen pause --jobqueue emails --namespace shop
    ```

    Exit code 0: it is paused, or was already. 1: it could not be done. 2: a wrong call.
    """
    name = _in_redis(queue, jobqueue)
    if jobqueue is not None:
        JobQueues(namespace, context).patch(jobqueue, {"spec": {"paused": True}})
        _say(f"spec.paused of JobQueue {jobqueue} is true: the operator pauses its queue")
        return
    with contextlib.closing(_session(redis, prefix)) as session:
        found = SyncQueue(session, name)
        if found.paused():
            _say(f"{name} is paused already")
            return
        found.pause()
    _say(f"{name} is paused; to let it run again: bullpen resume {name}")


def resume(
    queue: QueueName = None,
    *,
    jobqueue: JobQueueName = None,
    namespace: Namespace = "",
    context: ContextName = "",
    redis: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Let jobs of a paused queue start again.

    With QUEUE it is done in Redis; a queue that its JobQueue's spec pauses is left alone, since the spec would pause it again.
    With --jobqueue `spec.paused` is removed by kubectl, and the operator resumes what the spec had paused.

    ```text
    bullpen resume emails
    bullpen resume --jobqueue emails --namespace shop
    ```

    Exit code 0: it runs, or did already. 1: it could not be done. 2: a wrong call.
    """
    name = _in_redis(queue, jobqueue)
    if jobqueue is not None:
        _resume_by_spec(JobQueues(namespace, context), jobqueue)
        return
    with contextlib.closing(_session(redis, prefix)) as session:
        found = SyncQueue(session, name)
        if not found.paused():
            _say(f"{name} is not paused")
            return
        ownership = session.perform(ReadOwnership(session.keys(name)))
        if ownership.pauses:
            msg = (
                f"{name} is paused by the spec of its JobQueue ({ownership.owner}), which would pause it again: "
                "remove spec.paused there, or use --jobqueue"
            )
            raise ConfigurationError(msg)
        found.resume()
    _say(f"{name} runs")


def adopt(
    jobqueue: Annotated[str, typer.Argument(metavar="JOBQUEUE", help="The JobQueue that is to own its queue.")],
    *,
    namespace: Namespace = "",
    context: ContextName = "",
    owner: Annotated[
        str, typer.Option("--from", metavar="OWNER", help="Who owns it now, as the condition QueueOwned names it.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Let a JobQueue take its queue in Redis from whoever owns it now: another cluster, another JobQueue, a laptop.

    The JobQueue says `OwnedElsewhere`, and by whom. What the other wrote is replaced; its jobs stay in the queue. The other
    side says `OwnedElsewhere` from then on and writes nothing more.

    ```text
    bullpen adopt emails --namespace shop
    bullpen adopt emails --namespace shop --from 0f3c/shop/emails --yes
    ```

    Exit code 0: the operator was told. 1: there is nothing to take, or it could not be written. 2: a wrong call.
    """
    jobqueues = JobQueues(namespace, context)
    found = owner or _owner(jobqueues.get(jobqueue), jobqueue)
    if not yes:
        typer.confirm(f"The queue belongs to {found}. Let {jobqueue} take it?", abort=True)
    jobqueues.patch(jobqueue, {"metadata": {"annotations": {ADOPT_ANNOTATION: found}}})
    _say(f"{jobqueue} takes its queue from {found}")


def _in_redis(queue: str | None, jobqueue: str | None) -> str:
    """Give the name of the queue in Redis; empty where a JobQueue is named."""
    if (queue is None) == (jobqueue is None):
        msg = "name a queue in Redis, or a JobQueue by --jobqueue"
        raise typer.BadParameter(msg)
    return "" if queue is None else arguments.queue_name(queue)


def _session(redis: str | None, prefix: str | None) -> SyncSession:
    return SyncSession(SyncStore(arguments.redis_settings(redis, prefix), prefix=None, timeout=_TIMEOUT_SECONDS), ())


def _resume_by_spec(jobqueues: JobQueues, name: str) -> None:
    found = jobqueues.get(name)
    if found["spec"].get("paused"):
        jobqueues.patch(name, {"spec": {"paused": None}})
        _say(f"spec.paused of JobQueue {name} is removed: the operator resumes its queue")
        return
    if _condition(found, "Paused").get("status") == "True":
        queue = (found.get("status", {}).get("queue") or {}).get("name") or name
        msg = f"the spec of JobQueue {name} does not pause it; somebody did in Redis. There, do: bullpen resume {queue}"
        raise ConfigurationError(msg)
    _say(f"{name} is not paused")


def _owner(found: dict[str, Any], name: str) -> str:
    condition = _condition(found, "QueueOwned")
    named = _OWNER.search(str(condition.get("message", "")))
    if condition.get("status") != "False" or named is None:
        msg = f"JobQueue {name} does not say that its queue belongs to another: there is nothing to take"
        raise ConfigurationError(msg)
    return named[1]


def _condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = found.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind), {})


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
