"""Jobs that BullMQ's scripts cannot live with, because somebody wrote to Redis by hand, made such that they can.

The scripts count starts, attempts and stalls in the job's hash, and read there who its parent is. Where one of these is not
what it should be, the script ends in an error half way: when it fetches the job, when it has taken it out of ``active``
but put it nowhere, or when it takes stalled jobs back, with all the others behind it. So these fields are removed before
that can happen.
"""

import json
import logging
import re
from typing import Final

from bullpen.redis.failures import ReplyError
from bullpen.redis.wire import Connection, pack_command
from bullpen_worker.running import templates
from bullpen_worker.running.templates import Templates

FIELDS: Final = (b"ats", b"atm", b"stc", b"parent")
"""What is looked at."""

_COUNTED: Final = FIELDS[:3]
_WHOLE: Final = re.compile(rb"-?(0|[1-9][0-9]{0,15})")

logger = logging.getLogger("bullpen.worker")


def unfit(fields: dict[bytes, bytes]) -> list[bytes]:
    """Give the fields of a job's hash that the scripts would fail at."""
    found: list[bytes] = [name for name in _COUNTED if name in fields and not _WHOLE.fullmatch(fields[name])]
    if b"parent" in fields and not _names_a_parent(fields[b"parent"]):
        found.append(b"parent")
    return found


def _names_a_parent(raw: bytes) -> bool:
    try:
        parent = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(parent, dict) and all(isinstance(parent.get(name), str) for name in ("id", "queueKey"))


async def remove(connection: Connection, pack: Templates, job_id: bytes, names: list[bytes]) -> None:
    """Remove fields from a job's hash, and say so. Raises `ConnectionLost` or `ReplyError`."""
    await connection.call(pack_command("HDEL", pack.job_key(job_id), *names))
    shown = b", ".join(names).decode()
    logger.error("job %s: removed what cannot be read from its hash: %s", job_id.decode(errors="replace"), shown)


async def mend(connection: Connection, pack: Templates, job_id: bytes) -> bool:
    """Make an active job fit for the scripts; False when its key holds no hash: it has left the queue then.

    The key itself stays: it may be somebody's. Raises `ConnectionLost` or `ReplyError`.
    """
    try:
        found = await connection.call(pack_command("HMGET", pack.job_key(job_id), *FIELDS))
    except ReplyError as error:
        if error.code != "WRONGTYPE":
            raise
        drop = pack_command("LREM", pack.active_key, 0, job_id), pack_command("DEL", pack.lock_key(job_id))
        packed, replies = templates.transaction(*drop)
        await connection.call_many(packed, replies)
        shown = job_id.decode(errors="replace")
        logger.error(  # noqa: TRY400 - the message says it all
            "took %s out of the queue: its key in Redis holds no hash, so it is no job", shown
        )
        return False
    values = found if isinstance(found, list) else []
    fields = {name: value for name, value in zip(FIELDS, values, strict=False) if isinstance(value, bytes)}
    if broken := unfit(fields):
        await remove(connection, pack, job_id, broken)
    return True
