"""Run as a program: a blocking client in a process whose sockets gevent has patched. Prints what its greenlets found, as JSON."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 - patched before anything else is imported, as gevent asks for
import os  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from gevent import pool  # noqa: E402

from bullpen import SyncClient  # noqa: E402

url = sys.argv[1]
with SyncClient(url) as client:
    queue = client.queue("emails")
    ids = pool.Pool(20).map(lambda number: queue.enqueue("welcome", {"number": number}).id, range(100))
    # A wait for a result holds its greenlet, and no other.
    order: list[str] = []

    def wait() -> None:
        """Wait for a job that no worker takes."""
        try:
            queue.enqueue("alone").result(timeout="2s")
        except TimeoutError:
            order.append("waited")

    waiting = gevent.spawn(wait)
    gevent.spawn(lambda: order.append("counted" if queue.counts()["waiting"] >= 100 else "?")).join()
    waiting.join()
    read, write = os.pipe()
    if (child := gevent.os.fork()) == 0:
        os.write(write, queue.enqueue("child").id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    print(json.dumps({"ids": len(set(ids)), "order": order, "child": len(os.read(read, 100)) > 0}))
