"""An error as it is written to Redis: its type, its message, its traceback, each bounded.

Describing an error never fails, whatever the error is: its ``__str__`` may raise, its text may be no Unicode, it may come
out of the deepest recursion.
"""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_REASON_BYTES: Final = 2_048
MAX_STACK_BYTES: Final = 16_384
_MAX_FRAMES: Final = 60
_MAX_CHAIN: Final = 8

_OURS: Final = (str(Path(__file__).parents[1]) + os.sep, f"{os.sep}bullpen_worker{os.sep}")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed."""

    error_type: str
    """The error's class as ``module.Class``; classes that are built in stand alone: ``ValueError``. Ours are
    ``bullpen.Class`` and ``bullpen_worker.Class``."""
    reason: str
    """Its message, or the class's name when it has none; at most 2 KiB of UTF-8."""
    stack: str
    """Its traceback without Bullpen's own frames, at most 16 KiB of UTF-8; the middle is left out where it is longer."""


def describe(error: BaseException, cause: BaseException | None = None) -> Failure:
    """Describe an error. `cause` is what it is about where that is another, as in a group of one. Never raises."""
    cause = error if cause is None else cause
    kind = type(cause)
    return Failure(_cut(_name(kind), 255), _cut(_message(cause) or kind.__qualname__, MAX_REASON_BYTES), _stack(error))


def _name(kind: type[BaseException]) -> str:
    if kind.__module__ in {"builtins", "__main__"}:
        return kind.__qualname__
    module = kind.__module__
    package = module.partition(".")[0]
    if package in {"bullpen", "bullpen_worker"}:
        module = package  # the rooms within are nobody's business
    return f"{module}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the handler called sys.exit({error.code!r})"
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its __str__ is the application's
        return f"{type(error).__qualname__}, whose message cannot be shown"


def _stack(error: BaseException) -> str:
    try:
        told = traceback.TracebackException.from_exception(error, limit=-_MAX_FRAMES, compact=True)
        _leave_out_ours(told, _MAX_CHAIN)
        return _cut_middle("".join(told.format()), MAX_STACK_BYTES)
    except Exception:  # noqa: BLE001 - a broken __cause__, __notes__ or loader must not hide the failure itself
        return f"{type(error).__qualname__}, whose traceback cannot be shown"


def _leave_out_ours(told: traceback.TracebackException, depth: int) -> None:
    told.stack = traceback.StackSummary.from_list([frame for frame in told.stack if not _is_ours(frame)])
    linked = (told.__cause__, told.__context__)
    if depth == 0:  # a chain this long says nothing new
        told.__cause__ = told.__context__ = None
        return
    for other in (*linked, *(told.exceptions or ())):
        if other is not None:
            _leave_out_ours(other, depth - 1)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_OURS[0]) or _OURS[1] in frame.filename


def _cut(text: str, most: int) -> str:
    raw = _bytes(text)
    if len(raw) <= most:
        return raw.decode()
    return raw[: most - 3].decode(errors="ignore") + "…"


def _cut_middle(text: str, most: int) -> str:
    raw = _bytes(text)
    if len(raw) <= most:
        return raw.decode()
    # The end says what was raised, the beginning how it came to that.
    head, tail = raw[: most // 3], raw[len(raw) - (most - most // 3 - 16) :]
    return f"{head.decode(errors='ignore')}\n  …\n{tail.decode(errors='ignore')}"


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # half of a surrogate pair cannot be sent
