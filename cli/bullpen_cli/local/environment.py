"""The environment of a local worker: what `worker.env` in YAML says, with an env file in place of Secrets."""

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

from bullpen.errors import ConfigurationError


def user_name() -> str:
    """Give the name of who runs this; of one without a name, as in a container with an id of its own, the id."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def read_env_file(path: Path) -> dict[str, str]:
    """Read a file of ``NAME=value`` lines (quotes and comments as in Docker Compose).

    Raises `ConfigurationError` when it cannot be read. Error texts never contain a value.
    """
    from dotenv import dotenv_values  # noqa: PLC0415 - needed by local mode with an env file only

    if not path.is_file():
        msg = f"--env-file {path}: there is no such file"
        raise ConfigurationError(msg)
    values = dotenv_values(path, interpolate=False)
    missing = sorted(name for name, value in values.items() if value is None)
    if missing:
        msg = f"--env-file {path}: {', '.join(missing)} without a value: write NAME=value"
        raise ConfigurationError(msg)
    return {name: value for name, value in values.items() if value is not None}


def resolve(env: object, env_from: object, *, secrets: Mapping[str, str], where: str) -> dict[str, str]:
    """Give the variables that `worker.env` and `worker.envFrom` stand for.

    A value that YAML takes from a Secret or ConfigMap is looked up in `secrets` (the env file) under the variable's own
    name; `envFrom` brings in all of them. Raises `ConfigurationError` for one that is not there, unless YAML says that it
    is optional. What only a pod has (`fieldRef`) is left out.
    """
    found: dict[str, str] = {}
    if env_from:
        found.update(secrets)
    for entry in env if isinstance(env, list | tuple) else ():
        name = str(entry.get("name", ""))
        source = entry.get("valueFrom")
        if not isinstance(source, Mapping):
            found[name] = str(entry.get("value", ""))
            continue
        reference = source.get("secretKeyRef") or source.get("configMapKeyRef")
        if not isinstance(reference, Mapping):
            continue
        if name in secrets:
            found[name] = secrets[name]
        elif not reference.get("optional"):
            kind = "Secret" if "secretKeyRef" in source else "ConfigMap"
            msg = (
                f"{where}: {name} comes from the {kind} {reference.get('name')!r}, which a laptop does not have:"
                f" give it in a file, with --env-file FILE and a line {name}=…"
            )
            raise ConfigurationError(msg)
    return found
