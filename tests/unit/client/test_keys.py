"""The names of a queue's keys."""

import pytest

from bullpen.errors import ConfigurationError
from bullpen.queue.keys import OURS, QueueKeys


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("wait", "bull:emails:wait"),
        ("waiting_children", "bull:emails:waiting-children"),
        ("priority_counter", "bull:emails:pc"),
        ("stalled_check", "bull:emails:stalled-check"),
        ("metrics_failed", "bull:emails:metrics:failed"),
        ("policy", "bull:emails:bullpen:policy"),
        ("nudge", "bull:emails:bullpen:nudge"),
    ],
)
def test_keys_are_bullmqs_and_ours_beside_them(name, key):
    assert getattr(QueueKeys("bull", "emails"), name) == key


def test_keys_of_a_job():
    keys = QueueKeys("{shop}", "emails")
    assert keys.job("7") == "{shop}:emails:7"
    assert keys.lock("7") == "{shop}:emails:7:lock"
    assert keys.logs("7") == "{shop}:emails:7:logs"
    assert keys.deduplication("d") == "{shop}:emails:de:d"


def test_ours_are_no_names_that_bullmqs_tools_read():
    assert not {"meta", "lock", "logs", "dependencies", "processed", "failed", "unsuccessful"} & set(OURS)


@pytest.mark.parametrize(("prefix", "queue"), [("bull", ""), ("bull", "a:b"), ("", "emails")])
def test_names_that_bullmq_refuses(prefix, queue):
    with pytest.raises(ConfigurationError):
        QueueKeys(prefix, queue)


def test_client_names_are_nodes():
    assert QueueKeys("bull", "emails").client_name(":w:pod-1") == "bull:ZW1haWxz:w:pod-1"


def test_keys_are_values():
    assert QueueKeys("a", "b") == QueueKeys("a", "b")
    assert len({QueueKeys("a", "b"), QueueKeys("a", "b"), QueueKeys("a", "c")}) == 2
