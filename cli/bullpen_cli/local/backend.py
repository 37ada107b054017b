"""What local mode asks of Redis beside the observation: to declare queues, and who is alive."""

import json
from typing import TypeVar

from bullpen.errors import BullpenError
from bullpen.keys import QueueKeys
from bullpen.operations.base import Eval, Operation
from bullpen.redis.failures import ReplyError
from bullpen.redis.link import Link

T = TypeVar("T")

ANSWER_SECONDS = 5.0


class LocalRedisError(BullpenError):
    """Redis did not do what local mode asked of it."""


async def run(link: Link, operation: Operation[T]) -> T:
    """Run an operation on a link. Raises `BullpenError` when Redis does not answer in time, or refuses."""
    replies: list[object] = []
    try:
        for call in operation.commands():
            if isinstance(call, Eval):
                replies.append(await link.eval(call.script, call.keys, call.args, timeout=ANSWER_SECONDS))
            else:
                replies.append(await link.call(*call.args, timeout=ANSWER_SECONDS))
    except ReplyError as error:
        raise LocalRedisError(str(error)) from error
    return operation.read(replies)


async def heartbeats(link: Link, keys: QueueKeys) -> dict[str, int]:
    """Give the names of the workers that have said that they live, and how many jobs each ran then.

    The name is the one that the worker was given; behind an @ Redis has what tells one start from the next.
    """
    reply = await link.call("HGETALL", keys.workers, timeout=ANSWER_SECONDS)
    pairs = iter(reply if isinstance(reply, list) else [])
    found = {}
    for name, entry in zip(pairs, pairs, strict=False):
        if not isinstance(name, bytes) or not isinstance(entry, bytes):
            continue
        try:
            fields = json.loads(entry)
        except ValueError:
            continue
        if isinstance(fields, dict) and isinstance(fields.get("busy"), int):
            found[name.decode(errors="replace").rpartition("@")[0]] = fields["busy"]
    return found
