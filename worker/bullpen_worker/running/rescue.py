"""What becomes of a job whose end Redis refuses to write, for a reason that will not pass.

Somebody wrote to the queue's keys by hand, say: a key of another type stands where BullMQ's script wants to put the job. A
script that ends in an error has done half of its work, so the job may be in no list at all; `hold` makes it active again. Where
the refusal stays, the job fails with a message of its own: by BullMQ's script if that is accepted, else by `set_aside`. Its
handler is never called again for that reason, whose result would be refused as well.
"""

import logging
from typing import Final

from bullpen.handling.failures import Failure
from bullpen.queue import lua, records
from bullpen.redis.failures import ReplyError
from bullpen.redis.wire import Connection, pack_command
from bullpen_worker.running.templates import Templates

ERROR_TYPE: Final = "bullpen.EndRefused"

LOCK_MS: Final = 30_000
"""For how long a job is locked anew: what renews locks may have given it up for lost by then."""

_PLACES: Final = (b"wait", b"paused", b"prioritized", b"delayed", b"completed", b"failed")

logger = logging.getLogger("bullpen.worker")


def failure(outcome: str, error: ReplyError) -> Failure:
    """Say why the job fails: what became of its attempt, and what Redis has against writing that."""
    return Failure(ERROR_TYPE, f"its attempt ended as {outcome}, and Redis refuses to write that: {error}", "")


async def hold(
    connection: Connection, pack: Templates, job_id: bytes, token: bytes, *, lock_ms: int, attempts_made: int
) -> str:
    """Have the job be active and locked with `token`, if it is nowhere else; gives what was found (`rescue-9.lua`).

    Raises `ConnectionLost` or `ReplyError`.
    """
    keys = [pack.job_key(job_id), pack.lock_key(job_id), pack.active_key, *map(pack.job_key, _PLACES)]
    found = await _run(connection, "rescue-9", keys, job_id, token, lock_ms, attempts_made)
    what = found.decode() if isinstance(found, bytes) else ""
    if what == "restored":
        logger.warning("job %s was in no list any more, and is active again", job_id.decode(errors="replace"))
    return what


async def set_aside(
    connection: Connection, pack: Templates, job_id: bytes, token: bytes, why: Failure, *, now_ms: int
) -> bool:
    """Fail the job without BullMQ's script; says whether it has failed. Raises `ConnectionLost` or `ReplyError`.

    Where not even that can be written, the job remembers that it is to fail, and no handler is called for it again.
    """
    keys = [
        pack.job_key(job_id), pack.lock_key(job_id), pack.active_key, pack.job_key(b"failed"), pack.job_key(b"events"),
        pack.marker_key,
    ]  # fmt: skip
    reason, error = why.reason, records.error_field(why.error_type)
    return await _run(connection, "set-aside-6", keys, job_id, token, now_ms, reason, "bullpen:error", error) == 1


async def _run(connection: Connection, name: str, keys: list[bytes], *words: bytes | str | int) -> object:
    """Run a script of ours by its source: this is seldom, and nobody need have loaded it."""
    return await connection.call(pack_command("EVAL", lua.ours(name).source, len(keys), *keys, *words))
