"""What workers write of themselves in Redis, as local mode reads it."""

from bullpen.queue.keys import QueueKeys
from bullpen_cli.local.backend import ReadWorkers


def test_entries_that_are_none_are_passed_over():
    ours = b'{"names": ["greet"], "busy": 2}'
    starting = b'{"names": [], "busy": 0}'
    entries = [b"a@1", ours, b"b@2", starting, b"c@3", b"[" * 100_000, b"d@4", b"no JSON", b"e@5", b'{"busy": "2"}']
    assert ReadWorkers(QueueKeys("bull", "emails")).read([entries]) == {"a": 2}
