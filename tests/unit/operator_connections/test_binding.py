"""The binding Secret: what is in it, when its password is another one."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bullpen.redis.settings import RedisSettings
from bullpen_operator.connections import acl, binding
from bullpen_operator.connections.binding import Account, Plan

NOW = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
USER = "bullpen.x.shop.emails"
OLD = "o" * 43


def planned(existing: dict[str, Any] | None, *, rotate: str = "", connection: str = "c", now: datetime = NOW) -> Plan:
    return binding.plan(
        existing, username=USER, connection=connection, rotate=rotate, now=now, generate=lambda: "n" * 43
    )


def existing(password: str = OLD, username: str = USER, **notes: str) -> dict[str, Any]:
    given = {binding.CONNECTION: "c", binding.SINCE: "2027-01-01T00:00:00Z", binding.ROTATE: ""} | notes
    data = {"username": username, "password": password}
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}
    return {"data": encoded, "metadata": {"annotations": given}}


HASH = acl.password_hash("older")


@pytest.mark.parametrize(
    ("secret", "rotated", "before"),
    [
        (None, True, False),
        (existing(), False, False),
        (existing(password="short"), True, False),
        (existing(password="with a blank and " + "x" * 40), True, False),
        (existing(username="somebody"), True, False),
        (existing(**{binding.CONNECTION: "another"}), True, False),
        (existing(**{binding.ROTATE: "please"}), True, True),
        (existing(**{binding.SINCE: "2026-12-01T00:00:00Z"}), True, True),
        (existing(**{binding.SINCE: "not a time"}), False, False),
        (existing(**{binding.SINCE: "2030-01-01T00:00:00Z"}), False, False),
        ({"data": {"password": "%%%"}, "metadata": {}}, True, False),
    ],
)
def test_a_password_is_kept_unless_there_is_a_reason(
    secret: dict[str, Any] | None, rotated: bool, before: bool
) -> None:
    found = planned(secret)
    assert (found.rotated, found.account.password) == (rotated, ("n" if rotated else "o") * 43)
    assert (found.before == acl.password_hash(OLD)) is before
    assert len(found.hashes) == 1 + before


def test_the_password_before_is_valid_for_the_overlap_and_no_longer() -> None:
    since = "2027-01-02T03:00:00Z"
    begun = datetime(2027, 1, 2, 3, 0, 0, tzinfo=UTC)
    secret = existing(**{binding.SINCE: since, binding.BEFORE: HASH})
    last = begun + binding.OVERLAP - timedelta(seconds=1)
    assert planned(secret, now=last).before == HASH
    assert planned(secret, now=last).again == begun + binding.OVERLAP
    assert planned(secret, now=begun + binding.OVERLAP).before is None
    assert planned(existing(**{binding.SINCE: since, binding.BEFORE: "no hash"}), now=last).before is None


def test_what_is_written_is_what_is_read_again() -> None:
    settings = RedisSettings.from_url("rediss://h:7/2", origin="x").model_copy(
        update={"username": "operator", "password": "secret"}
    )
    first = planned(None)
    made = binding.secret(
        namespace="shop",
        jobqueue="emails",
        uid="u",
        queue="emails",
        prefix="shop",
        connection="c",
        rotate="",
        settings=settings,
        planned=first,
        with_certificate=False,
    )
    assert binding.same(made, made)
    assert binding.is_ours(made, "emails")
    assert not binding.is_ours(made, "other")
    again = planned(made, now=NOW + timedelta(days=1))
    assert (again.account, again.rotated, again.since) == (first.account, False, NOW)
    assert "operator" not in str(made)
    for changed in ({"data": {}}, {"type": "Opaque"}, {"metadata": made["metadata"] | {"annotations": {}}}):
        assert not binding.same(made, made | changed)


@pytest.mark.parametrize(
    ("url", "account", "uri"),
    [
        ("redis://h:1/0", Account(None, None), "redis://h:1/0"),
        ("rediss://h:1/3", Account("a:b", "p@s/s"), "rediss://a%3Ab:p%40s%2Fs@h:1/3"),
        ("redis://[::1]:1/0", Account(None, "p"), "redis://:p@[::1]:1/0"),
    ],
)
def test_the_uri_is_what_clients_read(url: str, account: Account, uri: str) -> None:
    assert binding.uri(RedisSettings.from_url(url), account) == uri


def test_certificate_and_key_are_told_apart() -> None:
    certificate = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"
    key = "-----BEGIN RSA PRIVATE KEY-----\ndef\n-----END RSA PRIVATE KEY-----"
    assert binding.split_pem(f"{certificate}\n{certificate}\n{key}\n") == (
        f"{certificate}\n{certificate}\n",
        f"{key}\n",
    )
