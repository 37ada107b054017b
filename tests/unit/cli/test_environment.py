"""A local worker's environment: YAML, with an env file in place of Secrets."""

import os

import pytest

from bullpen.errors import ConfigurationError
from bullpen_cli.local import environment

SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "token"}}}


def resolve(env=(), env_from=(), **secrets):
    return environment.resolve(env, env_from, secrets=secrets, where="JobQueue 'emails'")


def test_plain_values_are_taken_as_they_stand():
    assert resolve([{"name": "A", "value": "1"}, {"name": "B"}]) == {"A": "1", "B": ""}


def test_a_secret_comes_from_the_file_under_the_variables_name():
    assert resolve([SECRET], TOKEN="t", OTHER="o") == {"TOKEN": "t"}


def test_env_from_brings_in_the_whole_file():
    assert resolve([], [{"secretRef": {"name": "shop"}}], TOKEN="t", OTHER="o") == {"TOKEN": "t", "OTHER": "o"}


def test_a_missing_secret_is_named_with_what_to_do():
    with pytest.raises(ConfigurationError, match=r"JobQueue 'emails': TOKEN comes from the Secret 'shop'.*--env-file"):
        resolve([SECRET])


def test_a_missing_config_map_is_called_one():
    with pytest.raises(ConfigurationError, match="the ConfigMap 'c'"):
        resolve([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "a"}}}])


def test_an_optional_one_may_be_missing_and_what_only_a_pod_has_is_left_out():
    optional = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a", "optional": True}}}
    pod = {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert resolve([optional, pod]) == {}


def test_the_file_is_read_as_compose_does(tmp_path):
    file = tmp_path / ".env"
    file.write_text("# comment\nexport A=1\nB='two words'\nC=\"$A\"\n\n")
    assert environment.read_env_file(file) == {"A": "1", "B": "two words", "C": "$A"}


def test_what_is_wrong_with_the_file_is_said_without_a_value(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no such file"):
        environment.read_env_file(tmp_path / "none")
    file = tmp_path / ".env"
    file.write_text("PASSWORD=hunter2\nBROKEN\n")
    with pytest.raises(ConfigurationError, match="BROKEN without a value") as error:
        environment.read_env_file(file)
    assert "hunter2" not in str(error.value)


def test_who_has_no_name_has_an_id(monkeypatch):
    """As in a container that runs with an id of its own."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567_891)
    assert environment.user_name() == "uid-1234567891"
