"""Names of hosts: a slow name server holds up who named it, and nobody else."""

import asyncio
import threading

import pytest

from bullpen.redis.failures import ConnectFailed
from bullpen_operator.connections.lookups import AT_ONCE, Lookups


async def test_a_name_that_is_not_answered_holds_up_its_own_namespace_alone() -> None:
    answered = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        if host.startswith("slow"):
            answered.wait(200)
        return ["10.0.0.1"]

    lookups = Lookups(resolve)
    try:
        for number in range(AT_ONCE):
            with pytest.raises(ConnectFailed, match="no answer within"):
                await lookups.find("hostile", f"slow{number}", 6379, within=0.01)
        with pytest.raises(ConnectFailed, match="of other connections of namespace hostile"):
            await lookups.find("hostile", "fast", 6379, within=0.05)
        assert await lookups.find("other", "fast", 6379, within=60) == "10.0.0.1"
        answered.set()
        assert await lookups.find("hostile", "fast", 6379, within=60) == "10.0.0.1"
    finally:
        answered.set()
        lookups.close()


async def test_of_several_addresses_the_next_is_tried_each_time_and_an_address_is_not_looked_up() -> None:
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.1", "::1"]

    lookups = Lookups(resolve)
    try:
        assert [await lookups.find("n", "h", 1, within=60) for _ in range(3)] == ["10.0.0.1", "::1", "10.0.0.1"]
        assert await lookups.find("n", "192.0.2.1", 1, within=60) == "192.0.2.1"
        assert asked == ["h"] * 3
    finally:
        lookups.close()


async def test_a_name_that_is_not_there_is_told_of() -> None:
    lookups = Lookups()
    try:
        with pytest.raises(ConnectFailed, match=r"the host name nowhere.invalid cannot be resolved"):
            await asyncio.wait_for(lookups.find("n", "nowhere.invalid", 1, within=100), 110)
    finally:
        lookups.close()
