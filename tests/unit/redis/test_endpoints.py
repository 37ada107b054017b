"""What came from a file is read again, and a stamp says when."""

from datetime import timedelta

import pytest

from bullpen.errors import ConfigurationError
from bullpen.redis import endpoints
from bullpen.redis.settings import RedisSettings


def test_a_url_file_is_read_again_and_the_rest_stays(tmp_path):
    path = tmp_path / "url"
    path.write_text("rediss://:one@first:1\n")
    settings = RedisSettings.from_environment(
        {"BULLPEN_REDIS_URL_FILE": str(path), "BULLPEN_PREFIX": "shop", "BULLPEN_REDIS_CA_FILE": "/ca.pem"}
    )
    before = endpoints.stamp(settings)
    path.write_text("rediss://:three@second:2?timeout=9s\n")
    assert endpoints.stamp(settings) != before
    now = endpoints.current(settings)
    assert (now.where, now.prefix, now.timeout) == ("second:2/0 (TLS)", "shop", timedelta(seconds=9))
    assert now.password is not None
    assert now.password.get_secret_value() == "three"
    assert now.tls == settings.tls
    assert endpoints.current(now) == now
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        endpoints.current(settings)
