"""Bounds what a Redis may answer: for those who talk to a Redis that somebody else named.

hiredis makes room for a list when its header comes: `*1000000000` alone stops the loop for a second. So the bytes are
looked through before hiredis has them, token by token, without making an object of any: lengths that are announced, how
many lists and errors there are, how much there is in all. What is counted is what comes in answer to one question, or to several
that were sent as one. A reply over a limit ends the connection with `ReplyTooLarge`.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from bullpen import errors
from bullpen.redis.failures import ReplyTooLarge
from bullpen.redis.wire import Connection

_LONGEST_LINE: Final = 8_192
_SCALARS: Final = re.compile(rb"(?:[:+][^\r\n]*\r\n)+")
_LINE: Final = re.compile(rb"[-*$:+][^\r\n]*\r\n")
_LENGTH: Final = re.compile(rb"-1|0|[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class ReplyLimits:
    """What the replies to one question, or to several that were sent as one, may come to. The defaults are the operator's."""

    bytes: int = 16 << 20
    """All of them. As objects they take some five times as much."""
    text: int = 4 << 20
    """One text."""
    elements: int = 1_000_000
    """Elements of all lists together, as their headers announce them."""
    boxes: int = 100_000
    """Lists and errors: the small things that become large objects."""


class TooMuch(errors.BullpenError):
    """A limit was passed; the message says which, and nothing of what came."""


class Guard:
    """Looks through what a server sends. Tokens may be cut anywhere between two calls of `take`."""

    def __init__(self, limits: ReplyLimits) -> None:
        self._limits = limits
        self._partial = b""
        self._skip = 0
        self._bytes = 0
        self._elements = 0
        self._boxes = 0

    def rest(self) -> None:
        """Begin to count anew: another question is being answered now."""
        self._bytes = self._elements = self._boxes = 0

    def take(self, chunk: memoryview) -> None:
        """Look at the next bytes. Raises `TooMuch`, also for what is no protocol of Redis'."""
        limits = self._limits
        self._bytes += len(chunk)
        if self._bytes > limits.bytes:
            msg = f"more than {limits.bytes} bytes"
            raise TooMuch(msg)
        if self._skip >= len(chunk):
            self._skip -= len(chunk)
            return
        data = self._partial + bytes(chunk[self._skip :])
        place = self._skip = 0
        end = len(data)
        while place < end:
            if scalars := _SCALARS.match(data, place):
                place = scalars.end()
                continue
            line = _LINE.match(data, place)
            if line is None:
                break
            place = line.end() + self._read(data[line.start() : line.end() - 2])
        if place >= end:
            self._skip = place - end
            self._partial = b""
            return
        self._partial = data[place:]
        if data[place] not in b"-*$:+":
            msg = "what is not Redis' protocol"
            raise TooMuch(msg)
        if len(self._partial) > _LONGEST_LINE:
            msg = f"a line of more than {_LONGEST_LINE} bytes"
            raise TooMuch(msg)

    def _read(self, line: bytes) -> int:
        """Count a header; give the bytes that follow it and are to be skipped."""
        limits = self._limits
        kind = line[:1]
        if kind == b"-":
            return self._box(0)
        if _LENGTH.fullmatch(line, 1) is None:
            msg = "what is not Redis' protocol"
            raise TooMuch(msg)
        length = int(line[1:])
        if kind == b"*":
            return self._box(max(0, length))
        if length > limits.text:
            msg = f"a text of more than {limits.text} bytes"
            raise TooMuch(msg)
        return length + 2 if length >= 0 else 0

    def _box(self, elements: int) -> int:
        self._boxes += 1
        self._elements += elements
        if self._elements > self._limits.elements or self._boxes > self._limits.boxes:
            msg = f"lists of more than {self._limits.elements} elements, or more than {self._limits.boxes} lists"
            raise TooMuch(msg)
        return 0


class BoundedConnection(Connection):
    """A connection that ends where a reply passes the limits."""

    def __init__(self, *, limits: ReplyLimits, **options: Any) -> None:
        super().__init__(**options)
        self._guard = Guard(limits)

    def buffer_updated(self, nbytes: int) -> None:
        """Look at the bytes before they become objects."""
        try:
            self._guard.take(self._buffer[:nbytes])
        except TooMuch as error:
            self.abort(f"{self.where} sent too much: {error}", kind=ReplyTooLarge)
            return
        pending = self._pending
        asked = pending[0] if pending else None
        super().buffer_updated(nbytes)
        pending = self._pending
        if not pending or pending[0] is not asked:  # what is answered is its receiver's; others may always be waiting
            self._guard.rest()
