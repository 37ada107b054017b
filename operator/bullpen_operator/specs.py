"""Reads a JobQueue as the API server gave it, and says what is wrong with it. Pure.

What the schema and CEL let through may still be wrong: a cron, a time zone, a JSON Schema. And a field may be right and do
nothing yet; then nobody is to believe that it does.
"""

from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from bullpen.api import checks, explain
from bullpen.api.v1alpha1 import JobQueue
from bullpen_operator.conditions import Problem
from bullpen_operator.kube.kinds import Object

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
    metadata = {name: value for name, value in obj["metadata"].items() if name in _METADATA}
    if field := _too_deep(obj.get("spec")):
        return Reading(None, _invalid([f"spec.{field}: is nested more than {DEEPEST} levels deep"]))
    try:
        jobqueue = JobQueue.model_validate({**obj, "metadata": metadata, "status": None}, extra="ignore")
    except ValidationError as error:
        return Reading(
            None, _invalid([f"{each.field}: {each.message}" for _, each in explain.findings(JobQueue, error)])
        )
    found = checks.check(jobqueue)
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
