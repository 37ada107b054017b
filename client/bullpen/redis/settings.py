"""Where Redis is and as whom to connect: from a URL, a file with a URL in it, or the environment.

Secrets are `SecretStr`: no `repr`, `str` or error shows them. What is read from a file is read again at every connect:
`bullpen.redis.endpoints`.
"""

import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from bullpen import errors
from bullpen.redis import address

S = TypeVar("S", bound="RedisSettings")

DEFAULT_PREFIX: Final = "bull"
_DEFAULT_ORIGIN: Final = "the default address"
_PREFIX = re.compile(r"[!-~]{1,128}")
LARGEST_FILE: Final = 16_384
"""The most bytes that are read of a file with a URL, or with one value of a binding."""
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
_TLS_VARIABLES = {
    "ca": "BULLPEN_REDIS_CA_FILE",
    "certificate": "BULLPEN_REDIS_CERT_FILE",
    "key": "BULLPEN_REDIS_KEY_FILE",
    "server_name": "BULLPEN_REDIS_SERVER_NAME",
}


class TlsSettings(BaseModel):
    """TLS to Redis. The server's certificate is always verified; files are PEM, and read at each connect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path | None = None
    """Certificates of the authorities to trust; absent: the system's."""
    certificate: Path | None = None
    """The client's certificate, where Redis asks for one. Needs `key`, unless the key is in the same file."""
    key: Path | None = None
    server_name: str | None = None
    """The name that the server's certificate must carry; absent: the host connected to."""
    ca_pem: str | None = None
    """The authorities as PEM, for who has them in memory; in place of `ca`."""
    certificate_pem: SecretStr | None = None
    """The client's certificate and its key as PEM, in place of `certificate` and `key`."""

    @model_validator(mode="after")
    def _key_needs_certificate(self) -> Self:
        if self.key is not None and self.certificate is None:
            msg = "a TLS key needs its certificate"
            raise ValueError(msg)
        return self

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises `ConfigurationError` naming the file that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca, cadata=self.ca_pem)
        except (OSError, ValueError) as error:  # ssl's own errors are of OSError, but for text that is not ASCII
            msg = f"the TLS authorities in {self.ca or 'memory'} cannot be read: {_of_ssl(error)}"
            raise errors.ConfigurationError(msg) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_pem is not None:
            _load_pem(context, self.certificate_pem.get_secret_value())
        elif self.certificate is not None:
            try:
                # An encrypted key would ask at the terminal; an empty password fails instead.
                context.load_cert_chain(self.certificate, self.key, password="")
            except (OSError, ssl.SSLError) as error:
                msg = f"the TLS client certificate in {self.certificate} cannot be used with its key: {error}"
                raise errors.ConfigurationError(msg) from error
        return context


class RedisSettings(BaseModel):
    """How to reach one Redis. Immutable; `RedisSettings.from_environment()` is what everything uses that is told nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = "127.0.0.1"
    looked_up: str | None = None
    """The address of `host`, where somebody looked it up already; absent: each connect does."""
    port: int = Field(default=address.DEFAULT_PORT, ge=1, le=65_535)
    path: Path | None = None
    """A unix socket, in place of host and port."""
    db: int = Field(default=0, ge=0, le=2**31 - 1)
    username: str | None = None
    password: SecretStr | None = None
    tls: TlsSettings | None = None
    """Absent: plain."""
    timeout: timedelta = Field(default=timedelta(seconds=5), gt=timedelta())
    """How long a connect, and an answer to a command that does not block, may take."""
    client_name: str | None = Field(default=None, pattern=r"^[!-~]+$")
    """What `CLIENT LIST` shows, where the connection's owner gives it no name of its own."""
    prefix: str = Field(default=DEFAULT_PREFIX, pattern=r"^[!-~]{1,128}$")
    """What the keys of all queues begin with."""
    url_file: Path | None = None
    """The file that these settings were read from; read again at each connect."""
    bindings: Path | None = None
    """Where the bindings of queues are: ``$SERVICE_BINDING_ROOT``. Those go before these settings (`bullpen.redis.binding`)."""
    binding: Path | None = None
    """The folder that these settings were read from; read again at each connect."""
    origin: str = "the settings"
    """Where they come from, for messages."""

    @classmethod
    def from_url(cls, url: str, *, prefix: str = DEFAULT_PREFIX, origin: str = "the Redis URL") -> Self:
        """Read ``redis://``, ``rediss://`` or ``unix://``; raise `ConfigurationError` for any other.

        Options after the ``?``: ``db``, ``timeout``, ``client_name``; with TLS ``ca``, ``cert``, ``key``, ``server_name``.
        """
        return cls._of(address.parse(url, named=origin), prefix=prefix, origin=origin)

    @classmethod
    def from_file(cls, path: Path | str, *, prefix: str = DEFAULT_PREFIX, origin: str | None = None) -> Self:
        """Read the URL in a file, now and again at each connect. Raises `ConfigurationError`."""
        named = origin or f"the file {path}"
        found = cls.from_url(_read(Path(path), named=named), prefix=prefix, origin=named)
        return found.model_copy(update={"url_file": Path(path)})

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, *, url: str | None = None, origin: str = "the Redis URL"
    ) -> Self:
        """Read the first of these that is set, and `BULLPEN_PREFIX`; raise `ConfigurationError` naming what is wrong.

        `BULLPEN_REDIS_URL` or `BULLPEN_REDIS_URL_FILE`; `REDIS_URL`; `REDIS_HOST`, `REDIS_PORT`, `REDIS_USERNAME`,
        `REDIS_PASSWORD`, `REDIS_DB`, `REDIS_TLS`; else ``redis://127.0.0.1:6379/0``. An empty variable is not set.
        With TLS, `BULLPEN_REDIS_CA_FILE`, `BULLPEN_REDIS_CERT_FILE`, `BULLPEN_REDIS_KEY_FILE` and
        `BULLPEN_REDIS_SERVER_NAME` say what the URL does not. A `url` goes before those of the environment, and takes the
        rest from it; messages call it `origin`. Without one, the bindings under `SERVICE_BINDING_ROOT` go before all this,
        each for its queue: `bullpen.redis.binding.for_queue`.
        """
        env = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
        prefix = env.get("BULLPEN_PREFIX", DEFAULT_PREFIX)
        if not _PREFIX.fullmatch(prefix):
            msg = f"BULLPEN_PREFIX={prefix!r}: must be 1 to 128 visible ASCII characters without blanks"
            raise errors.ConfigurationError(msg)
        if url is not None:
            return _with_tls_files(cls.from_url(url, prefix=prefix, origin=origin), env)
        if "BULLPEN_REDIS_URL" in env and "BULLPEN_REDIS_URL_FILE" in env:
            msg = "BULLPEN_REDIS_URL and BULLPEN_REDIS_URL_FILE are both set: unset one of them"
            raise errors.ConfigurationError(msg)
        if "BULLPEN_REDIS_URL_FILE" in env:
            path = env["BULLPEN_REDIS_URL_FILE"]
            found = cls.from_file(path, prefix=prefix, origin=f"BULLPEN_REDIS_URL_FILE ({path})")
        elif "BULLPEN_REDIS_URL" in env:
            found = cls.from_url(env["BULLPEN_REDIS_URL"], prefix=prefix, origin="BULLPEN_REDIS_URL")
        elif "REDIS_URL" in env:
            found = cls.from_url(env["REDIS_URL"], prefix=prefix, origin="REDIS_URL")
        else:
            found = cls._from_variables(env, prefix=prefix)
        if "SERVICE_BINDING_ROOT" in env:
            found = found.model_copy(update={"bindings": Path(env["SERVICE_BINDING_ROOT"])})
        return _with_tls_files(found, env)

    @classmethod
    def of(cls, redis: "str | RedisSettings | None", *, prefix: str | None = None) -> "RedisSettings":
        """Give settings from what a client or worker was given: a URL, settings, or nothing (the environment).

        A prefix that code names goes before bindings.
        """
        if isinstance(redis, RedisSettings):
            found: RedisSettings = redis
        elif redis is None:
            found = cls.from_environment()
        else:
            found = cls.from_url(redis)
        return found if prefix is None else found.model_copy(update={"prefix": prefix, "bindings": None})

    @property
    def where(self) -> str:
        """The address for messages and logs, without credentials: ``host:port/db``."""
        if self.path is not None:
            return f"{self.path} (db {self.db})"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.db}{' (TLS)' if self.tls is not None else ''}"

    @property
    def endpoint(self) -> tuple[object, ...]:
        """What makes it another Redis, or another database of it, when it differs. No credentials."""
        return (self.host, self.port, self.path, self.db, self.tls)

    @property
    def is_default_address(self) -> bool:
        """Whether nobody said where Redis is."""
        return self.origin == _DEFAULT_ORIGIN

    @classmethod
    def _of(cls, parts: address.Parts, *, prefix: str, origin: str) -> Self:
        try:
            return cls.model_validate({**parts, "prefix": prefix, "origin": origin})
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            what = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
            msg = f"{origin}: {what}"
            raise errors.ConfigurationError(msg) from None

    @classmethod
    def _from_variables(cls, env: Mapping[str, str], *, prefix: str) -> Self:
        parts: address.Parts = {"host": env.get("REDIS_HOST", "127.0.0.1")}
        port = env.get("REDIS_PORT", "")
        # A Service named "redis" makes Kubernetes set REDIS_PORT=tcp://10.0.0.1:6379 in every pod beside it.
        if port and not port.startswith("tcp://"):
            parts["port"] = address.number(port, named="REDIS_PORT", least=1, most=65_535)
        if "REDIS_DB" in env:
            parts["db"] = address.number(env["REDIS_DB"], named="REDIS_DB", least=0, most=2**31 - 1)
        if "REDIS_USERNAME" in env:
            parts["username"] = env["REDIS_USERNAME"]
        if "REDIS_PASSWORD" in env:
            parts["password"] = env["REDIS_PASSWORD"]
        wish = env.get("REDIS_TLS", "").lower()
        if wish not in _TRUE | _FALSE:
            msg = f"REDIS_TLS={env['REDIS_TLS']!r}: must be true or false"
            raise errors.ConfigurationError(msg)
        if wish in _TRUE:
            parts["tls"] = {}
        return cls._of(parts, prefix=prefix, origin="REDIS_HOST" if "REDIS_HOST" in env else _DEFAULT_ORIGIN)


def _load_pem(context: ssl.SSLContext, pem: str) -> None:
    """Have the context show a certificate that is in memory: ssl reads files only, so it gets one that nobody else sees."""
    with tempfile.NamedTemporaryFile(prefix="bullpen-tls-") as held:  # mode 0600; gone when it is closed
        held.write(pem.encode())
        held.flush()
        try:
            context.load_cert_chain(held.name, password="")
        except (OSError, ssl.SSLError):  # its text says nothing that helps, and the PEM is secret
            msg = "the TLS client certificate cannot be used with its key"
            raise errors.ConfigurationError(msg) from None


def _of_ssl(error: Exception) -> str:
    return error.reason or "no certificates" if isinstance(error, ssl.SSLError) else str(error)


def _read(path: Path, *, named: str) -> str:
    try:
        with path.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        msg = f"{named}: the file cannot be read: {error.strerror}"
        raise errors.ConfigurationError(msg) from error
    if len(content) > LARGEST_FILE:
        msg = f"{named}: the file is larger than {LARGEST_FILE} bytes; it must hold one Redis URL"
        raise errors.ConfigurationError(msg)
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        msg = f"{named}: the file is not UTF-8 text; it must hold one Redis URL"
        raise errors.ConfigurationError(msg) from None
    if not text or "\n" in text:
        msg = f"{named}: the file must hold one Redis URL on one line"
        raise errors.ConfigurationError(msg)
    return text


def _with_tls_files(settings: S, env: Mapping[str, str]) -> S:
    """Take from the environment what the URL does not say about TLS."""
    given = {field: env[name] for field, name in _TLS_VARIABLES.items() if name in env}
    if settings.tls is None or not given:
        return settings
    merged = given | settings.tls.model_dump(exclude_none=True)
    try:
        return settings.model_copy(update={"tls": TlsSettings.model_validate(merged)})
    except ValidationError:
        msg = "BULLPEN_REDIS_KEY_FILE is set without BULLPEN_REDIS_CERT_FILE: a key needs its certificate"
        raise errors.ConfigurationError(msg) from None
