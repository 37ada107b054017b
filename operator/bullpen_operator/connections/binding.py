"""The Secret by which a queue is reached, and when its password is another one. Pure.

The Secret holds the state: what is in it is what users in Redis are made from, also by an operator that knows nothing else.
While a password is being replaced the one before stays valid, as a hash in an annotation, until everybody has the new one.
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from bullpen.redis.settings import RedisSettings
from bullpen_operator.connections.acl import password_hash
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Object

BINDING_TYPE: Final = "servicebinding.io/redis"
ROTATE_AFTER: Final = timedelta(days=30)
OVERLAP: Final = timedelta(minutes=10)
"""How long the password before stays valid: a kubelet takes up to two minutes to bring a Secret to its pods."""

CONNECTION: Final = "bullpen.dev/connection"
SINCE: Final = "bullpen.dev/password-since"
BEFORE: Final = "bullpen.dev/password-before"
ROTATE: Final = "bullpen.dev/rotate"

_PASSWORD: Final = re.compile(r"[A-Za-z0-9_-]{32,128}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Account:
    """As whom a queue is reached."""

    username: str | None
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What account a queue has now, and what has to be remembered of it."""

    account: Account
    since: datetime | None = None
    """When the password was made; None where it is not ours."""
    before: str | None = None
    """Hash of the password before, while that is valid too."""
    rotated: bool = False
    """Whether the password is another one than before."""
    again: datetime | None = None
    """When there is something to do next."""

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hashes of all passwords that are valid."""
        own = (password_hash(self.account.password),) if self.account.password else ()
        return own if self.before is None else (*own, self.before)


def secret_name(jobqueue: str) -> str:
    """Give the name of a JobQueue's binding."""
    return f"{jobqueue}-binding"


def plan(
    existing: Object | None,
    *,
    username: str,
    connection: str,
    rotate: str,
    now: datetime,
    generate: Callable[[], str],
    rotate_after: timedelta = ROTATE_AFTER,
) -> Plan:
    """Say which password a managed user has: that of the Secret, or a new one.

    A new one where there is none yet, where the queue moved to another connection (whose server knew the old one), when
    `rotate` is another text than the one obeyed last, and after `rotate_after`.
    """
    known = _data(existing)
    notes = _annotations(existing)
    password = known.get("password", "")
    if known.get("username") != username or notes.get(CONNECTION) != connection or not _PASSWORD.fullmatch(password):
        return Plan(Account(username, generate()), now, None, rotated=True, again=now + rotate_after)
    since = _time(notes.get(SINCE, ""), now)
    if rotate != notes.get(ROTATE, "") or now - since >= rotate_after:
        return Plan(Account(username, generate()), now, password_hash(password), rotated=True, again=now + OVERLAP)
    before = notes.get(BEFORE, "")
    if _HASH.fullmatch(before) and now - since < OVERLAP:
        return Plan(Account(username, password), since, before, again=since + OVERLAP)
    return Plan(Account(username, password), since, None, again=since + rotate_after)


def secret(
    *,
    namespace: str,
    jobqueue: str,
    uid: str,
    queue: str,
    prefix: str,
    connection: str,
    rotate: str,
    settings: RedisSettings,
    planned: Plan,
    with_certificate: bool,
) -> Object:
    """Give the Secret. `settings` are the operator's own, of which address and authorities are handed on.

    `with_certificate`: the client's certificate too, where the account is the connection's own.
    """
    account = planned.account
    data = {
        "type": "redis",
        "provider": "bullpen",
        "uri": uri(settings, account),
        "host": settings.host,
        "port": str(settings.port),
        "database": str(settings.db),
        "username": account.username or "",
        "password": account.password or "",
        "prefix": prefix,
        "queue": queue,
    }
    if settings.tls is not None and settings.tls.ca_pem:
        data["ca.crt"] = settings.tls.ca_pem
    if settings.tls is not None and settings.tls.certificate_pem is not None and with_certificate:
        certificate, key = split_pem(settings.tls.certificate_pem.get_secret_value())
        data |= {"tls.crt": certificate, "tls.key": key}
    notes = {CONNECTION: connection}
    if planned.since is not None:
        notes |= {SINCE: planned.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), ROTATE: rotate}
    if planned.before is not None:
        notes[BEFORE] = planned.before
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": BINDING_TYPE,
        "metadata": {
            "name": secret_name(jobqueue),
            "namespace": namespace,
            "labels": {
                kinds.LABEL_NAME: jobqueue,
                kinds.LABEL_COMPONENT: "binding",
                kinds.LABEL_PART_OF: "bullpen",
                kinds.LABEL_MANAGED_BY: kinds.MANAGED_BY,
                kinds.LABEL_JOBQUEUE: jobqueue,
            },
            "annotations": notes,
            "ownerReferences": [
                {
                    "apiVersion": kinds.JOBQUEUE.api_version,
                    "kind": kinds.JOBQUEUE.kind,
                    "name": jobqueue,
                    "uid": uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items() if value},
    }


def same(wanted: Object, existing: Object | None) -> bool:
    """Say whether the Secret is as wanted: its data exactly, and our labels, annotations and owner."""
    if existing is None or existing.get("type") != wanted["type"] or (existing.get("data") or {}) != wanted["data"]:
        return False
    now, then = existing["metadata"], wanted["metadata"]
    ours = {
        name: value
        for name, value in (now.get("annotations") or {}).items()
        if name in {CONNECTION, SINCE, BEFORE, ROTATE}
    }
    labels = now.get("labels") or {}
    return (
        ours == then["annotations"]
        and all(labels.get(name) == value for name, value in then["labels"].items())
        and any(each.get("uid") == then["ownerReferences"][0]["uid"] for each in now.get("ownerReferences") or ())
    )


def is_ours(existing: Object, jobqueue: str) -> bool:
    """Say whether a Secret of a binding's name is one, and not somebody's who took the name first."""
    return (
        existing.get("type") == BINDING_TYPE
        and kinds.labels_of(existing).get(kinds.LABEL_MANAGED_BY) == kinds.MANAGED_BY
        and kinds.labels_of(existing).get(kinds.LABEL_JOBQUEUE) == jobqueue
    )


def uri(settings: RedisSettings, account: Account) -> str:
    """Give the URL, as clients of any language read it."""
    login = ""
    if account.username or account.password:
        login = f"{quote(account.username or '', safe='')}:{quote(account.password or '', safe='')}@"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'redis' if settings.tls is None else 'rediss'}://{login}{host}:{settings.port}/{settings.db}"


def split_pem(pem: str) -> tuple[str, str]:
    """Give the certificates and the key of a PEM that holds both."""
    blocks = re.findall(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", pem, re.DOTALL)
    parts = re.findall(r"-----BEGIN [A-Z0-9 ]+-----.*?-----END [A-Z0-9 ]+-----", pem, re.DOTALL)
    keys = [part for name, part in zip(blocks, parts, strict=True) if name.endswith("PRIVATE KEY")]
    certificates = [part for name, part in zip(blocks, parts, strict=True) if name == "CERTIFICATE"]
    return "\n".join(certificates) + "\n", "\n".join(keys) + "\n"


def _data(existing: Object | None) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in ((existing or {}).get("data") or {}).items():
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except ValueError:
            continue
    return found


def _annotations(existing: Object | None) -> Mapping[str, str]:
    return ((existing or {}).get("metadata") or {}).get("annotations") or {}


def _time(text: str, now: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return now
    return min(found, now) if found.tzinfo is not None else now
