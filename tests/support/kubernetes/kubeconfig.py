"""Kubeconfig files."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Pair


@dataclass(frozen=True)
class Token:
    """A bearer token."""

    value: str


def write(path: Path, *, server: str, authority: Path, user: str, credentials: Pair | Token) -> Path:
    """Write a kubeconfig with one context, readable by its owner alone."""
    if isinstance(credentials, Token):
        who = {"token": credentials.value}
    else:
        who = {
            "client-certificate-data": _base64(credentials.certificate),
            "client-key-data": _base64(credentials.key),
        }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {"name": "test", "cluster": {"server": server, "certificate-authority-data": _base64(authority)}},
        ],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        "users": [{"name": user, "user": who}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=2))
    return path


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
