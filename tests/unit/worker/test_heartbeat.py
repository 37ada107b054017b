"""What a worker says of itself."""

import json

import pytest

from bullpen_worker.keeping.heartbeat import Entry, Told


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


def test_the_reason_of_an_order_to_cancel_is_as_long_as_is_passed_on():
    """A child reads no message of more than 16 MiB; an order is anybody's text."""
    flat = [b"7", json.dumps({"reason": "x" * 20_000_000}).encode(), b"8", b'{"reason":7}']
    told = Told.read((1, b"", b"", b"", flat, 0), "")
    assert [(each.job_id, len(each.reason)) for each in told.cancelled] == [(b"7", 2_048), (b"8", 0)]
