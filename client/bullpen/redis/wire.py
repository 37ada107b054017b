"""One pipelined connection to Redis: the hot path of workers and clients.

The model: a `Connection` belongs to one event loop and has no task of its own. `call` puts a future into a queue and
its bytes to what is written next; Redis answers in order, so each reply belongs to the future at the head. Whoever
awaits may be cancelled: the future stays in the queue and its reply is dropped when it comes, so that order holds. A
connection that is lost fails every waiting future and is never used again; making a new one is `bullpen.redis.link`'s.

Writes are joined once per turn of the loop. The flush is scheduled at the end of `buffer_updated`, so it runs after
all that the replies woke, in the same turn. `eager` writes at once when nothing is under way, which saves a single
caller a turn of the loop, and lets Redis begin while the others are still being woken.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeAlias, cast

import hiredis

from bullpen.redis.failures import ConnectionLost, ReplyError, ReplyTimeout

Reply: TypeAlias = "bytes | int | ReplyError | list[Reply] | None"
"""An answer (RESP2): text as bytes, never decoded. Errors are values inside lists only."""

MAX_REPLY_BYTES: Final = 512 * 1024 * 1024
"""The largest single reply; Redis' own limit of a string is the same."""
_READ_BYTES: Final = 64 * 1024
_CHECKS_PER_TIMEOUT: Final = 4
_MORE: Final = object()
_STALE: Final = frozenset({"NOAUTH", "WRONGPASS", "READONLY", "UNBLOCKED"})
"""Error replies after which the connection is no good: credentials or roles have changed, a new one finds out."""


def pack_command(*words: bytes | str | float) -> bytes:
    """Give a command as it goes over the wire; text as UTF-8. Any other type raises `TypeError`."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub says "a tuple of one"
    return packed


class Receiver(Protocol):
    """Who takes a reply without a future of its own: see `Connection.post`. Neither method may raise."""

    def take(self, reply: Reply) -> None:
        """Take the reply, which may be a `ReplyError`."""

    def lose(self, error: ConnectionLost) -> None:
        """Learn that no reply will come. May come twice, and after the last reply."""


class _Batch:
    """A place in the queue for the replies of several commands: the queue holds it once for each."""

    __slots__ = ("future", "left", "replies")

    def __init__(self, future: "asyncio.Future[list[Reply]]", count: int) -> None:
        self.future = future
        self.left = count
        self.replies: list[Reply] = []

    def take(self, reply: Reply) -> None:
        self.replies.append(reply)
        self.left -= 1
        if self.left == 0 and not self.future.done():
            self.future.set_result(self.replies)

    def lose(self, error: ConnectionLost) -> None:
        fail(self.future, error)


class Connection(asyncio.BufferedProtocol):
    """A connection that is open, or was; see the module for the model. Made by `bullpen.redis.handshake.connect`."""

    def __init__(
        self,
        *,
        where: str,
        eager: bool = True,
        reply_timeout: float | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.where = where
        self.on_lost: Callable[[ConnectionLost], None] | None = None
        """Called once, when the connection has ended; also after `close`."""
        self.lost: ConnectionLost | None = None
        """Why it has ended; None while it is open."""
        self.replies = 0
        """How many replies have come."""
        self.established = False
        """Whether the handshake is over."""
        self._loop = loop or asyncio.get_running_loop()
        self._create_future = partial(asyncio.Future, loop=self._loop)  # as the loop's own, without a frame
        self._eager = eager
        self._reply_timeout = reply_timeout
        self._max_reply_bytes = max_reply_bytes
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(protocolError=ValueError, replyError=ReplyError, notEnoughData=_MORE)
        # A view: asyncio's TLS slices what get_buffer gives, and a slice of a bytearray is a copy that nobody reads.
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._pending: deque[asyncio.Future[Reply] | Receiver] = deque()
        self._out: list[bytes] = []
        self._unsent = 0  # how many at the tail of _pending have their bytes still in _out
        self._unanswered_bytes = 0  # received since the last whole reply
        self._stale = ""  # why the connection is to end when all that has come is handed out
        self._flush_due = False
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._watched_replies = 0
        self._watched_since = 0.0
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # -- for callers -------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether commands can be sent."""
        return self.lost is None and self._transport is not None

    @property
    def backlog(self) -> int:
        """How many replies are waited for."""
        return len(self._pending)

    def call(self, packed: bytes) -> "asyncio.Future[Reply]":
        """Send one packed command; the future gives its reply or raises `ReplyError` or `ConnectionLost`.

        Raises `ConnectionLost` (not sent) at once when the connection has ended.
        """
        if self.lost is not None:
            raise ConnectionLost(str(self.lost), sent=False)
        future: asyncio.Future[Reply] = self._create_future()
        if self._eager and not self._pending and not self._paused:
            self._pending.append(future)
            self._transport.write(packed)  # type: ignore[union-attr]  # set before anyone has the connection
            if self._watch is None:
                self._start_watch()
            return future
        self.post(packed, future)
        return future

    def post(self, packed: bytes, waiting: "asyncio.Future[Reply] | Receiver") -> None:
        """Send one packed command with what goes out next, and give its reply to whoever waits.

        A future must be of asyncio's own class. Raises `ConnectionLost` (not sent) at once when the connection has ended.
        """
        if self.lost is not None:
            raise ConnectionLost(str(self.lost), sent=False)
        self._pending.append(waiting)
        self._out.append(packed)
        self._unsent += 1
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def call_many(self, packed: bytes, count: int) -> "asyncio.Future[list[Reply]]":
        """Send `count` commands packed into one; the future gives their replies in order, error replies as values."""
        if self.lost is not None:
            raise ConnectionLost(str(self.lost), sent=False)
        future: asyncio.Future[list[Reply]] = self._create_future()
        if count == 0:
            future.set_result([])
            return future
        batch = _Batch(future, count)
        self._pending.extend([batch] * count)
        self._out.append(packed)
        self._unsent += count
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return future

    async def answer(self, packed: bytes, *, within: float) -> Reply:
        """Send one packed command and wait `within` seconds for its reply.

        Raises `ReplyTimeout`, `ConnectionLost`, `ReplyError`. When time is up and Redis has answered nothing at all
        since, the connection is given up: what waits behind would wait in vain too.
        """
        future = self.call(packed)
        timer = self._loop.call_later(within, self._overdue, future, self.replies, within)
        try:
            return await future
        finally:
            timer.cancel()

    async def answers(self, packed: bytes, count: int, *, within: float) -> list[Reply]:
        """Do the same for `count` commands: one time limit for all their replies."""
        future = self.call_many(packed, count)
        timer = self._loop.call_later(within, self._overdue, future, self.replies, within)
        try:
            return await future
        finally:
            timer.cancel()

    def heed(self, error: ReplyError) -> None:
        """Leave the connection, once all that has come is handed out, if this error says that it is no good any more.

        Only to be called for errors inside of a reply, from `Receiver.take`: those that are a reply are heeded by themselves.
        """
        if self.established and error.code in _STALE:
            self._stale = f"{self.where} answered: {error}"

    async def drain(self) -> None:
        """Wait until the transport takes more bytes; returns at once when it does. For those who send much.

        Raises `ConnectionLost` when the connection ends meanwhile.
        """
        if self._paused and self.lost is None:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)
        if self.lost is not None:
            raise ConnectionLost(str(self.lost), sent=False)

    def close(self) -> None:
        """End the connection; what waits for replies gets `ConnectionLost`. Idempotent."""
        if self.lost is None:
            self._flush()
            self._end(f"the connection to {self.where} was closed", at_once=False)

    def abort(self, reason: str, *, kind: type[ConnectionLost] = ConnectionLost) -> None:
        """End the connection at once, for this reason. Idempotent."""
        if self.lost is None:
            self._end(reason, kind=kind)

    async def wait_closed(self) -> None:
        """Wait until the socket is closed too."""
        await asyncio.shield(self._closed)

    # -- asyncio.BufferedProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's interface
        """Give the one buffer that all reads use."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand out every whole reply, and schedule the flush behind what they wake."""
        reader = self._reader
        pending = self._pending
        replies = 0
        try:
            reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # takes any buffer
            gets = reader.gets
            while (reply := gets()) is not _MORE:
                replies += 1
                waiting = pending.popleft()
                if reply.__class__ is ReplyError:
                    self._refuse(waiting, reply)
                elif waiting.__class__ is not asyncio.Future:
                    waiting.take(reply)  # type: ignore[union-attr]  # mypy does not see through `__class__ is not`
                elif not waiting.done():
                    waiting.set_result(reply)
        except IndexError:
            self.abort(f"{self.where} sent a reply that nobody waits for")
            return
        except (ValueError, MemoryError) as error:
            self.abort(f"{self.where} does not speak Redis' protocol: {str(error) or 'too large a reply'}")
            return
        if replies:
            self.replies += replies
            self._unanswered_bytes = 0
            if self._unsent > len(pending):
                self.abort(f"{self.where} answered a command that was not sent")
                return
        else:
            self._unanswered_bytes += nbytes
            if self._unanswered_bytes > self._max_reply_bytes:
                self.abort(f"{self.where} sent a reply of more than {self._max_reply_bytes} bytes")
                return
        if self._stale:
            self.abort(self._stale)
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def eof_received(self) -> None:
        """Let the transport close."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all that waits."""
        if self.lost is None:
            self._end(f"the connection to {self.where} was lost: {_reason(exc)}")
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """Hold back what is not written yet: the peer takes no more."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write what was held back."""
        self._paused = False
        self._flush()
        if self._drained is not None and not self._paused:
            self._drained.set_result(None)
            self._drained = None

    # -- inside ------------------------------------------------------------------------------------------------

    def _refuse(self, waiting: "asyncio.Future[Reply] | Receiver", error: ReplyError) -> None:
        if not isinstance(waiting, asyncio.Future):
            waiting.take(error)
        elif not waiting.done():
            waiting.set_exception(error)
        self.heed(error)

    def _flush(self) -> None:
        self._flush_due = False
        out = self._out
        if not out or self._paused or self._transport is None:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._unsent = 0
        self._transport.write(data)
        if self._watch is None:
            self._start_watch()

    def _end(self, reason: str, *, kind: type[ConnectionLost] = ConnectionLost, at_once: bool = True) -> None:
        lost = self.lost = kind(reason, sent=True)
        transport = self._transport
        if transport is not None:
            if at_once:
                transport.abort()  # close() would wait for the peer to take what is buffered; a frozen one never does
            else:
                transport.close()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._out.clear()
        pending, self._pending = self._pending, deque()
        first_unsent = len(pending) - self._unsent
        self._unsent = 0
        for position, waiting in enumerate(pending):
            error = kind(reason, sent=position < first_unsent)
            if isinstance(waiting, asyncio.Future):
                fail(waiting, error)
            else:
                waiting.lose(error)
        if transport is None and not self._closed.done():
            self._closed.set_result(None)
        if self.on_lost is not None:
            self.on_lost(lost)

    def _overdue(
        self, future: "asyncio.Future[Reply] | asyncio.Future[list[Reply]]", replies: int, within: float
    ) -> None:
        if future.done():
            return
        reason = f"{self.where} did not answer within {within:.3g} s"
        if self.replies == replies:
            self.abort(reason, kind=ReplyTimeout)
        else:
            future.set_exception(ReplyTimeout(reason, sent=True))

    def _start_watch(self) -> None:
        if self._reply_timeout is None:
            return
        self._watched_replies = self.replies
        self._watched_since = self._loop.time()
        self._watch = self._loop.call_later(self._reply_timeout / _CHECKS_PER_TIMEOUT, self._check)

    def _check(self) -> None:
        """Give the connection up when something waits and nothing was answered for the reply timeout."""
        timeout = self._reply_timeout
        self._watch = None
        if timeout is None or not self._pending:
            return
        now = self._loop.time()
        if self.replies != self._watched_replies:
            self._watched_replies = self.replies
            self._watched_since = now
        elif now - self._watched_since >= timeout:
            self.abort(f"{self.where} answered nothing for {timeout:g} s", kind=ReplyTimeout)
            return
        self._watch = self._loop.call_later(timeout / _CHECKS_PER_TIMEOUT, self._check)


def fail(future: "asyncio.Future[Reply] | asyncio.Future[list[Reply]]", error: ConnectionLost) -> None:
    """Tell who waits for a reply, if anybody still does, that none will come."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as seen: that nobody awaits an outstanding wait any more is no news


def _reason(error: Exception | None) -> str:
    if error is None:
        return "the server closed it"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return str(error) or type(error).__name__
