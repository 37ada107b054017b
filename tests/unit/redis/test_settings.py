"""Redis settings as tables: what a URL, a file and the environment give, and what is refused with which words."""

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.errors import ConfigurationError
from bullpen.redis.settings import RedisSettings

SECRET = "s3cr3t-pa55"


def fields(settings: RedisSettings) -> dict:
    found = settings.model_dump(exclude_defaults=True, exclude={"origin"})
    if settings.password is not None:
        found["password"] = settings.password.get_secret_value()
    return found


@pytest.mark.parametrize(
    ("url", "expected", "where"),
    [
        ("redis://cache", {"host": "cache"}, "cache:6379/0"),
        ("redis://cache:7000/3", {"host": "cache", "port": 7000, "db": 3}, "cache:7000/3"),
        ("redis://:p%40ss%2F@cache", {"host": "cache", "password": "p@ss/"}, "cache:6379/0"),
        ("redis://ada:pw@cache", {"host": "cache", "username": "ada", "password": "pw"}, "cache:6379/0"),
        ("redis://ada@cache", {"host": "cache", "username": "ada"}, "cache:6379/0"),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}, "[::1]:7000/0"),
        ("rediss://cache", {"host": "cache", "tls": {}}, "cache:6379/0 (TLS)"),
        (
            "rediss://cache?ca=/etc/ca.pem&cert=/etc/c.pem&key=/etc/k.pem&server_name=redis.local",
            {
                "host": "cache",
                "tls": {
                    "ca": Path("/etc/ca.pem"),
                    "certificate": Path("/etc/c.pem"),
                    "key": Path("/etc/k.pem"),
                    "server_name": "redis.local",
                },
            },
            "cache:6379/0 (TLS)",
        ),
        ("rediss://cache?ssl_ca_certs=/etc/ca.pem", {"host": "cache", "tls": {"ca": Path("/etc/ca.pem")}}, None),
        (
            "redis://cache?timeout=250ms&client_name=shop",
            {"host": "cache", "timeout": timedelta(milliseconds=250), "client_name": "shop"},
            None,
        ),
        ("redis://cache?db=4", {"host": "cache", "db": 4}, "cache:6379/4"),
        ("unix:///run/redis.sock", {"path": Path("/run/redis.sock")}, "/run/redis.sock (db 0)"),
        (
            "unix://ada:pw@/run/a%20b.sock?db=2",
            {"path": Path("/run/a b.sock"), "username": "ada", "password": "pw", "db": 2},
            "/run/a b.sock (db 2)",
        ),
    ],
)
def test_a_url_says(url, expected, where):
    settings = RedisSettings.from_url(url)
    assert fields(settings) == {key: value for key, value in expected.items() if value != getattr(RedisSettings(), key)}
    if where is not None:
        assert settings.where == where


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (SECRET, "begins with redis://"),
        (f"http://:{SECRET}@cache", "begins with redis://"),
        (f"redis+sentinel://:{SECRET}@cache/shop", "Redis Sentinel is not supported yet"),
        (f"redis+cluster://:{SECRET}@cache", "Redis Cluster is not supported yet"),
        (f"redis://:{SECRET}/@cache", "the port is a number from 1 to 65535"),
        (f"redis://:{SECRET}#x@cache", "%23"),
        (f"redis://:{SECRET}?x@cache", "%3F"),
        (f"redis://cache:6379/{SECRET}", "the database after the host"),
        (f"redis://cache:99999/?x={SECRET}", "the port is a number from 1 to 65535"),
        ("redis://cache:0", "the port must be a number"),
        ("redis://", "no host"),
        (f"redis://:{SECRET}@", "no host"),
        (f"redis://cache?passwd={SECRET}", "known are db, timeout"),
        ("redis://cache?timeout=5", "the option timeout must be a duration above zero"),
        ("redis://cache?timeout=0s", "the option timeout must be a duration above zero"),
        ("redis://cache?db=-1", "the option db"),
        ("redis://cache?ca=/etc/ca.pem", "go with rediss:// only"),
        ("rediss://cache?key=/etc/k.pem", "a TLS key needs its certificate"),
        ("rediss://cache?ca=", "the option ca has no value"),
        ("unix://run/redis.sock", "a socket needs an absolute path"),
    ],
)
def test_a_url_is_refused_without_being_repeated(url, says):
    with pytest.raises(ConfigurationError) as caught:
        RedisSettings.from_url(url, origin="BULLPEN_REDIS_URL")
    assert says in str(caught.value)
    assert str(caught.value).startswith("BULLPEN_REDIS_URL: ")
    error: BaseException | None = caught.value
    while error is not None and not error.__suppress_context__:
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


@given(st.text(max_size=60))
def test_any_text_is_settings_or_a_configuration_error(text):
    with contextlib.suppress(ConfigurationError):
        RedisSettings.from_url(f"redis://{text}")


@given(password=st.text(min_size=1), username=st.one_of(st.none(), st.text(min_size=1)))
def test_no_text_of_settings_holds_the_password(password, username):
    secret = f"<<{password}>>"
    settings = RedisSettings(password=secret, username=username)
    for text in (repr(settings), str(settings), settings.where, settings.model_dump_json()):
        assert secret not in text


@pytest.mark.parametrize(
    ("environment", "where", "origin"),
    [
        ({}, "127.0.0.1:6379/0", "the default address"),
        ({"REDIS_HOST": "h"}, "h:6379/0", "REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "7", "REDIS_DB": "2", "REDIS_TLS": "true"}, "h:7/2 (TLS)", "REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_TLS": "False"}, "h:6379/0", "REDIS_HOST"),
        ({"REDIS_PORT": "tcp://10.96.0.11:6379"}, "127.0.0.1:6379/0", "the default address"),
        ({"REDIS_URL": "redis://u", "REDIS_HOST": "h"}, "u:6379/0", "REDIS_URL"),
        ({"BULLPEN_REDIS_URL": "redis://b", "REDIS_URL": "redis://u"}, "b:6379/0", "BULLPEN_REDIS_URL"),
        ({"BULLPEN_REDIS_URL": "", "REDIS_URL": "redis://u"}, "u:6379/0", "REDIS_URL"),
    ],
)
def test_the_environment_says(environment, where, origin):
    settings = RedisSettings.from_environment(environment)
    assert (settings.where, settings.origin) == (where, origin)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"BULLPEN_REDIS_URL": "redis://a", "BULLPEN_REDIS_URL_FILE": "/x"}, "both set"),
        (
            {"BULLPEN_REDIS_URL_FILE": "/does/not/exist"},
            "BULLPEN_REDIS_URL_FILE (/does/not/exist): the file cannot be read: No such file",
        ),
        ({"REDIS_PORT": "seven"}, "REDIS_PORT: must be a whole number from 1 to 65535"),
        ({"REDIS_DB": "-1"}, "REDIS_DB"),
        ({"REDIS_TLS": "maybe"}, "REDIS_TLS='maybe': must be true or false"),
        ({"BULLPEN_PREFIX": "a b"}, "BULLPEN_PREFIX='a b'"),
        ({"REDIS_HOST": "h", "REDIS_TLS": "1", "BULLPEN_REDIS_KEY_FILE": "/k"}, "BULLPEN_REDIS_CERT_FILE"),
    ],
)
def test_the_environment_is_refused(environment, says):
    with pytest.raises(ConfigurationError) as caught:
        RedisSettings.from_environment(environment)
    assert says in str(caught.value)


def test_credentials_and_prefix_come_from_the_environment():
    settings = RedisSettings.from_environment(
        {"REDIS_USERNAME": "ada", "REDIS_PASSWORD": "p@/w", "BULLPEN_PREFIX": "{shop}"}
    )
    assert settings.username == "ada"
    assert settings.password is not None
    assert settings.password.get_secret_value() == "p@/w"
    assert settings.prefix == "{shop}"


def test_tls_files_of_the_environment_fill_what_the_url_leaves_open():
    settings = RedisSettings.from_environment(
        {
            "BULLPEN_REDIS_URL": "rediss://h?ca=/url.pem",
            "BULLPEN_REDIS_CA_FILE": "/env.pem",
            "BULLPEN_REDIS_SERVER_NAME": "n",
        }
    )
    assert settings.tls is not None
    assert (settings.tls.ca, settings.tls.server_name) == (Path("/url.pem"), "n")


def test_a_url_that_is_given_goes_before_the_environment_s_and_takes_the_rest_from_it():
    settings = RedisSettings.from_environment(
        {"BULLPEN_REDIS_URL": "redis://other", "BULLPEN_PREFIX": "shop", "BULLPEN_REDIS_CA_FILE": "/env.pem"},
        url="rediss://h?cert=/url.pem",
        origin="--redis",
    )
    assert settings.tls is not None
    assert (settings.where, settings.prefix, settings.origin) == ("h:6379/0 (TLS)", "shop", "--redis")
    assert (settings.tls.ca, settings.tls.certificate) == (Path("/env.pem"), Path("/url.pem"))


@pytest.mark.parametrize("content", [b"", b"a\nb", b"\xff\xfe", b"redis://h?x=" + b"y" * 20_000])
def test_a_url_file_that_holds_no_url_is_refused(tmp_path, content):
    path = tmp_path / "url"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="the file"):
        RedisSettings.from_file(path)


def test_of_takes_a_url_settings_or_the_environment(monkeypatch):
    monkeypatch.setenv("BULLPEN_REDIS_URL", "redis://env")
    assert RedisSettings.of(None).host == "env"
    assert RedisSettings.of("redis://given").host == "given"
    settings = RedisSettings(host="mine")
    assert RedisSettings.of(settings) is settings
    assert RedisSettings.of(settings, prefix="p").prefix == "p"
