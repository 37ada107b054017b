"""Ends children that are at fault: one with a job far past its timeout, and one that has free slots and stays deaf.

Looked at a few times a second by the supervisor, which starts another in the place of whoever is ended. What the child ran goes
back: an overdue job as what it is, all else unspent.
"""

import logging
import time
from typing import Final

from bullpen_worker.supervision import vitality
from bullpen_worker.supervision.children import Child, End

DEAF_FOR_S: Final = 5.0
"""How long a child must stay deaf: one whose slots were all busy for long has just not said yet that it fetches."""

logger = logging.getLogger("bullpen.supervisor")


def judge(child: Child, now_ms: int, kill_grace_ms: int, *, redis_up_ms: int | None, holds: bool) -> None:
    """End the child if it is at fault. `redis_up_ms` is for how long Redis has been there, `holds` that no job is wanted at all."""
    _judge_timeouts(child, now_ms, kill_grace_ms)
    _judge_hearing(child, now_ms, kill_grace_ms, redis_up_ms=redis_up_ms, holds=holds)


def _judge_timeouts(child: Child, now_ms: int, kill_grace_ms: int) -> None:
    guilty = child.past_due(now_ms - kill_grace_ms)
    if guilty and child.killed is None:
        logger.error(
            "child %s is ended: a job is %s ms past its timeout and does not stop",
            child.serial,
            now_ms - guilty[0].deadline_ms,
            extra={"job": guilty[0].job_id.decode(errors="replace")},
        )
        child.guilty = guilty
        child.kill(End.OVERDUE)


def _judge_hearing(child: Child, now_ms: int, kill_grace_ms: int, *, redis_up_ms: int | None, holds: bool) -> None:
    vitals = child.vitals(now_ms, kill_grace_ms)
    if not vitality.is_deaf(vitals, redis_up_ms=redis_up_ms, holds=holds):
        child.deaf_since = None
    elif child.deaf_since is None:
        child.deaf_since = time.monotonic()
    elif time.monotonic() - child.deaf_since > DEAF_FOR_S and child.killed is None:
        seconds = vitals.fetch_ms // 1000
        logger.error("child %s is ended: it has free slots and has not fetched for %s s", child.serial, seconds)
        child.kill(End.DEAF)
