# pyright: strict
"""Calls of clients that checkers must refuse: each line that ends in an E, and no other."""
# fmt: off

from bullpen import Client, SyncClient
from tests.typing.accepted.jobs import digest, thumbnail, welcome
from tests.typing.accepted.payloads import Welcome


async def main(client: Client) -> None:
    await client.enqueue(welcome.job(user_id=7))  # E: call-arg | reportCallIssue, reportUnknownArgumentType
    await client.enqueue(thumbnail.job("a"), dealy="5m")  # E: call-arg | reportCallIssue
    await client.enqueue(thumbnail.job("a"), delay=5)  # E: arg-type | reportArgumentType
    await client.enqueue(thumbnail.job("a"), timeout=30.0)  # E: arg-type | reportArgumentType
    await client.enqueue("thumbnail")  # E: arg-type | reportArgumentType
    await client.enqueue(thumbnail)  # E: arg-type | reportArgumentType
    await client.queue("images").enqueue("thumbnail", {"path": object()})  # E: dict-item | reportArgumentType
    handle = await client.enqueue(thumbnail.job("a"))
    number: int = await handle.result(timeout="1s")  # E: assignment | reportAssignmentType
    await handle.result()  # E: call-arg | reportCallIssue
    await handle.result(timeout=1)  # E: arg-type | reportArgumentType
    client.handle(digest, 7)  # E: arg-type | reportArgumentType
    Client(timeout=5)  # E: arg-type | reportArgumentType
    print(number)


def view(client: SyncClient) -> str:
    client.enqueue(welcome.job(Welcome(user_id=7))).result()  # E: call-arg | reportCallIssue
    return client.enqueue(digest.job(7)).result(timeout="1s")  # E: return-value | reportReturnType
