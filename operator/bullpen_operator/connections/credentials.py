"""Reads what a connection's references name, and gives the settings to connect with.

Secrets are read with `get` alone, when a connection is made: kept for ten minutes, read at once again when Redis refused
the login, and never more often than every few seconds. No text of this module repeats a value, nor a part of one.
"""

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from typing import Final, Protocol

from bullpen.errors import ConfigurationError
from bullpen.redis.settings import RedisSettings
from bullpen_operator.connections.references import DataRef, RedisRef
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Forbidden, KubeError
from bullpen_operator.kube.kinds import Kind, Object

READ_AGAIN_SECONDS: Final = 600.0
REFUSED_PAUSE_SECONDS: Final = 2.0
LARGEST_VALUE_BYTES: Final = 4096
"""The largest user name or password; certificates may be as large as a Secret."""

_TLS_KEYS: Final = ("tls.crt", "tls.key")


class Reads(Protocol):
    """What is asked of the API server."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give an object; None where there is none. Raises `KubeError`."""
        ...


async def read(ref: RedisRef, kube: Reads, *, timeout: float) -> RedisSettings:
    """Read what the reference names. Raises `ConfigurationError` naming field and object, `KubeError`."""
    settings = RedisSettings.from_url(ref.endpoint, origin=f"the connection {ref.id}")
    update: dict[str, object] = {"username": ref.username}
    if ref.username_from is not None:
        update["username"] = _word(await _value(ref.username_from, ref.namespace, kube), ref.username_from)
    if ref.password_from is not None:
        update["password"] = _word(await _value(ref.password_from, ref.namespace, kube), ref.password_from)
    if settings.tls is not None:
        tls: dict[str, object] = {}
        if ref.ca_from is not None:
            tls["ca_pem"] = _pem(await _value(ref.ca_from, ref.namespace, kube), ref.ca_from)
        if ref.certificate_from is not None:
            named = "spec.tls.clientCertificate.secretName"
            parts = [DataRef("Secret", ref.certificate_from, key, named) for key in _TLS_KEYS]
            tls["certificate_pem"] = "\n".join([_pem(await _value(part, ref.namespace, kube), part) for part in parts])
        update["tls"] = tls
    values = settings.model_dump() | update | {"timeout": timeout}
    return RedisSettings.model_validate(values)


class SecretEndpoints:
    """Where one Redis is, for `bullpen.redis.link`: reads the Secrets when they may be others by now.

    `refused` says whether Redis refused the login at the latest attempt. What was read is kept while the API server is away.
    """

    def __init__(
        self,
        ref: RedisRef,
        kube: Reads,
        *,
        refused: Callable[[], bool],
        timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ref = ref
        self._kube = kube
        self._refused = refused
        self._timeout = timeout
        self._monotonic = monotonic
        self._settings: RedisSettings | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self.versions = 0
        """How often what was read was something new."""

    @property
    def where(self) -> str:
        """The address, without credentials."""
        return self._ref.endpoint.partition("://")[2]

    async def current(self, *, anew: bool = False) -> RedisSettings:
        """Give the settings, read anew where they are old, or did not do, or `anew` says so. Raises `ConfigurationError`."""
        async with self._reading:
            age = self._monotonic() - self._read_at
            known = self._settings
            if known is not None and age < (REFUSED_PAUSE_SECONDS if anew or self._refused() else READ_AGAIN_SECONDS):
                return known
            try:
                fresh = await read(self._ref, self._kube, timeout=self._timeout)
            except KubeError as error:
                if known is not None:
                    return known
                what = "is not allowed to read" if isinstance(error, Forbidden) else "cannot read now"
                msg = f"the connection {self._ref.id}: the operator {what} what it refers to in {self._ref.namespace}"
                raise ConfigurationError(msg) from error
            self._read_at = self._monotonic()
            if fresh != known:
                self._settings = fresh
                self.versions += 1
            return fresh

    def stamp(self) -> object:
        """Give a value that differs when what was read is something new."""
        return self.versions

    def secrets(self) -> tuple[str, ...]:
        """Give what must not stand in any text: the values that came from Secrets."""
        settings = self._settings
        if settings is None:
            return ()
        found = [settings.password.get_secret_value()] if settings.password is not None else []
        if self._ref.username_from is not None and settings.username:
            found.append(settings.username)
        return tuple(each for each in found if each)


async def _value(ref: DataRef, namespace: str, kube: Reads) -> bytes:
    kind = kinds.SECRET if ref.kind == "Secret" else kinds.CONFIGMAP
    obj = await kube.get(kind, namespace, ref.name)
    if obj is None:
        msg = f'{ref.named_by}: there is no {ref.kind} "{ref.name}" in namespace "{namespace}"'
        raise ConfigurationError(msg)
    data = obj.get("data") or {}
    if ref.kind == "ConfigMap" and isinstance(text := data.get(ref.key), str):
        return text.encode()
    if ref.kind == "ConfigMap":
        data = obj.get("binaryData") or {}
    encoded = data.get(ref.key)
    if not encoded:
        msg = f'{ref.named_by}: {ref.kind} "{ref.name}" in namespace "{namespace}" has no key "{ref.key}", or nothing in it'
        raise ConfigurationError(msg)
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        msg = f'{ref.named_by}: what {ref.kind} "{ref.name}" has under "{ref.key}" cannot be read'
        raise ConfigurationError(msg) from None


def _word(value: bytes, ref: DataRef) -> str:
    """Read a user name or password. A line's end behind it is `echo`'s, nobody's password."""
    try:
        text = value.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or len(value) > LARGEST_VALUE_BYTES or "\n" in text or "\0" in text:
        msg = (
            f'{ref.named_by}: what Secret "{ref.name}" has under "{ref.key}" must be one line of text, of at most '
            f"{LARGEST_VALUE_BYTES} bytes"
        )
        raise ConfigurationError(msg)
    return text


def _pem(value: bytes, ref: DataRef) -> str:
    if not value.isascii() or b"-----BEGIN " not in value:
        msg = f'{ref.named_by}: what {ref.kind} "{ref.name}" has under "{ref.key}" must be PEM'
        raise ConfigurationError(msg)
    return value.decode("ascii")
