"""What a worker and a process that runs handlers say to each other: JSON behind its length, over a pair of sockets.

Nothing is pickled: a job goes over as plain values and its payload's own JSON, back come an outcome and what the handler
reported. Both ends run one version of Bullpen.

=================  ==============================================================================================
to the process     `Setup` once, then a job at a time. The end of the stream: end.
from the process   ``ready`` or ``broken`` once; for each job ``started``, any ``progress`` and ``log``, ``ended``
=================  ==============================================================================================
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from struct import Struct
from typing import Any, Final, Literal, TypedDict

from bullpen.errors import BullpenError
from bullpen.handling import outcomes
from bullpen.handling.contexts import ActiveJob, JobServices
from bullpen.handling.failures import Failure
from bullpen.handling.outcomes import Outcome
from bullpen.options import Backoff
from bullpen.redis.settings import RedisSettings
from bullpen.retry import Policy, Source

LENGTH: Final = Struct(">I")
MAX_FRAME: Final = 256 * 1024 * 1024

_PLAIN: Final = (
    "id", "name", "queue", "attempt", "version", "fence", "snoozes", "priority", "enqueued_at_ms", "started_at_ms",
    "timeout_ms", "deadline_ms", "max_result_bytes",
)  # fmt: skip
_OUTCOMES: Final[Mapping[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        outcomes.Completed,
        outcomes.Retried,
        outcomes.Failed,
        outcomes.Cancelled,
        outcomes.Snoozed,
        outcomes.RateLimited,
    )
}


class FrameError(BullpenError):
    """What came is no frame: something else wrote to the socket, or a frame is larger than 256 MiB."""


class Message(TypedDict, total=False):
    """What a process says. Which fields there are follows from the kind."""

    kind: Literal["ready", "broken", "started", "progress", "log", "ended"]
    text: str
    """Of ``broken``: a traceback, or the message of a `ConfigurationError`; of ``progress``: JSON; of ``log``: a line."""
    is_configuration: bool
    """Of ``broken``: the user's mistake, which the text says all about."""
    outcome: dict[str, Any]
    """Of ``ended``."""
    memory: int
    """Of ``ended``: the process's resident memory, in bytes."""


@dataclass(frozen=True)
class Setup:
    """What a process needs before it can run jobs."""

    handlers: tuple[tuple[str, str], ...]
    """Module and qualified name of each handler that it may be given."""
    path: tuple[str, ...]
    """``sys.path``: modules are found as the worker finds them."""
    redis: RedisSettings | None
    """For ``ctx.client``; None: there is none."""
    logs: str | None
    """`bullpen_worker.reports.logs.LogSettings` as JSON; None leaves logging alone."""

    def to_data(self) -> dict[str, object]:
        """Give plain values. They hold the secrets of Redis."""
        redis = None if self.redis is None else exposed(self.redis)
        return {"handlers": self.handlers, "path": self.path, "redis": redis, "logs": self.logs}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Setup":
        """Read what `to_data` gave."""
        return cls(
            handlers=tuple((module, qualname) for module, qualname in data["handlers"]),
            path=tuple(data["path"]),
            redis=None if data["redis"] is None else RedisSettings.model_validate(data["redis"]),
            logs=data["logs"],
        )


def exposed(settings: RedisSettings) -> dict[str, Any]:
    """Give the settings as plain values with their secrets, which `model_dump` blots out: for a process of the worker's own."""
    found = settings.model_dump(mode="json")
    if settings.password is not None:
        found["password"] = settings.password.get_secret_value()
    if settings.tls is not None and settings.tls.certificate_pem is not None:
        found["tls"]["certificate_pem"] = settings.tls.certificate_pem.get_secret_value()
    return found


def pack(message: Mapping[str, object] | Message) -> bytes:
    """Write a frame. Raises `FrameError` when it is too large."""
    body = json.dumps(message, separators=(",", ":")).encode()  # ASCII: surrogate escapes pass as \\udcxx
    if len(body) > MAX_FRAME:
        msg = f"a message of {len(body)} bytes is more than a handler's process is sent or sends ({MAX_FRAME})"
        raise FrameError(msg)
    return LENGTH.pack(len(body)) + body


def length_of(head: bytes) -> int:
    """Give how many bytes follow the frame's head. Raises `FrameError`."""
    (length,) = LENGTH.unpack(head)
    if not 0 < length <= MAX_FRAME:
        msg = f"the other process sent what is no message (a length of {length} bytes)"
        raise FrameError(msg)
    return int(length)


def parse(body: bytes) -> Message:
    """Read what a process sent."""
    message: Message = json.loads(body)
    return message


def job_to_data(handler: tuple[str, str], job: ActiveJob) -> dict[str, object]:
    """Give a job, and which handler it is for, as plain values."""
    return {
        "handler": handler,
        "data": _text(job.data),
        "progress_json": None if job.progress_json is None else _text(job.progress_json),
        "retry": asdict(job.retry),
        **{name: getattr(job, name) for name in _PLAIN},
    }


def job_from_data(data: Mapping[str, Any], services: JobServices, deps: object) -> ActiveJob:
    """Read what `job_to_data` gave; services and dependencies are those of this process."""
    retry = data["retry"]
    return ActiveJob(
        data=data["data"].encode(errors="surrogateescape"),
        progress_json=data["progress_json"],
        retry=Policy(retry["attempts"], Backoff(**retry["backoff"]), Source(retry["backoff_source"])),
        services=services,
        deps=deps,
        **{name: data[name] for name in _PLAIN},
    )


def outcome_to_data(outcome: Outcome) -> dict[str, Any]:
    """Give an outcome as plain values."""
    return {"kind": type(outcome).__name__, **asdict(outcome)}


def outcome_from_data(data: Mapping[str, Any]) -> Outcome:
    """Read what `outcome_to_data` gave. Raises `FrameError` for an outcome that no process decides."""
    fields = dict(data)
    kind = _OUTCOMES.get(fields.pop("kind"))
    if kind is None:
        msg = f"a handler's process gave an outcome that is not its to give: {data['kind']}"
        raise FrameError(msg)
    if "failure" in fields:
        fields["failure"] = Failure(**fields["failure"])
    outcome: Outcome = kind(**fields)
    return outcome


def _text(raw: str | bytes) -> str:
    return raw if isinstance(raw, str) else raw.decode(errors="surrogateescape")
