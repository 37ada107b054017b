"""How the API server is reached: by the pod's service account, else by a kubeconfig, as `kubectl` does."""

import datetime as dt
import sys
from pathlib import Path
from typing import Final

import kopf
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from bullpen.errors import ConfigurationError

DEEPEST: Final = 10_000
"""How deep JSON may be nested that the API server takes."""

_TOKEN_MINUTES = 10
"""How long Kopf goes by a token before it asks for another: the kubelet writes a new one long before the old ends."""


def read_what_the_api_server_takes() -> None:
    """Let this process read each object that there can be. For the start of a process: the bound is Python's, for all of it.

    Python's reader of JSON stops at 1,000 levels, and with it would stop whoever lists JobQueues, where one has more in a
    field that takes anything.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 5 * DEEPEST))


async def configuration(kubeconfig: str = "") -> Configuration:
    """Give the configuration for a client. Raises `ConfigurationError` where there is no way to the API server."""
    found = Configuration()
    try:
        if kubeconfig:
            await config.load_kube_config(kubeconfig, client_configuration=found, persist_config=False)  # type: ignore[no-untyped-call]
            return found
        try:
            config.load_incluster_config(found)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            await config.load_kube_config(client_configuration=found, persist_config=False)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        where = f"the kubeconfig {kubeconfig}" if kubeconfig else "neither a service account nor a kubeconfig"
        msg = f"no way to the API server by {where}: {error}"
        raise ConfigurationError(msg) from error
    return found


async def connection_info(found: Configuration) -> kopf.ConnectionInfo:
    """Give the same for Kopf, with the token of now."""
    header = await found.get_api_key_with_prefix("BearerToken")
    _, _, token = (header or "").partition(" ")
    ca_data = found.ca_cert_data
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=None if ca_data else _path(found.ssl_ca_cert),
        ca_data=ca_data or None,
        insecure=not found.verify_ssl,
        scheme="Bearer" if token else None,
        token=token or None,
        certificate_path=_path(found.cert_file),
        private_key_path=_path(found.key_file),
        username=found.username or None,
        password=found.password or None,
        expiration=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=_TOKEN_MINUTES),
    )


def _path(text: object) -> str | None:
    return str(Path(str(text))) if text else None
