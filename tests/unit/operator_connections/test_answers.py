"""What servers say that are none, or mean ill."""

import pytest

from bullpen.redis.wire import Reply
from bullpen_operator.connections import acl, answers


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"redis_version": "7.0.15"}, (7, 0, 15)),
        ({"redis_version": "6.2.14"}, (6, 2, 14)),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, (7, 2)),
        ({"redis_version": "9" * 5000}, ()),
        ({"redis_version": "7.\u0663"}, ()),
        ({"redis_version": "255.255.255-dev"}, ()),
        ({}, ()),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_version(info: dict[str, str], version: tuple[int, ...]) -> None:
    assert answers.version_of(info) == version


@pytest.mark.parametrize(
    "log",
    [
        None,
        b"x",
        5,
        [b"x", 5, None],
        [[[b"a"], b"b"]],
        [[b"reason", b"auth", b"username", [b"x"]]],
        [[b"reason"]],
        [[b"username", b"x", [], []]] * 1000,
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_log_that_is_none_names_nobody(log: Reply) -> None:
    assert answers.refused_logins(log) == frozenset()


def test_who_was_refused() -> None:
    entry: Reply = [b"count", 1, b"reason", b"auth", b"username", b"me", b"entry-id", 7, b"client-info", b"addr=x"]
    found = answers.refused_logins([entry, [b"reason", b"key", b"username", b"other"]])
    assert {user for user, _ in found} == {"me"}


@pytest.mark.parametrize("users", [None, b"x", 5, [5, None, [b"x"]], [b"default", b"somebody"]])
def test_names_that_are_none_of_ours(users: Reply) -> None:
    assert answers.names(users, acl.user_prefix("c1")) == set()


def test_of_a_million_of_anything_no_more_is_read_than_an_honest_server_has() -> None:
    ours = acl.user_name("c1", "shop", "emails")
    many: list[Reply] = [ours.encode() + b"%d" % number for number in range(1_000_000)]
    found = answers.names(many, acl.user_prefix("c1"))
    assert len(found) == 50_000
    assert all(acl.owner_of(name, "c1") for name in found)
    assert len(answers.fields_of(b"a:\n" * 1_400_000)) == 1
    assert len(answers.fields_of(b"".join(b"%d:\n" % number for number in range(600_000)))) < 20_000
