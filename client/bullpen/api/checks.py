"""What the schema cannot say: cron, time zones, JSON Schema, names across documents, fields that do nothing yet.

The same for `bullpen check`, for local mode and for the operator: `check` takes objects and knows no files;
`check_files` adds what only files have.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path as FilePath

from pydantic import JsonValue

from bullpen import cron, durations
from bullpen.api import files, schemas
from bullpen.api.files import Document, FileSet, Object
from bullpen.api.findings import Finding, Path, Severity, did_you_mean, dotted, of_value, shown
from bullpen.api.v1alpha1 import ClusterRedisConnection, JobQueue, JobQueueSpec, RedisConnection

__all__ = ["Finding", "Report", "Severity", "check", "check_files"]

Located = tuple[Path, Finding]


@dataclass(frozen=True, slots=True)
class Report:
    """What the files hold and all that was found, in the files' order."""

    files: FileSet
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the files unusable."""
        return tuple(each for each in self.findings if each.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are only worth knowing."""
        return tuple(each for each in self.findings if each.severity == "warning")


def check_files(paths: Iterable[str | FilePath]) -> Report:
    """Read files (folders, ``-`` for standard input) and check all that is in them."""
    return report(files.load(paths))


def report(loaded: FileSet) -> Report:
    """Check what files hold."""
    found = [*loaded.findings, *_across(loaded.documents)]
    for document in loaded.documents:
        if document.object is not None:
            found += [document.locate(path, finding) for path, finding in _of(document.object)]
    order = {file: place for place, file in enumerate(dict.fromkeys(each.file for each in found))}
    found.sort(key=lambda each: (order[each.file], each.line, each.severity))
    return Report(loaded, tuple(dict.fromkeys(found)))


def check(obj: Object) -> tuple[Finding, ...]:
    """Check one valid object by itself; the findings have a field and no place."""
    return tuple(finding for _, finding in _of(obj))


def _of(obj: Object) -> Iterator[Located]:
    match obj:
        case JobQueue():
            for rule in _QUEUE_RULES:
                yield from rule(obj)
        case RedisConnection() | ClusterRedisConnection():
            if obj.spec.topology != "Standalone":
                yield _inert(("spec", "topology"), f"{obj.spec.topology} is not supported yet")


# -- one JobQueue ------------------------------------------------------------


def _schedules(queue: JobQueue) -> Iterator[Located]:
    for index, schedule in enumerate(queue.spec.schedules):
        at: Path = ("spec", "schedules", index)
        if schedule.cron is not None:
            yield from _cron((*at, "cron"), schedule.cron)
            yield from _time_zone((*at, "timeZone"), schedule.zone)
        if schedule.concurrency_policy == "Forbid":
            yield _inert((*at, "concurrencyPolicy"))
        if schedule.starting_deadline is not None:
            yield _inert((*at, "startingDeadline"))


def _windows(queue: JobQueue) -> Iterator[Located]:
    for index, window in enumerate(queue.spec.scaling.windows if queue.spec.scaling else ()):
        at: Path = ("spec", "scaling", "windows", index)
        yield from _cron((*at, "schedule"), window.schedule)
        yield from _time_zone((*at, "timeZone"), window.zone)


def _payload_schema(queue: JobQueue) -> Iterator[Located]:
    if queue.spec.payload_schema is not None:
        for problem in schemas.problems(queue.spec.payload_schema):
            yield _error(("spec", "payloadSchema", *problem.path), problem.message)


def _later(queue: JobQueue) -> Iterator[Located]:
    if queue.spec.dead_letter is not None:
        yield _inert(("spec", "deadLetter"), "a job that fails for good stays in this queue as failed")
    if queue.spec.worker_pool_ref is not None:
        yield _inert(("spec", "workerPoolRef"), "nobody works on the queue on its account")


def _scaling(queue: JobQueue) -> Iterator[Located]:
    spec = queue.spec
    # an object from a cluster always has `replicas`: the API server fills its default in
    if spec.replicas != JobQueueSpec.model_fields["replicas"].default and spec.scaling_mode != "Manual":
        yield _warning(("spec", "replicas"), f"is read in mode Manual only; the mode is {spec.scaling_mode}")
    if spec.worker is not None and spec.termination_grace_period < spec.longest_timeout:
        at = ("spec", "worker", "terminationGracePeriod")
        text = f"is shorter than the longest timeout, {_text(spec.longest_timeout)}: longer jobs are given back at shutdown"
        yield _warning(at, text, _text(spec.termination_grace_period))


_QUEUE_RULES: tuple[Callable[[JobQueue], Iterator[Located]], ...] = (
    _schedules,
    _windows,
    _payload_schema,
    _later,
    _scaling,
)


def _cron(path: Path, expression: str) -> Iterator[Located]:
    try:
        cron.validate(expression)
    except cron.CronInvalid as error:
        yield _error(path, str(error), expression)


def _time_zone(path: Path, name: str) -> Iterator[Located]:
    try:
        cron.time_zone_of(name)
    except cron.CronInvalid:
        from zoneinfo import available_timezones  # noqa: PLC0415 (walks over a file system)

        hint = did_you_mean(name, sorted(available_timezones()))
        yield path, of_value("error", path, name, 'an IANA time zone such as "UTC" or "Europe/Berlin"', hint=hint)


# -- several documents -------------------------------------------------------


def _across(documents: Iterable[Document]) -> Iterator[Finding]:
    names: dict[tuple[str, str, str], Document] = {}
    queues: dict[tuple[str, str, str, str], Document] = {}
    for document in documents:
        obj = document.object
        if obj is None:
            continue
        namespace = obj.metadata.namespace or ""
        name = (obj.kind, namespace, obj.metadata.name)
        first = names.setdefault(name, document)
        if first is not document:
            text = f"another {obj.kind} has this name: {_place(first, ('metadata', 'name'))}"
            yield document.locate(*_error(("metadata", "name"), text, obj.metadata.name))
            continue
        if not isinstance(obj, JobQueue):
            continue
        redis = obj.spec.redis_ref
        queue = (namespace, redis.kind if redis else "", redis.name if redis else "", obj.queue_name)
        first = queues.setdefault(queue, document)
        if first is not document:
            at: Path = ("spec", "queueName") if obj.spec.queue_name else ("metadata", "name")
            text = f"another JobQueue declares this queue on the same Redis: {_place(first, ('metadata', 'name'))}"
            yield document.locate(*_error(at, text, obj.queue_name))


def _place(document: Document, path: Path) -> str:
    return f"{document.file}:{document.position_of(path).line}"


# -- findings ----------------------------------------------------------------


def _error(path: Path, message: str, found: JsonValue = None) -> Located:
    return path, _finding("error", path, message, found)


def _warning(path: Path, message: str, found: JsonValue = None) -> Located:
    return path, _finding("warning", path, message, found)


def _inert(path: Path, consequence: str = "") -> Located:
    return _warning(path, f"this field does nothing yet{': ' if consequence else ''}{consequence}")


def _finding(severity: Severity, path: Path, message: str, found: JsonValue) -> Finding:
    value = None if found is None else shown(found, path)
    return Finding(severity, dotted(path), message if value is None else f"found {value}: {message}", value)


def _text(duration: timedelta) -> str:
    return durations.format_ms(durations.parse_ms(duration))
