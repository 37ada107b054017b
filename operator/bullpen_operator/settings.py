"""What an operator is told when it starts: from flags, else from `BULLPEN_OPERATOR_*`, else what is written here."""

import ast
import inspect
import itertools
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, Literal, Self

from bullpen.errors import ConfigurationError

PREFIX: Final = "BULLPEN_OPERATOR_"
SERVICE_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one operator. Each has the environment variable `BULLPEN_OPERATOR_<NAME>`, and the flag ``--<name>``."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to look after, separated by commas; none: all. Then ClusterRedisConnections are not known."""

    class_name: str = ""
    """JobQueues of this `spec.className` are taken, those of another are not even looked at."""

    namespace: str = "bullpen-system"
    """Where the operator itself runs: its lease, and the Secrets that ClusterRedisConnections name."""

    identity: str = field(default_factory=socket.gethostname)
    """Who this operator is in the lease; the pod's name. Two that are alike would both lead."""

    cluster_id: str = ""
    """What tells this cluster from others that share a Redis. Empty: the uid of the namespace kube-system; of the
    operator's own namespace where only some namespaces are looked after."""

    kubeconfig: str = ""
    """File to reach the API server by; empty: the pod's service account, else what `kubectl` would take."""

    leader_election: bool = True
    """False: this operator writes without asking. For one that is surely alone: on a developer's machine."""

    lease_name: str = "bullpen-operator"
    """Name of the lease; the class is appended where there is one."""

    lease_seconds: float = 10.0
    """A lease that was not renewed for so long is free. The shorter, the sooner another takes over a dead leader's work,
    and the sooner a slow API server costs the lead."""

    renew_seconds: float = 7.0
    """A leader that could not renew for so long stops writing. Less than `lease_seconds`, by more than clocks differ."""

    retry_seconds: float = 2.0
    """Between two renewals of the lease; who waits for it looks twice as often."""

    concurrency: int = 8
    """JobQueues that are reconciled at the same time."""

    resync_seconds: float = 600.0
    """How often each JobQueue is looked at though nothing was heard of it, with jitter of a quarter."""

    status_writes_per_second: float = 10.0
    """Most status writes, over all JobQueues; each waits for its turn."""

    probes: str = "0.0.0.0:8080"
    """Where /healthz, /readyz and /metrics are served; empty: nowhere."""

    network_policies: bool = False
    """Whether workers get a NetworkPolicy that lets nobody in but who reads their metrics."""

    worker_image_pull_secrets: tuple[str, ...] = ()
    """Names of pull secrets that each worker pod gets, separated by commas."""

    log_format: LogFormat = "json"
    """One JSON object a line, or coloured text."""

    log_level: LogLevel = "info"
    """The least to be logged."""

    def __post_init__(self) -> None:
        if not self.retry_seconds < self.renew_seconds < self.lease_seconds:
            msg = (
                f"retry_seconds ({self.retry_seconds:g}) must be less than renew_seconds ({self.renew_seconds:g}), and "
                f"that less than lease_seconds ({self.lease_seconds:g})"
            )
            raise ConfigurationError(msg)
        if self.concurrency < 1 or self.resync_seconds <= 0 or self.status_writes_per_second <= 0:
            msg = "concurrency, resync_seconds and status_writes_per_second must be above zero"
            raise ConfigurationError(msg)
        for name, allowed in (
            ("log_format", ("json", "console")),
            ("log_level", ("debug", "info", "warning", "error")),
        ):
            if getattr(self, name) not in allowed:
                msg = f"{name} is {getattr(self, name)!r}; it may be {', '.join(allowed)}"
                raise ConfigurationError(msg)

    @property
    def cluster_wide(self) -> bool:
        """Whether all namespaces are looked after."""
        return not self.namespaces

    @property
    def lease(self) -> str:
        """Name of the lease in effect."""
        return f"{self.lease_name}-{self.class_name}" if self.class_name else self.lease_name

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment; the namespace and the pod's name also from `POD_NAMESPACE`, `POD_NAME`.

        Raises `ConfigurationError` naming the variable that is wrong.
        """
        found = os.environ if environ is None else environ
        start: dict[str, str] = {}
        if namespace := found.get("POD_NAMESPACE") or _mounted_namespace():
            start["namespace"] = namespace
        if identity := found.get("POD_NAME"):
            start["identity"] = identity
        return (
            cls()
            .over(start)
            .over(
                {
                    each.name: found[PREFIX + each.name.upper()]
                    for each in fields(cls)
                    if found.get(PREFIX + each.name.upper())
                },
                named=lambda name: PREFIX + name.upper(),
            )
        )

    def over(self, texts: Mapping[str, str], named: "Named" = str) -> Self:
        """Give these settings with some of them read from text. Raises `ConfigurationError`; `named` says of what."""
        values: dict[str, object] = {}
        for name, text in texts.items():
            try:
                values[name] = _read(getattr(type(self), name, getattr(self, name)), text)
            except ValueError as error:
                msg = f"{named(name)} is {text!r}: {error}"
                raise ConfigurationError(msg) from None
        return replace(self, **values)  # type: ignore[arg-type]


Named = Callable[[str], str]


def _read(example: object, text: str) -> object:
    match example:
        case bool():
            lowered = text.strip().lower()
            if lowered in {"1", "true", "yes", "on"}:
                return True
            if lowered in {"0", "false", "no", "off"}:
                return False
            msg = "it is neither true nor false"
            raise ValueError(msg)
        case int() | float():
            try:
                return type(example)(text)
            except ValueError:
                msg = f"it is no {'whole ' if isinstance(example, int) else ''}number"
                raise ValueError(msg) from None
        case tuple():
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case _:
            return text.strip()


def described() -> dict[str, str]:
    """Give what stands below each field of `Settings`, in one line: the help of the flags."""
    statements = ast.parse(inspect.getsource(Settings)).body
    body = statements[0].body if isinstance(statements[0], ast.ClassDef) else []
    return {
        statement.target.id: " ".join(str(text.value.value).split())
        for statement, text in itertools.pairwise(body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _mounted_namespace() -> str:
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
