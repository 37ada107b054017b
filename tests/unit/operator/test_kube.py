"""The client of the API server, where it gets no further than this machine."""

import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException

from bullpen_operator.kube import client, kinds
from bullpen_operator.kube.errors import Unavailable


async def test_a_token_that_cannot_be_read_now_is_an_outage_as_any_other(monkeypatch):
    def read_again(_):
        msg = "Token file exists but empty."
        raise ConfigException(msg)

    monkeypatch.setattr(client, "ATTEMPTS", 1)
    configuration = Configuration(host="https://localhost:1", api_key={"BearerToken": "bearer a"})
    configuration.refresh_api_key_hook = read_again
    async with client.Kube(configuration) as kube:
        with pytest.raises(Unavailable, match="Token file"):
            await kube.get(kinds.LEASE, "bullpen-system", "bullpen-operator")
