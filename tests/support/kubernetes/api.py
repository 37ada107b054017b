"""A small client for tests: plain dicts over HTTPS, one request at a time."""

import base64
import functools
import http.client
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import yaml

Object = dict[str, Any]

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

_IDLE_S = 20.0
"""A connection that was kept for longer may have been ended by the server, which a request that is no read would not survive."""


class ApiError(Exception):
    """The API server said no."""

    def __init__(self, status: int, body: Object, what: str) -> None:
        super().__init__(f"{what}: {status} {body.get('reason', '')}: {body.get('message', body)}")
        self.status = status
        self.body = body
        self.reason: str = body.get("reason", "")
        self.message: str = body.get("message", "")


class Api:
    """Requests as one user. Safe to use from several threads."""

    def __init__(self, kubeconfig: Path, *, timeout_s: float = 30.0) -> None:
        self.kubeconfig = kubeconfig
        content = yaml.safe_load(kubeconfig.read_text())
        context = next(c["context"] for c in content["contexts"] if c["name"] == content["current-context"])
        cluster = next(c["cluster"] for c in content["clusters"] if c["name"] == context["cluster"])
        user = next(u["user"] for u in content["users"] if u["name"] == context["user"])
        self._url = urlsplit(cluster["server"])
        self._timeout_s = timeout_s
        self.headers = {"Accept": "application/json"}
        """What each request carries."""
        if "token" in user:
            self.headers["Authorization"] = f"Bearer {user['token']}"
        self._tls = _tls(cluster, user)
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0

    # --- plain requests

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        **query: str | int | bool | None,
    ) -> Object:
        """Send one request and give the answer; raises `ApiError` for any status from 400 on."""
        status, data = self._send(method, _with_query(path, query), body, content_type)
        try:
            answer: Object = json.loads(data)
        except ValueError:
            answer = {"message": data.decode(errors="replace")}
        if status >= 400:
            raise ApiError(status, answer, f"{method} {path}")
        return answer

    def text(self, path: str) -> str:
        """What is at this path, as it came: /metrics, a pod's log, /readyz."""
        status, data = self._send("GET", path, None, "application/json")
        if status >= 400:
            raise ApiError(status, {"message": data.decode(errors="replace")}, f"GET {path}")
        return data.decode(errors="replace")

    def ready(self) -> bool:
        """Whether the API server answers, and says that it is ready."""
        try:
            return self.text("/readyz") == "ok"
        except (ApiError, OSError, http.client.HTTPException):
            return False

    # --- objects

    def path(self, version: str, kind: str, namespace: str = "", name: str = "", *, subresource: str = "") -> str:
        """Where an object, or with no name the list of them, is found."""
        plural, namespaced = self._resource(version, kind)
        parts = [_root(version)]
        if namespaced and namespace:
            parts += ["namespaces", quote(namespace)]
        parts.append(plural)
        parts += [quote(part) for part in (name, subresource) if part]
        return "/".join(parts)

    def get(self, version: str, kind: str, namespace: str, name: str, *, subresource: str = "") -> Object:
        """Read one object."""
        return self.request("GET", self.path(version, kind, namespace, name, subresource=subresource))

    def find(self, version: str, kind: str, namespace: str, name: str) -> Object | None:
        """Read one object; None where there is none."""
        try:
            return self.get(version, kind, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, version: str, kind: str, namespace: str = "", *, labels: str = "") -> list[Object]:
        """All objects of a kind: of a namespace, or of all."""
        path = self.path(version, kind, namespace)
        items: list[Object] = self.request("GET", path, labelSelector=labels or None)["items"]
        return items

    def create(self, object: Object, *, dry_run: bool = False) -> Object:
        """POST an object. Fields that the API does not know are refused."""
        path = self.path(object["apiVersion"], object["kind"], _namespace(object))
        return self.request("POST", path, object, fieldValidation="Strict", dryRun="All" if dry_run else None)

    def apply(self, object: Object, *, manager: str = "tests", force: bool = True, subresource: str = "") -> Object:
        """Server-side apply."""
        path = self.path(
            object["apiVersion"],
            object["kind"],
            _namespace(object),
            object["metadata"]["name"],
            subresource=subresource,
        )
        return self.request("PATCH", path, object, content_type=APPLY, fieldManager=manager, force=force)

    def patch(
        self,
        version: str,
        kind: str,
        namespace: str,
        name: str,
        change: object,
        *,
        content_type: str = MERGE,
        subresource: str = "",
    ) -> Object:
        """A merge patch, or another by its content type."""
        path = self.path(version, kind, namespace, name, subresource=subresource)
        return self.request("PATCH", path, change, content_type=content_type)

    def delete(self, version: str, kind: str, namespace: str, name: str, *, propagation: str = "Background") -> None:
        """Delete an object; no error where there is none."""
        try:
            self.request("DELETE", self.path(version, kind, namespace, name), propagationPolicy=propagation)
        except ApiError as error:
            if error.status != 404:
                raise

    # --- what tests need often

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Make a namespace, or set its labels; gives its name."""
        meta = {"name": name, "labels": dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        return name

    def install(self, documents: str | Iterable[Object], *, within_s: float = 30.0) -> None:
        """Apply YAML, or objects, in their order; definitions of kinds are waited for."""
        objects = yaml.safe_load_all(documents) if isinstance(documents, str) else documents
        for document in filter(None, objects):
            self.apply(document)
            if document["kind"] == "CustomResourceDefinition":
                self._wait_served(document, within_s)

    def grant(self, user: str, rules: Iterable[Object], *, namespace: str = "") -> None:
        """Let `user` do what these RBAC rules say: in a namespace, or with none given in the cluster.

        A service account is named as the API server names it: system:serviceaccount:NAMESPACE:NAME.
        """
        kind = "Role" if namespace else "ClusterRole"
        name = user.replace(":", "-").lower()
        group = "rbac.authorization.k8s.io"
        meta = {"name": name} | ({"namespace": namespace} if namespace else {})
        version = f"{group}/v1"
        self.apply({"apiVersion": version, "kind": kind, "metadata": meta, "rules": list(rules)})
        self.apply(
            {
                "apiVersion": version,
                "kind": f"{kind}Binding",
                "metadata": meta,
                "roleRef": {"apiGroup": group, "kind": kind, "name": name},
                "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
            }
        )

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection of the caller's own, for a request that takes long; send `headers` with it."""
        host, port = self._url.hostname or "127.0.0.1", self._url.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)

    # --- inside

    def _wait_served(self, definition: Object, within_s: float) -> None:
        spec = definition["spec"]
        deadline = time.monotonic() + within_s
        while True:
            found = self.get(definition["apiVersion"], definition["kind"], "", definition["metadata"]["name"])
            states = {c["type"]: c["status"] for c in found["status"].get("conditions") or []}
            version = f"{spec['group']}/{spec['versions'][0]['name']}"
            if states.get("Established") == "True" and self._discover(version, spec["names"]["kind"]):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{definition['metadata']['name']} is not served after {within_s} s: {states}")
            time.sleep(0.05)

    @functools.cached_property
    def _resources(self) -> dict[tuple[str, str], tuple[str, bool]]:
        return {}

    def _resource(self, version: str, kind: str) -> tuple[str, bool]:
        known = self._resources.get((version, kind)) or self._discover(version, kind)
        if known is None:
            raise ApiError(404, {"message": f"no kind {kind} in {version}"}, "discovery")
        return known

    def _discover(self, version: str, kind: str) -> tuple[str, bool] | None:
        try:
            served = self.request("GET", _root(version))["resources"]
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        for resource in served:
            if "/" not in resource["name"]:
                self._resources[version, resource["kind"]] = (resource["name"], resource["namespaced"])
        return self._resources.get((version, kind))

    def _send(self, method: str, path: str, body: object, content_type: str) -> tuple[int, bytes]:
        headers = self.headers | ({"Content-Type": content_type} if body is not None else {})
        data = None if body is None else json.dumps(body).encode()
        with self._lock:
            if time.monotonic() - self._used > _IDLE_S and self._connection is not None:
                self._connection.close()
                self._connection = None
            for attempt in (1, 2):  # a kept connection may have ended meanwhile
                self._used = time.monotonic()
                fresh = self._connection is None
                connection = self._connection = self._connection or self.connect(self._timeout_s)
                try:
                    connection.request(method, path, data, headers)
                    answer = connection.getresponse()
                    return answer.status, answer.read()
                except (OSError, http.client.HTTPException):
                    connection.close()
                    self._connection = None
                    if fresh or attempt == 2 or method not in ("GET", "PATCH"):
                        raise
        raise AssertionError

    def close(self) -> None:
        """End the connection that is kept."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _tls(cluster: Mapping[str, str], user: Mapping[str, str]) -> ssl.SSLContext | None:
    if not cluster["server"].startswith("https:"):
        return None
    context = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"),
        cadata=_decoded(cluster.get("certificate-authority-data")),
    )
    if "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder) / "crt", Path(folder) / "key"
            certificate.write_text(_decoded(user["client-certificate-data"]) or "")
            key.write_text(_decoded(user["client-key-data"]) or "")
            context.load_cert_chain(certificate, key)
    elif "client-certificate" in user:
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    return context


def _decoded(value: str | None) -> str | None:
    return None if value is None else base64.b64decode(value).decode()


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _namespace(object: Object) -> str:
    namespace: str = object["metadata"].get("namespace", "")
    return namespace


def _with_query(path: str, query: Mapping[str, str | int | bool | None]) -> str:
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
        if value is not None
    }
    return f"{path}?{urlencode(given)}" if given else path
