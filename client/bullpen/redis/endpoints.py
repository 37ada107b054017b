"""Where Redis is now: settings that were read from a file or a binding are read again at every connect.

So rotated credentials, and another address, are taken up without a restart.
"""

from pathlib import Path
from typing import Protocol

from bullpen import errors
from bullpen.redis import binding
from bullpen.redis.settings import RedisSettings


def current(settings: RedisSettings) -> RedisSettings:
    """Give the settings as they are now: read anew where they came from a file. Raises `ConfigurationError`.

    Blocks for the reading of a small file. What was set beside the file (prefix, TLS files of the environment,
    client name) stays.
    """
    if settings.binding is not None:
        return _of_binding(settings, settings.binding)
    if settings.url_file is None:
        return settings
    fresh = RedisSettings.from_file(settings.url_file, prefix=settings.prefix, origin=settings.origin)
    kept: dict[str, object] = {
        name: getattr(settings, name) for name in ("timeout", "client_name") if name not in fresh.model_fields_set
    }
    if fresh.tls is not None and settings.tls is not None:
        kept["tls"] = settings.tls.model_copy(update=fresh.tls.model_dump(exclude_none=True))
    return fresh.model_copy(update=kept)


def stamp(settings: RedisSettings) -> object:
    """Give a value that differs when `current` may: the file's identity and times, None without a file.

    A Secret mounted by Kubernetes is a link that moves on: it is followed.
    """
    if settings.binding is not None:
        return binding.stamp(settings.binding)
    if settings.url_file is None:
        return None
    try:
        found = settings.url_file.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


class Endpoints(Protocol):
    """Says, at each connect, where to connect and as whom. The seam for Redis Sentinel and Redis Cluster."""

    @property
    def where(self) -> str:
        """The address for messages when there is nothing better yet, without credentials."""
        ...

    async def current(self) -> RedisSettings:
        """Give the endpoint of now: host and port or socket, database, credentials, TLS. Raises `ConfigurationError`."""
        ...

    def stamp(self) -> object:
        """Give a value that differs when `current` may differ. Cheap; compared every few seconds."""
        ...


class ConfiguredEndpoints:
    """Endpoints as `RedisSettings` say: one address, re-read from its file where there is one."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    @property
    def where(self) -> str:
        """The address that was read first."""
        return self._settings.where

    async def current(self) -> RedisSettings:
        """Read the file again, where there is one."""
        return current(self._settings)

    def stamp(self) -> object:
        """Give the file's identity and times."""
        return stamp(self._settings)


def _of_binding(settings: RedisSettings, folder: Path) -> RedisSettings:
    found = binding.read(folder)
    if found is None:
        msg = f"{settings.origin} is gone, or is no binding of a queue any more"
        raise errors.ConfigurationError(msg)
    kept = {"bindings": settings.bindings, "timeout": settings.timeout, "client_name": settings.client_name}
    return found.settings.model_copy(update=kept)
