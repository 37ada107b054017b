"""What local mode asks of Redis beside the observation: to declare queues, and who is alive."""

import json
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from bullpen.clients.shell import Shell, run
from bullpen.queue.declaration import Owner, WriteDeclaration, declare
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, Operation, QueueOperation, Reply, flat
from bullpen_cli.local import environment
from bullpen_cli.local.plan import LocalQueue

T = TypeVar("T")

ANSWER_SECONDS: Final = 5.0


async def perform(shell: Shell, operation: Operation[T]) -> T:
    """Do one operation. Raises `BullpenError` when Redis does not answer in time, or refuses."""
    return await shell.perform(operation, timeout=ANSWER_SECONDS)


async def declare_all(shell: Shell, queues: Iterable[LocalQueue]) -> None:
    """Write each queue's settings. Raises `OwnedElsewhere` for one that a cluster or another laptop owns."""
    for queue in queues:
        owner = Owner("local", f"{environment.user_name()}@{socket.gethostname()}", queue.name)
        declaration = WriteDeclaration.of(queue.jobqueue, queue.keys, owner)
        now_ms = time.time_ns() // 1_000_000
        await run(shell, declare(declaration, now_ms), timeout=ANSWER_SECONDS, now=time.monotonic)


@dataclass(frozen=True)
class ReadWorkers(QueueOperation[dict[str, int]]):
    """Who said lately that it takes jobs of the queue, and how many jobs each ran then.

    The name is the one that the worker was given; behind an @ Redis has what tells one start from the next. A worker whose
    handlers are still being imported names none of them, and is left out.
    """

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """Give the one command."""
        return [Command(("HGETALL", self.keys.workers))]

    def read(self, replies: Sequence[Reply]) -> dict[str, int]:
        """Read the entries; what is none of ours is passed over."""
        found = {}
        for name, entry in flat(replies[0]).items():
            try:
                fields = json.loads(entry)
            except (ValueError, RecursionError):
                continue
            if (
                isinstance(fields, dict)
                and isinstance(fields.get("busy"), int)
                and (fields.get("names") or fields["busy"])
            ):
                found[name.decode(errors="replace").rpartition("@")[0]] = fields["busy"]
        return found
