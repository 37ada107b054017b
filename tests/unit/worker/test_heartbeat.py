"""What a worker says of itself."""

import json

import pytest

from bullpen_worker.keeping.heartbeat import Entry


@pytest.mark.parametrize("name", ["shop.jobs.send_reminder_{}", "gr\u00fc\u00dfe \u2603{}"])
def test_a_worker_with_handlers_for_all_there_is_can_still_be_counted(name):
    names = [name.format(number) for number in range(2_000)]
    entry = Entry(host="mail-worker-5d4f8b7c9-x2x7p", pid=7, started_ms=1_800_000_000_000, slots=10, busy=3, processes=2,
                  state="working", names=names, version="0.1.0")  # fmt: skip
    text = entry.to_json()
    assert len(text) < 8_192 - 40
    told = json.loads(text)["names"]
    assert len(told) > 50
    assert told == names[: len(told)]
