"""Reads and writes objects of the API server, as plain dicts, over `kubernetes.aio`.

One `Kube` belongs to one event loop and holds one pool of connections; any number of tasks may use it at once. A request
is tried again, after a pause with jitter, where the connection failed or the server said 429 or 5xx; all requests are
such that a second time does no harm. A conflict is the caller's: it has to read again and decide again. Before each
attempt to write the `fence` is asked, so that an operator that was frozen and wakes up as one that leads no more sends
nothing.
"""

import asyncio
import json
import random as randomness
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    NotLeading,
    TooLarge,
    Unavailable,
)
from bullpen_operator.kube.kinds import Kind, Object

ATTEMPTS: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 15.0
LARGEST_REPLY_BYTES: Final = 32 << 20
PAGE: Final = 500
"""Objects of one reply to a list; fewer where they are so large that the reply would be too large."""
_SMALLER: Final = 8
"""What a page is divided by that came out too large."""

_MESSAGE_LENGTH: Final = 1_000
_JSON: Final = "application/json"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_APPLY: Final = "application/apply-patch+yaml"
_JSON_PATCH: Final = "application/json-patch+json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_NOT_ITS_TYPE: Final = "failed to create typed patch object"
"""How the API server says, as 500, that what is applied has a field that there is not, or one of another type."""
_NOT_REACHED: Final = (aiohttp.ClientError, TimeoutError, OSError, ConfigException)
"""What keeps a request from being made or answered; the last: the file of the token is empty at this moment."""
_ERRORS: Final[dict[int, type[KubeError]]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: Invalid,
}

Fence = Callable[[], bool]
"""Whether writing is allowed now. Asked before each attempt to write."""


class Kube:
    """A client of one API server. Closed by leaving it as a context, or by `close`.

    `fence` absent: writes are always allowed (the lease itself, the command line, tests).
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        fence: Fence | None = None,
        random: Callable[[], float] = randomness.random,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        configuration.retries = None
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._api = ApiClient(configuration)
        self._api.user_agent = "bullpen-operator"
        self._fence = fence
        self._random = random
        self._timeout = aiohttp.ClientTimeout(total=request_seconds, connect=min(request_seconds, 5.0))
        self.writes = 0
        """Writes that were sent, dry runs left out; attempts count one by one."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()  # type: ignore[no-untyped-call]

    # -- reading -------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give an object; None where there is none. Raises `KubeError`."""
        try:
            return await self._call("GET", kind.path(namespace, name))
        except NotFound:
            return None

    async def list(self, kind: Kind, namespace: str = "", labels: str = "") -> Sequence[Object]:
        """Give all objects of a kind, of one namespace or of all. Raises `KubeError`."""
        found, _ = await self.list_at(kind, namespace, labels)
        return found

    async def list_at(
        self, kind: Kind, namespace: str = "", labels: str = "", *, accept: str = _JSON
    ) -> tuple[Sequence[Object], str]:
        """Give all objects of a kind, and the resource version that they are of. Raises `KubeError`."""
        items: list[Object] = []
        query = [("labelSelector", labels)] if labels else []
        token, limit = "", PAGE
        while True:
            more = [*query, ("limit", str(limit)), *([("continue", token)] if token else [])]
            try:
                page = await self._call("GET", kind.path(namespace), query=more, accept=accept)
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // _SMALLER)
                continue
            for item in page.get("items") or ():
                item["apiVersion"], item["kind"] = kind.api_version, kind.kind
                items.append(item)
            metadata = page.get("metadata") or {}
            token = metadata.get("continue") or ""
            if not token:
                return items, metadata.get("resourceVersion") or ""

    async def list_metadata(self, kind: Kind, namespace: str = "", labels: str = "") -> Sequence[Object]:
        """Give all objects of a kind with nothing but their `metadata`, for where the rest is not needed. Raises `KubeError`."""
        found, _ = await self.list_at(kind, namespace, labels, accept=_METADATA_LIST)
        return found

    # -- writing -------------------------------------------------------------------------------------------------

    async def apply(
        self, obj: Object, manager: str = kinds.MANAGER, *, force: bool = True, dry_run: bool = False
    ) -> Object:
        """Apply an object on the server's side: the manager owns what stands in it, and no more. Give what became of it.

        Raises `Conflict` where it carries a `resourceVersion` that is no longer the object's, and other `KubeError`.
        """
        return await self._apply(obj, "", manager, force=force, dry_run=dry_run)

    async def apply_status(self, obj: Object, manager: str = kinds.STATUS_MANAGER) -> Object:
        """Apply the status of an object; what else stands in it is only to find it. Raises `KubeError`."""
        return await self._apply(obj, "status", manager, force=True, dry_run=False)

    async def apply_scale(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        replicas: int,
        resource_version: str = "",
        *,
        manager: str = kinds.SCALER_MANAGER,
    ) -> Object:
        """Set the replicas of a target through its scale subresource, and own them.

        With the `resource_version` that was decided on; raises `Conflict` where the target is no longer of that one.
        """
        metadata = {"name": name, "namespace": namespace}
        if resource_version:
            metadata["resourceVersion"] = resource_version
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": replicas}}
        query = [("fieldManager", manager), ("force", "true")]
        path = kind.path(namespace, name, "scale")
        return await self._call("PATCH", path, query=query, body=scale, content_type=_APPLY)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object:
        """Change an object by a merge patch: None removes a field. Raises `KubeError`."""
        return await self._call("PATCH", kind.path(namespace, name), body=patch, content_type=_MERGE_PATCH)

    async def annotate(self, kind: Kind, namespace: str, name: str, annotations: dict[str, str | None]) -> Object:
        """Set annotations, and remove those that are None. Raises `KubeError`."""
        return await self.merge(kind, namespace, name, {"metadata": {"annotations": annotations}})

    async def patch_json(self, kind: Kind, namespace: str, name: str, operations: Sequence[Object]) -> Object:
        """Change an object by JSON Patch; an operation `test` makes it conditional (`Invalid`). Raises `KubeError`."""
        path = kind.path(namespace, name)
        return await self._call("PATCH", path, body=list(operations), content_type=_JSON_PATCH)

    async def create(self, obj: Object) -> Object:
        """Make an object. Raises `Conflict` where there is one of this name, and other `KubeError`."""
        kind = kinds.kind_of(obj)
        return await self._call("POST", kind.path(obj["metadata"].get("namespace", "")), body=obj)

    async def replace(self, obj: Object) -> Object:
        """Replace an object by one that carries its resource version. Raises `Conflict`, and other `KubeError`."""
        kind = kinds.kind_of(obj)
        metadata = obj["metadata"]
        return await self._call("PUT", kind.path(metadata.get("namespace", ""), metadata["name"]), body=obj)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str = "") -> bool:
        """Delete an object, where given only the one of this uid. False where there is none. Raises `KubeError`."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", kind.path(namespace, name), body=body)
        except NotFound:
            return False
        return True

    async def _apply(self, obj: Object, subresource: str, manager: str, *, force: bool, dry_run: bool) -> Object:
        kind = kinds.kind_of(obj)
        metadata = obj["metadata"]
        query = [("fieldManager", manager)]
        if force:
            query.append(("force", "true"))
        if dry_run:
            query.append(("dryRun", "All"))
        path = kind.path(metadata.get("namespace", ""), metadata["name"], subresource)
        return await self._call("PATCH", path, query=query, body=obj, content_type=_APPLY, dry_run=dry_run)

    # -- requests ------------------------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        dry_run: bool = False,
    ) -> Object:
        what = f"{method} {path}"
        failure: KubeError = Unavailable(f"{what}: not tried")
        for attempt in range(ATTEMPTS):
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 4**attempt) * (0.5 + self._random())
            if method != "GET" and not dry_run:
                if self._fence is not None and not self._fence():
                    msg = f"{what}: not sent, this operator does not lead"
                    raise NotLeading(msg)
                self.writes += 1
            try:
                status, headers, data = await self._send(method, path, query, body, (accept, content_type))
            except _ReplyTooLarge as error:
                msg = f"{what}: {error}"
                raise TooLarge(msg) from None
            except _NOT_REACHED as error:
                failure = Unavailable(f"{what}: {_brief(error)}")
            else:
                if status < 300:
                    return data
                failure = _failure(what, status, data)
                if status == 401:
                    failure = Unavailable(str(failure), status=status, reason=failure.reason)
                elif not isinstance(failure, Unavailable):
                    raise failure
                pause = max(pause, _retry_after(headers))
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(pause)
        raise failure

    async def _send(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: object, types: tuple[str, str]
    ) -> tuple[int, "aiohttp.typedefs.LooseHeaders", Object]:
        verb, url, headers, _, _ = await self._api.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={"Accept": types[0], "Content-Type": types[1]},
            auth_settings=["BearerToken"],
        )
        response = await self._api.call_api(verb, url, headers, body=body, _request_timeout=self._timeout)
        answer: aiohttp.ClientResponse = response.response
        try:
            raw = await _bounded(answer)
        finally:
            answer.release()
        try:
            data = json.loads(raw) if raw else {}
        except (ValueError, RecursionError) as error:
            if answer.status < 300:
                msg = f"the reply cannot be read: {type(error).__name__}"
                raise aiohttp.ClientPayloadError(msg) from None
            data = {}
        return answer.status, answer.headers, data if isinstance(data, dict) else {}


class _ReplyTooLarge(Exception):
    """More came than is read."""


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > LARGEST_REPLY_BYTES:
            answer.close()
            msg = f"the reply is larger than {LARGEST_REPLY_BYTES >> 20} MiB"
            raise _ReplyTooLarge(msg)
        parts.append(part)
    return b"".join(parts)


def _failure(what: str, status: int, data: Object) -> KubeError:
    reason = str(data.get("reason") or "")
    message = str(data.get("message") or f"HTTP {status}")[:_MESSAGE_LENGTH]
    kind = _ERRORS.get(status, KubeError)
    if status == 429 or status >= 500:
        kind = Invalid if message.startswith(_NOT_ITS_TYPE) else Unavailable
    return kind(f"{what}: {message}", status=status, reason=reason)


def _retry_after(headers: Any) -> float:  # aiohttp's own multidict
    try:
        return min(LONGEST_PAUSE_SECONDS, max(0.0, float(headers.get("Retry-After", 0))))
    except ValueError:
        return 0.0


def _brief(error: BaseException) -> str:
    return str(error) or type(error).__name__
