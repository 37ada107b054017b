"""Calls as bytes on the wire. What is the same for every job of a queue is packed once."""

import functools
from collections.abc import Iterable

import hiredis

from bullpen.queue.lua import Script
from bullpen.queue.operations.base import Arg, Call, Command


def pack(call: Call) -> bytes:
    """Give a call as Redis takes it; a script by its hash."""
    if isinstance(call, Command):
        return _pack(call.args)
    script = call.script
    if not call.shared_keys:
        return _pack(("EVALSHA", script.sha, len(call.keys), *call.keys, *call.args, *call.more_args))
    args, more = call.args, call.more_args
    head = _head(script.sha, call.keys, len(args) + len(more))
    return b"".join((head, *map(_bulk, args), _tail(more)))


def pack_load(script: Script) -> bytes:
    """Give the command that makes a script known to Redis."""
    return _pack(("SCRIPT", "LOAD", script.source))


def _pack(words: Iterable[Arg]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(words))  # type: ignore[arg-type]  # its stub says "a tuple of one"
    return packed


@functools.lru_cache(maxsize=1024)
def _head(sha: str, keys: tuple[str, ...], args: int) -> bytes:
    words: tuple[Arg, ...] = ("EVALSHA", sha, len(keys), *keys)
    return b"*%d\r\n" % (len(words) + args) + b"".join(map(_bulk, words))


@functools.lru_cache(maxsize=1024)
def _tail(words: tuple[Arg, ...]) -> bytes:
    return b"".join(map(_bulk, words))


def _bulk(word: Arg) -> bytes:
    raw = word if isinstance(word, bytes) else str(word).encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)
