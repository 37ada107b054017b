"""What a supervisor and its child say to each other: JSON lines over a pair of sockets.

Each message is a frozen value with a `kind` in JSON. Both sides run one version of Bullpen, so there is no negotiation; a line that
cannot be read is an error. The end of the stream says that the other process has gone, and ends this one. Job ids and
tokens are text here; bytes that are no UTF-8 pass as surrogate escapes.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Final, TypeAlias

from bullpen import errors

MAX_LINE: Final = 16 * 1024 * 1024


class ControlError(errors.BullpenError):
    """The other process said what is no message."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job that is active and whose lock is held."""

    job_id: str
    token: str


# -- to the child --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """What to be: the first message. The engine starts with the first `Policy`, so that nothing runs by the wrong one.

    `redis` is `RedisSettings` as JSON, the password in it, which is why it comes this way. With `solo` the child runs that job alone and ends. `overdue`
    are jobs that were killed with a process for being past their timeout: their attempts are to be ended as timed out.
    """

    queue: str
    prefix: str
    redis: str
    handlers: tuple[str, ...]
    concurrency: int
    worker: str
    serial: int
    logs: str
    solo: Ticket | None = None
    overdue: tuple[Ticket, ...] = ()
    recycle_jobs: int | None = None
    recycle_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Follow this policy; `doc` is empty where the queue has none."""

    rev: str
    doc: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Take no new job, finish what ends within the grace, give the rest back, end. A shorter one may follow."""

    grace_ms: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Take no new job."""


@dataclass(frozen=True, slots=True)
class Release:
    """Take jobs again."""


@dataclass(frozen=True, slots=True)
class Limited:
    """Start nothing of the queue for so long: a handler somewhere met somebody's limit."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Use so many slots; 0 is possible."""

    slots: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The lock of this run is gone."""

    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """End this job's attempt as cancelled."""

    job_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Overdue:
    """End the attempts of these jobs as timed out: see `Begin`."""

    overdue: tuple[Ticket, ...]


# -- to the supervisor -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """Handlers are loaded, the lifespans entered; jobs may come."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """All that this child has counted, as `bullpen_worker.reports.metrics.Snapshot`."""

    snapshot: dict[str, object] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A fetched job that must run alone; it was not started here."""

    job_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Settled:
    """An overdue job's attempt was ended; its lock is needed no more."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The child ends because of an error of Bullpen's own in it, which no job has caused."""

    error: str


@dataclass(frozen=True, slots=True)
class Fatal:
    """The child ends, and would end again: its configuration or its handlers are wrong."""

    error: str


Order: TypeAlias = Begin | Policy | Stop | Hold | Release | Limited | Concurrency | Lost | Cancel | Overdue
Report: TypeAlias = Ready | Metrics | Suspect | Settled | Broken | Fatal
Message: TypeAlias = Order | Report

_KINDS: Final[dict[str, type[Message]]] = {
    kind.__name__.lower(): kind
    for kind in (
        Begin, Policy, Stop, Hold, Release, Limited, Concurrency, Lost, Cancel, Overdue, Ready, Metrics, Suspect, Settled,
        Broken, Fatal,
    )
}  # fmt: skip


def encode(message: Message) -> bytes:
    """Give the message as a line."""
    body = {"kind": type(message).__name__.lower(), **asdict(message)}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read a line. Raises `ControlError`."""
    try:
        body = json.loads(line)
        kind = _KINDS[body.pop("kind")]
        make: Callable[..., Message] = kind
        known = {item.name for item in fields(kind)}
        values = {name: _value(name, value) for name, value in body.items() if name in known}
        return make(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"no message between supervisor and child: {line[:200]!r}"
        raise ControlError(msg) from error


def _value(name: str, value: object) -> object:
    match name, value:
        case "solo", dict():
            return Ticket(**value)
        case "overdue", list():
            return tuple(Ticket(**ticket) for ticket in value)
        case _, list():
            return tuple(value)
        case _:
            return value


class Channel:
    """One end of the talk, in an event loop. Sending never waits: the messages are few and small."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> "Channel":
        """Take over this end of the pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_LINE))

    def send(self, message: Message) -> None:
        """Send, if the other side is still there."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def messages(self) -> AsyncIterator[Message]:
        """Give what comes, until the other side is gone. Raises `ControlError`."""
        while True:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return
            except ValueError as error:
                msg = f"a message between supervisor and child is longer than {MAX_LINE} bytes"
                raise ControlError(msg) from error
            if not line.endswith(b"\n"):
                return
            yield decode(line)

    async def close(self) -> None:
        """Send what is left, and end the talk."""
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            pass
