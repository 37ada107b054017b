"""What an operation is: a frozen value that says what is wanted, and knows how to ask Redis and read the answer.

`commands()` and `read()` are pure. Three shells run operations: the async client over the pipelined wire layer, the
blocking client over redis-py, and the memory store of the test harness, which looks at the value's fields and never at
its commands. What takes several steps is a generator of operations (`Steps`), so it too is written once.
"""

from collections.abc import Generator, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeAlias, TypeVar, cast

from bullpen.queue.keys import QueueKeys
from bullpen.queue.lua import Script

Arg: TypeAlias = str | bytes | int
Reply: TypeAlias = object
"""What Redis answered: bytes, an int, None, or a list of these; text is bytes. Errors are raised by the shell."""

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Command(NamedTuple):
    """One plain command."""

    args: tuple[Arg, ...]


class Eval(NamedTuple):
    """One script. The shell sends its hash, and its source when Redis does not know it."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Arg, ...]
    shared_keys: bool = False
    """Whether many calls have these very keys: worth remembering how they are packed."""
    more_args: tuple[Arg, ...] = ()
    """Further arguments, after `args`, that many calls have."""


Call: TypeAlias = Command | Eval


class Operation(Generic[T_co]):
    """Base of all operations."""

    __slots__ = ()

    repeatable: ClassVar[bool] = True
    """Whether the operation may be sent again when no answer came: it changes nothing, or the same thing once."""

    def commands(self) -> Sequence[Call]:
        """Give what to send, in one pipeline."""
        raise NotImplementedError

    def packed(self) -> bytes | None:
        """Give the bytes of the one command, where there is a shorter way to them than by `commands`; they are the same."""
        return None

    def read(self, replies: Sequence[Reply]) -> T_co:
        """Give the result, of one reply for each command."""
        raise NotImplementedError

    def settles(self, result: object) -> bool:  # noqa: ARG002 - most look at nothing
        """Whether a part of the work is done for good with this result, so that its time is not that of the next part."""
        return False


class QueueOperation(Operation[T_co]):
    """An operation on one queue."""

    __slots__ = ()

    keys: QueueKeys


Steps: TypeAlias = Generator[Operation[object], object, T]
"""Something of several steps: yields operations, is sent their results (or thrown their errors), returns its own."""


def do(operation: Operation[T]) -> Steps[T]:
    """Be one step within steps, and give its result.

    ``found = yield from do(GetJob(keys, job_id))``
    """
    return cast("T", (yield operation))


def text(reply: Reply) -> str:
    """Read a bulk string; absent is the empty text."""
    if isinstance(reply, bytes):
        return reply.decode(errors="replace")
    return "" if reply is None else str(reply)


def number(reply: Reply) -> int:
    """Read an integer."""
    if isinstance(reply, int):
        return reply
    if isinstance(reply, bytes | str):
        return int(reply)
    msg = f"Redis answered {type(reply).__name__} where a number was expected"
    raise TypeError(msg)


def items(reply: Reply) -> Sequence[Reply]:
    """Read a list; absent is the empty one."""
    return reply if isinstance(reply, list | tuple) else ()


def flat(reply: Reply) -> dict[bytes, bytes]:
    """Read a hash, as a flat list of fields and values or as a mapping."""
    if isinstance(reply, dict):
        return reply
    pairs = iter(items(reply))
    return {
        field: value
        for field, value in zip(pairs, pairs, strict=False)
        if isinstance(field, bytes) and isinstance(value, bytes)
    }
