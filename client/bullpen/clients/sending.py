"""What both clients share about enqueueing: where a job goes, the middleware around it, its request."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeAlias, TypeVar, cast

from pydantic import JsonValue

from bullpen import serialization
from bullpen.clients.enqueueing import Enqueuer
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.durations import Duration
from bullpen.errors import EnqueueError, OptionInvalid, ResultInvalid
from bullpen.jobs import JobSpec, JobType
from bullpen.options import EnqueueOptions, duration_ms
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Steps
from bullpen.queue.requests import Request

T = TypeVar("T")

Placed: TypeAlias = tuple[str, str, Callable[[str | bytes], T]]
"""A job that was enqueued: its queue, its id, and what reads its result."""


class Sender:
    """Knows the queues of one client, each with its policy as it was last seen."""

    def __init__(
        self, prefix: Callable[[str], str], middleware: Sequence[EnqueueMiddleware], mint: Callable[[], str]
    ) -> None:
        self._prefix = prefix
        self._middleware = tuple(middleware)
        self._mint = mint
        self._queues: dict[str, Enqueuer] = {}

    def queue(self, name: str) -> Enqueuer:
        """Give the queue's enqueuer.

        Raises `ConfigurationError` for a name that BullMQ refuses, or whose binding cannot be used.
        """
        found = self._queues.get(name)
        if found is None:
            # Two threads may both make one; either does.
            found = self._queues[name] = Enqueuer(QueueKeys(self._prefix(name), name))
        return found

    def target(self, spec: JobSpec[T], queue: str | None) -> str:
        """Give the queue that the job goes to: the one named, else that of its definition."""
        name = queue or spec.queue
        if name is None:
            msg = f"job {spec.name!r} has no queue of its own: enqueue it by client.queue('…').enqueue(…)"
            raise OptionInvalid(msg)
        return name

    @property
    def has_middleware(self) -> bool:
        """Whether there is any."""
        return bool(self._middleware)

    def request(self, spec: JobSpec[T], queue: str | None, more: EnqueueOptions | None) -> tuple[Enqueuer, Request]:
        """Give what one job asks, and the queue that it asks it of."""
        return self.queue(queue or self.target(spec, None)), Request.of(spec, self._mint, more)

    @contextlib.contextmanager
    def through_middleware(self, specs: Sequence[JobSpec[T]]) -> Generator[list[JobSpec[T]]]:
        """Be inside the middleware of all these jobs; give what is to be sent.

        Raises `EnqueueError` when a middleware swallows an error, since there is no job then.
        """
        if not self._middleware:
            yield list(specs)
            return
        raised: Exception | None = None
        sent = False
        with contextlib.ExitStack() as stack:
            changed = []
            for spec in specs:
                current = cast("JobSpec[object]", spec)
                for each in self._middleware:
                    current = stack.enter_context(each(current))
                changed.append(cast("JobSpec[T]", current))
            try:
                yield changed
                sent = True
            except Exception as error:
                raised = error
                raise
        if not sent:
            msg = f"an enqueue middleware swallowed an error, so there is no job to give: {raised}"
            raise EnqueueError(msg) from raised

    def by_queue(self, specs: Sequence[JobSpec[T]], queue: str | None) -> dict[str, list[tuple[int, Request]]]:
        """Give the requests by queue, each with its place among the jobs."""
        found: dict[str, list[tuple[int, Request]]] = {}
        for place, spec in enumerate(specs):
            request = Request.of(spec, self._mint)
            found.setdefault(self.target(spec, queue), []).append((place, request))
        return found

    def add_all(self, groups: dict[str, list[tuple[int, Request]]], now_ms: int) -> Steps[list[tuple[str, str]]]:
        """Add the jobs of every queue; give queue and id of each, in the order of the jobs."""
        placed: dict[int, tuple[str, str]] = {}
        for queue, requests in groups.items():
            ids = yield from self.queue(queue).enqueue([request for _, request in requests], now_ms)
            placed.update((place, (queue, job_id)) for (place, _), job_id in zip(requests, ids, strict=True))
        return [placed[place] for place in range(len(placed))]


def timeout_seconds(option: str, value: Duration) -> float:
    """Give a timeout in seconds. Raises `OptionInvalid` for what is no duration above zero."""
    ms = duration_ms(option, value)
    if ms == 0:
        msg = f"{option}: {value!r} is not allowed; allowed: a duration above zero"
        raise OptionInvalid(msg)
    return ms / 1_000


def own_timeout(value: Duration | None) -> float | None:
    """Give a client's own timeout in seconds; None where it has none. Raises `OptionInvalid`."""
    return None if value is None else timeout_seconds("timeout", value)


def queue_of(job_type: JobType[..., T]) -> str:
    """Give the queue of a contract. Raises `OptionInvalid` when it has none."""
    if job_type.queue is None:
        msg = f"job {job_type.name!r} has no queue of its own: take client.queue('…').job(…)"
        raise OptionInvalid(msg)
    return job_type.queue


def any_json(text: str | bytes) -> JsonValue:
    """Read the result of a job whose type nobody told. Raises `ResultInvalid`."""
    try:
        return serialization.decode_json(text)
    except serialization.Misfit as error:
        msg = f"the job's result is not JSON: {error}"
        raise ResultInvalid(msg) from None


def materialize(jobs: Iterable[JobSpec[T]]) -> list[JobSpec[T]]:
    """Give the jobs of an iterable as a list; `TypeError` for what is no `JobSpec`."""
    specs = list(jobs)
    for kind in {type(spec) for spec in specs} - {JobSpec}:
        msg = f"enqueue_many takes what .job(…) gives, not {kind.__name__}"
        raise TypeError(msg)
    return specs
