"""What an operator is told."""

from dataclasses import fields

import pytest

from bullpen.errors import ConfigurationError
from bullpen_operator.__main__ import read_settings
from bullpen_operator.settings import Settings, described


def test_the_environment_is_read_by_type():
    found = Settings.from_environment(
        {
            "POD_NAME": "op-1",
            "POD_NAMESPACE": "system",
            "BULLPEN_OPERATOR_NAMESPACES": "shop, mail,",
            "BULLPEN_OPERATOR_LEADER_ELECTION": "false",
            "BULLPEN_OPERATOR_RESYNC_SECONDS": "60",
            "BULLPEN_OPERATOR_CONCURRENCY": "2",
        }
    )
    assert (found.identity, found.namespace, found.namespaces) == ("op-1", "system", ("shop", "mail"))
    assert (found.leader_election, found.resync_seconds, found.concurrency) == (False, 60.0, 2)
    assert not found.cluster_wide


def test_a_flag_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("BULLPEN_OPERATOR_LOG_LEVEL", "debug")
    assert read_settings([]).log_level == "debug"
    assert read_settings(["--log-level", "error"]).log_level == "error"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"BULLPEN_OPERATOR_CONCURRENCY": "many"}, "BULLPEN_OPERATOR_CONCURRENCY is 'many': it is no whole number"),
        ({"BULLPEN_OPERATOR_LEADER_ELECTION": "perhaps"}, "neither true nor false"),
        ({"BULLPEN_OPERATOR_LOG_LEVEL": "loud"}, "log_level is 'loud'"),
        ({"BULLPEN_OPERATOR_RENEW_SECONDS": "30"}, "less than lease_seconds"),
        ({"BULLPEN_OPERATOR_CONCURRENCY": "0"}, "above zero"),
    ],
)
def test_what_is_wrong_is_said(environ, says):
    with pytest.raises(ConfigurationError, match=says):
        Settings.from_environment(environ)


def test_two_classes_have_two_leases():
    assert Settings(class_name="blue").lease == "bullpen-operator-blue"


def test_the_help_describes_each_flag(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert set(described()) == {each.name for each in fields(Settings)}
    assert (
        "Between two renewals of the lease; who waits for it looks twice as often. [BULLPEN_OPERATOR_RETRY_SECONDS; now: 2.0]"
        in text
    )
