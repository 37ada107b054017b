"""When a schedule runs next: cron expressions and intervals, read as Node's BullMQ reads them.

A scheduler in Redis may be advanced by a Node worker today and by ours tomorrow, so both must compute the same next
run. BullMQ uses the npm package cron-parser; how that walks over changes of daylight saving time is part of the
answer, and no Python library gives the same (docs/decisions/0002-cron-of-our-own.md). A time zone is always named.
"""

from bullpen.cron.expression import CronInvalid, Expression, parse, validate
from bullpen.cron.schedule import next_after, next_interval_ms, time_zone_of

__all__ = [
    "CronInvalid",
    "Expression",
    "next_after",
    "next_interval_ms",
    "parse",
    "time_zone_of",
    "validate",
]
