"""Bindings: what a folder says, what half a one is refused with, how a change is taken up."""

from pathlib import Path

import pytest

from bullpen.errors import ConfigurationError
from bullpen.redis import binding, endpoints
from bullpen.redis.binding import Bindings
from bullpen.redis.settings import RedisSettings
from tests.support.mounting import mount

WHOLE = {
    "type": "redis",
    "host": "redis.infra.svc",
    "port": "6380",
    "username": "bullpen.1.shop.emails",
    "password": "hunter2-and-more",
    "prefix": "shop",
    "queue": "emails",
}
URI = "rediss://u:hunter2-in-uri@tls.infra.svc:7000/3"


def test_a_folder_gives_address_account_and_prefix(tmp_path: Path) -> None:
    found = binding.read(mount(tmp_path / "emails", WHOLE))
    assert found is not None
    settings = found.settings
    assert (found.queue, settings.where, settings.prefix) == ("emails", "redis.infra.svc:6380/0", "shop")
    assert settings.username == "bullpen.1.shop.emails"
    assert settings.password is not None
    assert settings.password.get_secret_value() == "hunter2-and-more"
    assert "hunter2" not in repr(found)


def test_a_uri_alone_says_it_all(tmp_path: Path) -> None:
    found = binding.read(mount(tmp_path / "a", {"type": "redis", "uri": URI, "prefix": "p", "queue": "q\n"}))
    assert found is not None
    assert (found.queue, found.settings.where, found.settings.username) == ("q", "tls.infra.svc:7000/3 (TLS)", "u")


def test_files_go_over_the_uri(tmp_path: Path) -> None:
    found = binding.read(mount(tmp_path / "a", WHOLE | {"uri": URI, "database": "4"}))
    assert found is not None
    assert found.settings.where == "redis.infra.svc:6380/4 (TLS)"
    assert found.settings.username == "bullpen.1.shop.emails"


def test_certificates_are_named_by_their_files(tmp_path: Path) -> None:
    folder = mount(tmp_path / "a", WHOLE | {"ca.crt": "pem", "tls.crt": "pem", "tls.key": "pem"})
    found = binding.read(folder)
    assert found is not None
    tls = found.settings.tls
    assert tls is not None
    assert (tls.ca, tls.certificate, tls.key) == (folder / "ca.crt", folder / "tls.crt", folder / "tls.key")


@pytest.mark.parametrize(
    "files",
    [
        {"type": "postgresql", "host": "db", "queue": "q", "prefix": "p"},
        {"type": "redis", "host": "cache"},
        {},
    ],
)
def test_what_is_no_binding_of_a_queue_is_left_alone(tmp_path: Path, files: dict[str, str]) -> None:
    assert binding.read(mount(tmp_path / "a", files)) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": None}, "no type"),
        ({"queue": None}, "no queue"),
        ({"prefix": None}, "no prefix"),
        ({"prefix": ""}, "no prefix"),
        ({"host": None}, "no uri or host"),
        ({"port": "hunter2"}, "file port: must be a whole number"),
        ({"port": "70000"}, "file port: must be a whole number"),
        ({"database": "-1"}, "file database: must be a whole number"),
        ({"prefix": "two words hunter2"}, "prefix cannot be used"),
        ({"uri": "http://hunter2"}, "file uri: not a Redis URL"),
        ({"password": "hunter2\nhunter2"}, "file password must hold one line"),
        ({"password": "hunter2" * 3000}, "file password must hold one line"),
        ({"uri": URI, "tls.key": "hunter2"}, "no tls.crt"),
        ({"uri": "redis://h", "ca.crt": "pem"}, "does not begin with rediss://"),
    ],
)
def test_half_a_binding_is_refused_by_the_file_and_never_with_a_value(
    tmp_path: Path, change: dict[str, str | None], says: str
) -> None:
    files = {name: text for name, text in (WHOLE | change).items() if text is not None}
    folder = mount(tmp_path / "a", files)
    with pytest.raises(ConfigurationError) as caught:
        binding.read(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_two_bindings_of_a_queue_are_refused(tmp_path: Path) -> None:
    mount(tmp_path / "a", WHOLE)
    mount(tmp_path / "b", WHOLE)
    found, wrong = binding.scan(tmp_path)
    assert [str(each) for each in wrong] == [
        f"the bindings {tmp_path / 'a'} and {tmp_path / 'b'} are for the same queue: mount one of them"
    ]
    assert found["emails"].folder == tmp_path / "a"


def environment(root: Path, **more: str) -> RedisSettings:
    return RedisSettings.from_environment({"SERVICE_BINDING_ROOT": str(root), **more})


def test_a_queue_with_a_binding_uses_it_and_another_what_the_environment_says(tmp_path: Path) -> None:
    mount(tmp_path / "a", WHOLE)
    settings = environment(tmp_path, BULLPEN_REDIS_URL="redis://plain:1/2", BULLPEN_PREFIX="bull")
    assert binding.for_queue(settings, "emails").where == "redis.infra.svc:6380/0"
    other = binding.for_queue(settings, "other")
    assert (other.where, other.prefix) == ("plain:1/2", "bull")


def test_a_queue_with_neither_is_an_error_and_not_the_default_address(tmp_path: Path) -> None:
    mount(tmp_path / "a", WHOLE)
    with pytest.raises(
        ConfigurationError, match=r"queue 'other' has no binding under SERVICE_BINDING_ROOT .*of queues: a"
    ):
        binding.for_queue(environment(tmp_path), "other")
    with pytest.raises(ConfigurationError, match="of queues: none"):
        binding.for_queue(environment(tmp_path / "absent"), "emails")


def test_half_a_binding_spoils_no_other_queue_that_has_one(tmp_path: Path) -> None:
    mount(tmp_path / "a", WHOLE)
    mount(tmp_path / "b", {"type": "redis", "prefix": "x", "host": "h"})
    settings = environment(tmp_path, BULLPEN_REDIS_URL="redis://plain")
    assert binding.for_queue(settings, "emails").prefix == "shop"
    with pytest.raises(ConfigurationError, match="half a one: it has no queue"):
        binding.for_queue(settings, "other")  # it may be this one's


def test_what_code_names_goes_before_bindings(tmp_path: Path) -> None:
    mount(tmp_path / "a", WHOLE)
    env = {"SERVICE_BINDING_ROOT": str(tmp_path)}
    for settings in (
        RedisSettings.from_environment(env, url="redis://told"),
        RedisSettings.of(RedisSettings.from_environment(env), prefix="told"),
    ):
        assert binding.for_queue(settings, "emails") is settings


def test_from_a_bound_queues_settings_another_bound_queue_is_found(tmp_path: Path) -> None:
    mount(tmp_path / "a", WHOLE)
    mount(tmp_path / "b", WHOLE | {"queue": "images", "host": "elsewhere"})
    emails = binding.for_queue(environment(tmp_path), "emails")
    told = RedisSettings.model_validate_json(emails.model_dump_json())  # as a worker's child gets them
    assert binding.for_queue(told, "images").where == "elsewhere:6380/0"


def test_a_rotated_password_is_read_at_the_next_connect_and_the_stamp_says_so(tmp_path: Path) -> None:
    folder = mount(tmp_path / "a", WHOLE)
    settings = binding.for_queue(environment(tmp_path), "emails")
    before = endpoints.stamp(settings)
    assert endpoints.stamp(settings) == before
    mount(folder, WHOLE | {"password": "another"})
    assert endpoints.stamp(settings) != before
    now = endpoints.current(settings)
    assert now.password is not None
    assert now.password.get_secret_value() == "another"
    assert (now.bindings, now.endpoint) == (settings.bindings, settings.endpoint)


def test_bindings_are_looked_at_again_and_what_is_half_there_keeps_what_was(tmp_path: Path) -> None:
    seconds = [0.0]
    known = Bindings(tmp_path, monotonic=lambda: seconds[0])
    assert known.find("emails") is None
    folder = mount(tmp_path / "a", WHOLE)
    assert known.find("emails") is None  # not looked at yet
    seconds[0] = 1.0
    first = known.find("emails")
    assert first is not None
    seconds[0] = 2.0
    assert known.find("emails") is first
    mount(folder, {name: text for name, text in WHOLE.items() if name != "host"})
    seconds[0] = 3.0
    assert known.find("emails") is first
    mount(folder, WHOLE | {"host": "moved"})
    seconds[0] = 4.0
    moved = known.find("emails")
    assert moved is not None
    assert moved.settings.where == "moved:6380/0"


def test_all_files_of_one_reading_come_from_the_same_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mount(tmp_path / "a", WHOLE | {"username": "u1", "password": "p1"})
    opened = []
    real = Path.open

    def swapping(self: Path, *args: object, **options: object) -> object:
        opened.append(self.name)
        if self.name == "username" and opened.count("username") == 1:
            file = real(self, *args, **options)  # type: ignore[arg-type]
            mount(folder, WHOLE | {"username": "u2", "password": "p2"})
            return file
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", swapping)
    found = binding.read(folder)
    assert found is not None
    assert found.settings.password is not None
    assert (found.settings.username, found.settings.password.get_secret_value()) == ("u2", "p2")
