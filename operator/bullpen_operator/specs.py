"""Reads a JobQueue as the API server gave it, and says what is wrong with it. `read` is pure.

What the schema and CEL let through may still be wrong: a cron, a time zone, a JSON Schema. And a field may be right and do
nothing yet; then nobody is to believe that it does.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from bullpen.api import checks, explain
from bullpen.api.findings import Finding
from bullpen.api.v1alpha1 import JobQueue, JobQueueSpec
from bullpen_operator.conditions import Problem
from bullpen_operator.kube.kinds import Key, Object

MOST_SHOWN: Final = 5
DEEPEST: Final = 100
"""Levels of a spec: what has more was not written by hand, and much that reads it has an end somewhere."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a spec came to: the model where it can be used, what is wrong with it where something is."""

    jobqueue: JobQueue | None
    problem: Problem | None = None
    """With a model: what the spec asks for and does not get yet. Without one: why it cannot be used."""

    notices: tuple[str, ...] = ()


def read(obj: Object) -> Reading:
    """Read a JobQueue. Fields of a newer version are passed over."""
    jobqueue = _parse(obj)
    return Reading(None, jobqueue) if isinstance(jobqueue, Problem) else _judge(jobqueue, checks.check(jobqueue))


class Reader:
    """Reads JobQueues, and checks each spec once: a JSON Schema may take seconds, and reconciles come often.

    Such a check runs in a thread, one at a time, so that nobody's queue waits for another's schema. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._found: dict[Key, list[tuple[JobQueueSpec, tuple[Finding, ...]]]] = {}
        self._turn = asyncio.Lock()

    async def read(self, key: Key, obj: Object) -> Reading:
        """Do as `read`."""
        jobqueue = _parse(obj)
        if isinstance(jobqueue, Problem):
            return Reading(None, jobqueue)
        known = self._found.setdefault(key, [])
        found = next((found for spec, found in known if spec == jobqueue.spec), None)
        if found is None and jobqueue.spec.payload_schema is not None:
            async with self._turn:
                found = await asyncio.to_thread(checks.check, jobqueue)
        elif found is None:
            found = checks.check(jobqueue)
        # The spec of now, and the last good one.
        self._found[key] = [(jobqueue.spec, found), *(each for each in known if each[0] != jobqueue.spec)][:2]
        return _judge(jobqueue, found)

    def forget(self, key: Key) -> None:
        """Forget a JobQueue that is gone."""
        self._found.pop(key, None)


def _parse(obj: Object) -> JobQueue | Problem:
    metadata = {name: value for name, value in obj["metadata"].items() if name in _METADATA}
    if field := _too_deep(obj.get("spec")):
        return _invalid([f"spec.{field}: is nested more than {DEEPEST} levels deep"])
    try:
        return JobQueue.model_validate({**obj, "metadata": metadata, "status": None}, extra="ignore")
    except ValidationError as error:
        return _invalid([f"{each.field}: {each.message}" for _, each in explain.findings(JobQueue, error)])


def _judge(jobqueue: JobQueue, found: Sequence[Finding]) -> Reading:
    if errors := [f"{each.field}: {each.message}" for each in found if each.severity == "error"]:
        return Reading(None, _invalid(errors))
    return Reading(jobqueue, _not_yet(jobqueue), tuple(f"{each.field} {each.message}" for each in found))


def with_spec(obj: Object, spec: Object) -> Object:
    """Give the JobQueue with another spec: the last one that was good."""
    return {**obj, "spec": spec}


_METADATA: Final = frozenset(
    {"name", "namespace", "labels", "annotations", "uid", "resourceVersion", "generation", "creationTimestamp"}
)


def _invalid(problems: list[str]) -> Problem:
    more = f"; and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
    return Problem("InvalidSpec", f"{'; '.join(problems[:MOST_SHOWN])}{more}. What ran before goes on.")


def _too_deep(spec: object) -> str:
    """Give the field of a spec in which it is nested too deep; empty where there is none."""
    pending = [(name, value, 2) for name, value in spec.items()] if isinstance(spec, dict) else []
    while pending:
        field, value, depth = pending.pop()
        if depth > DEEPEST:
            return str(field)
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            pending += [(field, each, depth + 1) for each in inner if isinstance(each, dict | list)]
    return ""


def _not_yet(jobqueue: JobQueue) -> Problem | None:
    spec = jobqueue.spec
    fields = []
    if spec.dead_letter is not None:
        fields.append("spec.deadLetter (a job that fails for good stays in this queue as failed)")
    if spec.worker_pool_ref is not None:
        fields.append("spec.workerPoolRef (nobody works on the queue on its account)")
    for index, schedule in enumerate(spec.schedules):
        if schedule.concurrency_policy == "Forbid":
            fields.append(f"spec.schedules[{index}].concurrencyPolicy")
        if schedule.starting_deadline is not None:
            fields.append(f"spec.schedules[{index}].startingDeadline")
    if not fields:
        return None
    return Problem("NotYet", f"{', '.join(fields)}: this version does not do that yet. All else is as the spec says.")
