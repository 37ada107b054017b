"""A private Redis for laptops and tests: found or fetched, started, and gone with the process that started it.

    with embedded.start(Path(".bullpen")) as server:
        print(server.url, server.binary)

Not for production: one server, no replica, no password; it listens on a unix socket or on the loopback alone.
"""

from bullpen.embedded.binary import Binary, Say, find, inspect
from bullpen.embedded.server import EmbeddedRedisError, Server, start

__all__ = ["Binary", "EmbeddedRedisError", "Say", "Server", "find", "inspect", "start"]
