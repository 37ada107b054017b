"""What lies in Redis of one queue, to be compared with what lies there of another."""

from typing import Any, Final

from bullpen.queue.keys import QueueKeys
from bullpen.redis.failures import ReplyError
from bullpen.redis.link import Link

MINUTE: Final = 60_000


async def dump(link: Link, keys: QueueKeys) -> dict[str, object]:
    """Give all keys of the queue and its neighbours, with what is in them; the events without their times."""
    call: Any = link.call
    found: dict[str, object] = {}
    stem = f"{keys.prefix}:{keys.queue}"
    for key in sorted(await call("KEYS", f"{stem}*")):
        kind = await call("TYPE", key)
        name = key.decode().removeprefix(stem)
        if kind == b"hash":
            flat = await call("HGETALL", key)
            found[name] = dict(zip(flat[::2], flat[1::2], strict=True))
        elif kind == b"stream":
            found[name] = [fields for _, fields in await call("XRANGE", key, "-", "+")]
        else:
            read = {
                b"list": ("LRANGE", key, 0, -1), b"zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
                b"set": ("SMEMBERS", key), b"string": ("GET", key),
            }[kind]  # fmt: skip
            found[name] = await call(*read)
    return found


def neutral(value: object, queue: str) -> object:
    """Give it without the queue's own name."""
    if isinstance(value, bytes):
        return value.replace(queue.encode(), b"QUEUE")
    if isinstance(value, list):
        return [neutral(each, queue) for each in value]
    if isinstance(value, dict):
        return {neutral(key, queue): neutral(each, queue) for key, each in value.items()}
    if isinstance(value, int) and MINUTE - 45_000 < value < MINUTE:
        return MINUTE  # of a limit's time, some has passed
    return ReplyError if isinstance(value, ReplyError) else value
