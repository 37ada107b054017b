"""Settings of Redis on their way to a process of the worker's own."""

import json
from pathlib import Path

import pytest

from bullpen.redis.settings import RedisSettings, TlsSettings
from bullpen_worker.executors.frames import Setup
from bullpen_worker.supervision import config

PLAIN = RedisSettings.from_url("redis://emails:se%2Fcret@redis.shop.svc:6380/2", prefix="shop")


@pytest.mark.parametrize(
    "settings",
    [
        PLAIN,
        RedisSettings(),
        PLAIN.model_copy(update={"tls": TlsSettings(ca=Path("/ca.crt"))}),
        PLAIN.model_copy(update={"tls": TlsSettings(ca_pem="CA", certificate_pem="CERTIFICATE AND KEY")}),
    ],
)
def test_they_arrive_whole(settings: RedisSettings) -> None:
    assert RedisSettings.model_validate_json(config.plain(settings)) == settings
    data = json.loads(json.dumps(Setup((), (), settings, None).to_data()))
    assert Setup.from_data(data).redis == settings
