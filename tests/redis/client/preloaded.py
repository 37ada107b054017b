"""A web application whose client is made, and used, before the server forks its workers."""

import json
import os

from bullpen import SyncClient

client = SyncClient()
queue = client.queue("emails")
queue.enqueue("in the master")


def application(environ, start_response):
    """Enqueue two jobs; say which, and in which process."""
    ids = [queue.enqueue("welcome", {"path": environ["PATH_INFO"]}).id for _ in range(2)]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "ids": ids}).encode()]
