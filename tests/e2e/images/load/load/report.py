"""Print as JSON what became of jobs: python -m load.report COUNT. Read from BullMQ's own fields."""

import json
import sys

import redis

from bullpen import RedisSettings
from bullpen.redis import binding
from load.jobs import QUEUE

FIELDS = ("atm", "ats", "stc", "finishedOn", "failedReason", "returnvalue")


def report(count: int) -> list[dict[str, object]]:
    """Read the fields of each job, and what its runs wrote into its log."""
    settings = binding.for_queue(RedisSettings.from_environment(), QUEUE)
    password = settings.password.get_secret_value() if settings.password else None
    server = redis.Redis(settings.host, settings.port, settings.db, password, username=settings.username)
    with server.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.hmget(f"{settings.prefix}:{QUEUE}:job-{number}", *FIELDS)
            pipe.lrange(f"{settings.prefix}:{QUEUE}:job-{number}:logs", 0, -1)
        replies = pipe.execute()
    return [
        {name: None if value is None else value.decode() for name, value in zip(FIELDS, row, strict=True)}
        | {"log": [line.decode() for line in log]}
        for row, log in zip(replies[::2], replies[1::2], strict=True)
    ]


if __name__ == "__main__":
    json.dump(report(int(sys.argv[1])), sys.stdout)
