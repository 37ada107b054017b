"""The Lua that runs inside Redis: BullMQ's own scripts, and ours for what BullMQ has not.

BullMQ's come from the installed `bullmq` package, whose Python is never imported
(docs/decisions/0001-lua-from-the-bullmq-package.md). Some of ours are composed of theirs: a guard in front of an add,
a cancellation that ends in BullMQ's own "move to finished". The source of a script is read once in a process.
"""

import functools
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bullpen.errors import ConfigurationError

AddKind = Literal["addStandardJob-9", "addDelayedJob-6", "addPrioritizedJob-9"]
ADD_KINDS: tuple[AddKind, ...] = ("addStandardJob-9", "addDelayedJob-6", "addPrioritizedJob-9")

# Where BullMQ's scripts go from their definitions to what they do with them, and an add from its arguments to its definitions.
_FINISHING: Final = re.compile(r"(?=^local jobIdKey = KEYS\[12\]$)", re.MULTILINE)
_ADDS_DEFINITIONS: Final = re.compile(r"(?<=^local parentData\n)", re.MULTILINE)
_ADDING: Final = re.compile(r"(?=^if parentKey ~= nil then$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. `sha` is what ``EVALSHA`` takes; `key_count` says how many of the arguments are keys.

    `key_count` is -1 where the caller decides.
    """

    name: str
    source: str
    sha: str
    key_count: int


def script(name: str, source: str, key_count: int) -> Script:
    """Make a script of its source."""
    return Script(name, source, hashlib.sha1(source.encode()).hexdigest(), key_count)  # noqa: S324 - EVALSHA's own hash


@functools.cache
def bullmq(name: str) -> Script:
    """Give a script of BullMQ by the name of its file, such as ``"moveToActive-11"``; the number counts its keys.

    Raises `ConfigurationError` when the `bullmq` package is not installed or has no such script.
    """
    return script(name, _bullmq_source(name), _key_count(name))


@functools.cache
def ours(name: str) -> Script:
    """Give a script of ours by the name of its file in ``bullpen/queue/scripts``, such as ``"declare-4"``."""
    return script(name, _our_source(name), _key_count(name))


@functools.cache
def guarded_add(kind: AddKind, *, limited: bool) -> Script:
    """Give BullMQ's script that adds one job, with our guard in front.

    KEYS: BullMQ's, then `policy`; for a `limited` queue `wait`, `paused`, `prioritized` too. ARGV: BullMQ's three, then what
    the guard (and the limit) ask for. Returns BullMQ's reply, or one of the guard's codes
    (`bullpen.queue.operations.adding.Refusal`), and then nothing was written.
    """
    key_count = _key_count(kind)
    return script(
        f"{'limited' if limited else 'guarded'}-{kind}",
        _guard(key_count, 3, limited=limited) + _bullmq_source(kind),
        key_count + (4 if limited else 1),
    )


@functools.cache
def guarded_bulk(*, limited: bool) -> Script:
    """Give the script that adds many jobs or none: the guard once, then BullMQ's scripts as functions.

    KEYS and ARGV: see `bullpen/queue/scripts/bulk.lua`. The functions' parameters stand in for the globals of the same names, so
    the sources are BullMQ's to the letter. They are cut where their definitions begin and end: these are made once a call.
    """
    functions = f"{_our_source('remember')}local bullmq = {{}}\n" + "".join(_add_function(kind) for kind in ADD_KINDS)
    guard_args = 5 if limited else 1
    source = f"{_guard(11, 0, limited=limited)}{functions}\nlocal firstJob = {guard_args + 1}\n{_our_source('bulk')}"
    return script("limited-bulk" if limited else "guarded-bulk", source, 15 if limited else 12)


def _add_function(kind: AddKind) -> str:
    head, definitions, body = _cut(kind, _ADDS_DEFINITIONS, _ADDING)
    defined = f"local rcall = redis.call\n{definitions}\n{_our_source('add-once')}"
    return f"do\n{defined}\nbullmq['{kind}'] = function(KEYS, ARGV)\n{head}{body}\nend\nend\n"


def _cut(name: str, *places: re.Pattern[str]) -> list[str]:
    """Cut a script of BullMQ at each of these places, which are there once."""
    parts = [_bullmq_source(name)]
    for place in places:
        parts[-1:] = place.split(parts[-1])
    if len(parts) != len(places) + 1:
        msg = f"BullMQ's script {name!r} is not built as Bullpen knows it: the installed package 'bullmq' is another version"
        raise ConfigurationError(msg)
    return parts


def _guard(keys: int, args: int, *, limited: bool) -> str:
    head = f"local guardKeys, guardArgs = {keys}, {args}\n{_our_source('guard')}\n"
    return head + (_our_source("limit") + "\n" if limited else "")


def _key_count(name: str) -> int:
    return int(name.rpartition("-")[2])


@functools.cache
def cancel() -> Script:
    """Give the script that ends a job which does not run yet as cancelled, by BullMQ's own "move to finished".

    KEYS and ARGV are those of ``moveToFinished-14``. Returns what became of the job, see `bullpen/queue/scripts/cancel.lua`.
    """
    finish = f"local function moveToFinished(KEYS, ARGV)\n{_bullmq_source('moveToFinished-14')}\nend"
    return script("cancel", finish + "\n" + _our_source("cancel"), 15)


@functools.cache
def retry() -> Script:
    """Give the script that lets an ended job wait anew: BullMQ's "reprocess", with our counts forgotten too."""
    reprocess = f"local function reprocessJob(KEYS, ARGV)\n{_bullmq_source('reprocessJob-9')}\nend"
    return script("retry", reprocess + "\n" + _our_source("retry"), 9)


@functools.cache
def complete_many() -> Script:
    """Give the script that completes many jobs and fetches as many, each by BullMQ's own "move to finished".

    KEYS and ARGV: see `bullpen/queue/scripts/complete-many.lua`. BullMQ's source is cut where its definitions end: they are made
    once a call, and ours can stand in for some of them. Raises `ConfigurationError` where there is no such place.
    """
    definitions, body = _cut("moveToFinished-14", _FINISHING)
    finish = f"local function moveToFinished(KEYS, ARGV, cmsgpack)\n{body}\nend"
    return script("complete-many", f"{definitions}{finish}\n{_our_source('complete-many')}", 13)


def _bullmq_source(name: str) -> str:
    spec = importlib.util.find_spec("bullmq")  # finds the folder; running the package would cost 200 ms of imports
    if spec is None or spec.origin is None:
        msg = "the package 'bullmq', whose Lua scripts Bullpen runs, is not installed: pip install bullpen"
        raise ConfigurationError(msg)
    path = Path(spec.origin).with_name("commands") / f"{name}.lua"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"the installed package 'bullmq' has no script {name!r} ({path}): it is not the version that Bullpen asks for"
        raise ConfigurationError(msg) from error


def _our_source(name: str) -> str:
    return (Path(__file__).with_name("scripts") / f"{name}.lua").read_text(encoding="utf-8")
