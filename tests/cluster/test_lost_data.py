"""A Redis that has lost what stood in it while it ran: an emptied one, or a replica that had nothing yet."""

from redis import Redis

from bullpen import embedded
from bullpen.queue.keys import QueueKeys
from tests.support import operators
from tests.support.operators import conditions, jobqueue, redis_connection, running
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "emails")


async def test_a_queue_whose_settings_were_lost_is_declared_again(api_server, api, namespace):
    api.install(operators.CRDS.read_text())
    with embedded.start(unix=False) as server, Redis.from_url(server.url) as redis:
        api.apply(redis_connection(namespace, server.url))
        async with running(api_server.admin, namespace) as operator:
            api.apply(jobqueue(namespace))
            await eventually(lambda: conditions(api, namespace).get("Ready") == ("True", "AsDeclared"), 15)
            await eventually(lambda: sum(one.watched for one in operator._scaler.observers) == 1, 10)
            declared = redis.hgetall(KEYS.policy)
            redis.flushall()
            for observer in operator._scaler.observers:
                observer.nudge(next(iter(observer._posts)))  # at the latest after half a minute
            await eventually(lambda: redis.hgetall(KEYS.policy) == declared, 15)
            assert redis.exists(KEYS.owner)
