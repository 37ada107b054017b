"""Reads the queue's policy for what runs jobs by it. Pure, but for what it logs."""

import logging
from dataclasses import replace

from bullpen.errors import ConfigurationError
from bullpen.queue.policy import BUILT_IN, QueuePolicy, Recovery
from bullpen_worker.keeping.keeper import Terms

logger = logging.getLogger("bullpen.worker")


def follow(doc: str, before: QueuePolicy) -> QueuePolicy:
    """Give the policy of this document, which is empty where the queue has none.

    One that cannot be read, as it was written by another version or by hand, leaves it at `before`. Its locks are as long as
    whoever renews them takes them to be all the same (`Terms`): a shorter one would run out before its first renewal.
    """
    if not doc:
        return BUILT_IN
    try:
        return QueuePolicy.from_json(doc)
    except ConfigurationError as error:
        logger.error("the policy stays as it was: %s", error)  # noqa: TRY400 - the message says it all
    terms = Terms.of_policy(doc)
    return replace(before, recovery=Recovery(terms.lock_ms, terms.check_ms, terms.max_crashes))
