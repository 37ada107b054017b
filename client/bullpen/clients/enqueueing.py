"""From what a caller asks for to what is added, and the steps of adding it. Pure: no I/O, no clock.

A payload's values are never repeated in an error: there may be secrets in them.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import JsonValue

from bullpen.errors import (
    ConfigurationError,
    EnqueueError,
    EnqueueUncertain,
    PayloadInvalid,
    PayloadTooLarge,
    QueueClosed,
    QueueFull,
    RedisUnavailable,
)
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import BATCH, AddJobs, JobShape, NewJob, Refusal
from bullpen.queue.operations.base import Steps, do
from bullpen.queue.operations.jobs import FindIds
from bullpen.queue.operations.queues import ReadPolicy
from bullpen.queue.policy import QueuePolicy
from bullpen.queue.requests import Request, ShapeMaker

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_CACHED_SHAPES: Final = 1024


class Preparer:
    """Makes the jobs of one queue by one policy. Immutable but for its caches: threads may share it."""

    def __init__(self, keys: QueueKeys, policy: QueuePolicy) -> None:
        self.keys = keys
        self.policy = policy
        self._shapes: dict[object, JobShape] = {}

    def prepare(self, request: Request, now_ms: int) -> NewJob:
        """Check the request and give the job to add.

        Raises `QueueClosed`, `PayloadInvalid`, `PayloadTooLarge`, `OptionInvalid`; `TypeError` for an unknown option.
        """
        if self.policy.closed:
            msg = f"queue {self.keys.queue!r} is closed: it takes no new jobs (spec.closed of its JobQueue)"
            raise QueueClosed(msg)
        shape = self._shape(request, now_ms)
        data = self._encode(request)
        return NewJob(shape, request.id, data, now_ms)

    def _encode(self, request: Request) -> bytes:
        data = request.data.encode()
        most = self.policy.limits.payload_bytes
        if len(data) > most:
            msg = (
                f"the payload of job {request.name!r} has {len(data)} bytes as JSON; queue {self.keys.queue!r} takes at "
                f"most {most} (limits.payloadBytes)"
            )
            raise PayloadTooLarge(msg)
        if self.policy.payload_schema is not None:
            self._check_schema(request)
        return data

    def _check_schema(self, request: Request) -> None:
        try:
            error = self._schema_fault(json.loads(request.data))
        except RecursionError:
            msg = (
                f"the payload of job {request.name!r} is nested too deeply to be held against queue "
                f"{self.keys.queue!r}'s payloadSchema"
            )
            raise PayloadInvalid(msg) from None
        if error is not None:
            msg = (
                f"the payload of job {request.name!r} does not fit queue {self.keys.queue!r}'s payloadSchema: "
                f"{_describe(error)}"
            )
            raise PayloadInvalid(msg)

    @functools.cached_property
    def _schema_fault(self) -> Callable[[JsonValue], "ValidationError | None"]:
        import jsonschema  # noqa: PLC0415 - 60 ms, and few queues have a schema
        from jsonschema.exceptions import best_match  # noqa: PLC0415
        from referencing import Registry  # noqa: PLC0415
        from referencing.exceptions import Unresolvable  # noqa: PLC0415

        # An empty registry: a reference to elsewhere is an error, never a download.
        registry: Registry[Any] = Registry()
        validator = jsonschema.Draft202012Validator(dict(self.policy.payload_schema or {}), registry=registry)

        def fault(data: JsonValue) -> "ValidationError | None":
            try:
                found: ValidationError | None = best_match(validator.iter_errors(data))
            except Unresolvable as error:
                msg = f"queue {self.keys.queue!r}'s payloadSchema refers to {error.ref!r}, which is not in it"
                raise ConfigurationError(msg) from None
            return found

        return fault

    def _shape(self, request: Request, now_ms: int) -> JobShape:
        key: object
        try:
            if not request.options and not request.defaults:
                key = (request.name, request.version)
            elif request.is_singular:
                return self._make_shape(request, now_ms)
            else:
                key = (request.name, request.version, *request.options.items(), None, *request.defaults.items())
            found = self._shapes.get(key)
        except TypeError:  # an option that cannot be hashed
            return self._make_shape(request, now_ms)
        if found is None:
            found = self._make_shape(request, now_ms)
            if len(self._shapes) >= _CACHED_SHAPES:
                self._shapes = {}
            self._shapes[key] = found
        return found

    def _make_shape(self, request: Request, now_ms: int) -> JobShape:
        return ShapeMaker(self.keys, self.policy, request, now_ms).make()


class Enqueuer:
    """Adds jobs to one queue, and remembers the queue's policy: one value, swapped whole."""

    def __init__(self, keys: QueueKeys) -> None:
        self.keys = keys
        self._preparer: Preparer | None = None

    def enqueue(self, requests: Sequence[Request], now_ms: int) -> Steps[list[str]]:
        """Add the jobs, in batches of which each is added whole or not at all; give their ids in order.

        All are checked before the first is sent. An id is another than was asked for where the job was a duplicate.
        Raises `EnqueueError` of every kind; where batches had been added before, a note says how many.
        """
        policy, jobs = yield from self._prepare(requests, now_ms)
        ids: list[str] = []
        try:
            while len(ids) < len(requests):
                answer = yield from self._add(policy, tuple(jobs[:BATCH]))
                if isinstance(answer, Refusal):
                    yield from self._refused(answer, policy)
                    policy, jobs = yield from self._prepare(requests[len(ids) :], now_ms)
                else:
                    ids += answer
                    jobs = jobs[len(answer) :]
        except EnqueueError as error:
            if ids:
                error.add_note(f"the first {len(ids)} of {len(requests)} jobs had been added")
            raise
        return ids

    def prepare_one(self, request: Request, now_ms: int) -> AddJobs | None:
        """Give the one operation that will do for most jobs; None where it takes `enqueue`.

        Give `enqueue` the same request when Redis refuses it, so that nothing is added twice, and `confirm` the error when
        the outcome is unknown.
        """
        preparer = self._preparer
        if preparer is None:
            return None
        try:
            job = preparer.prepare(request, now_ms)
        except EnqueueError:
            return None
        return self._operation(preparer.policy, (job,))

    def confirm(self, jobs: Sequence[NewJob], error: EnqueueUncertain) -> Steps[tuple[str, ...]]:
        """Look whether the jobs are there that may or may not have been added; raise the error where they are not."""
        asked = tuple(job.id for job in jobs)
        with contextlib.suppress(RedisUnavailable):
            found = yield from do(FindIds(self.keys, asked))
            if found.issuperset(asked):
                return asked
        raise error

    def policy(self) -> Steps[QueuePolicy]:
        """Read the queue's policy anew."""
        preparer = yield from self._read_policy()
        return preparer.policy

    def _prepare(self, requests: Sequence[Request], now_ms: int) -> Steps[tuple[QueuePolicy, list[NewJob]]]:
        """Give the jobs, and the policy by which they were made: another may be remembered before they are sent."""
        remembered = self._preparer
        if remembered is not None:
            try:
                return remembered.policy, [remembered.prepare(request, now_ms) for request in requests]
            except EnqueueError:
                pass  # by a policy that may have been changed since
        preparer = yield from self._read_policy()
        return preparer.policy, [preparer.prepare(request, now_ms) for request in requests]

    def _add(self, policy: QueuePolicy, jobs: tuple[NewJob, ...]) -> Steps[tuple[str, ...] | Refusal]:
        try:
            return (yield from do(self._operation(policy, jobs)))
        except EnqueueUncertain as error:
            return (yield from self.confirm(jobs, error))

    def _operation(self, policy: QueuePolicy, jobs: tuple[NewJob, ...]) -> AddJobs:
        limits = policy.limits
        on_full: Literal["DropOldest", "Reject"] = "DropOldest" if limits.drop_oldest else "Reject"
        return AddJobs(self.keys, jobs, policy.rev, limits.waiting, on_full)

    def _refused(self, refusal: Refusal, policy: QueuePolicy) -> Steps[None]:
        if refusal is Refusal.STALE_POLICY:
            yield from self._read_policy()
            return
        msg = (
            f"queue {self.keys.queue!r} is full: {policy.limits.waiting} jobs may wait (limits.waiting of its JobQueue)"
        )
        raise QueueFull(msg)

    def _read_policy(self) -> Steps[Preparer]:
        policy = yield from do(ReadPolicy(self.keys))
        self._preparer = preparer = Preparer(self.keys, policy)
        return preparer


def _describe(error: "ValidationError") -> str:
    path = error.json_path
    if error.validator in {"required", "additionalProperties", "unevaluatedProperties", "dependentRequired"}:
        return f"{path}: {error.message}"  # names fields, repeats no values
    rule = json.dumps(error.validator_value, ensure_ascii=False, default=str)
    return f"{path}: must fit {error.validator}: {rule[:200]}"
