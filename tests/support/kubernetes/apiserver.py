"""A real API server for tests: etcd and kube-apiserver, with controller-manager and scheduler where asked for.

    with apiserver.start(folder) as server:
        server.api().namespace("shop")
        operator = server.service_account("bullpen", "operator")       # a kubeconfig
        server.api().grant(operator.user, [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}])

All is in `folder` and on ports of its own; several run side by side. RBAC is on: a user that nothing was granted to may do
nothing. Every request but those of the control plane is written to the audit log (`tests.support.kubernetes.audit`).

Without controllers no namespace ever finishes terminating, no owner's children are collected, no Deployment makes a
ReplicaSet, and a test writes their status itself. There is no node in either case: pods stay Pending.
"""

import contextlib
import functools
import json
import os
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Authority, Pair
from tests.support.kubernetes import binaries, kubeconfig
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.processes import NotStarted, Process, free_ports

SERVER = ("etcd", "kube-apiserver")
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "None",
            "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"],
        },
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
        {"level": "Request", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True)
class Login:
    """A user of the API, and the file that logs in as that user."""

    user: str
    kubeconfig: Path


class ApiServer:
    """A control plane in processes; made by `start`."""

    def __init__(self, folder: Path, programs: dict[str, Path], *, controllers: bool) -> None:
        self.folder = folder
        self.port, self._etcd_port, self._peer_port, *self._controller_ports = free_ports(5)
        self.url = f"https://127.0.0.1:{self.port}"
        self.audit_log = folder / "audit.log"
        self._programs = programs
        self._clients: dict[Login, Api] = {}
        self._authority = Authority(folder, "kubernetes")
        self.authority = self._authority.certificate
        """The certificate that signed the server's, a PEM file."""
        self.serving = self._authority.issue("kube-apiserver", hosts=("127.0.0.1", "localhost", "10.96.0.1"))
        """What the server shows its clients; a proxy in front of it shows the same."""
        self.front_proxy = self._authority.issue("front-proxy")
        """Who logs in with this speaks for the user that the headers X-Remote-User and X-Remote-Group name."""
        self._tokens = self._authority.issue("service-accounts")
        self.admin = self.login("admin", "system:masters")
        (folder / "audit.yaml").write_text(json.dumps(AUDIT_POLICY))
        self._etcd = self._process("etcd", self._etcd_flags())
        self._server = self._process("kube-apiserver", self._server_flags(controllers=controllers))
        self._controllers = self._controller_processes() if controllers else []

    # --- users

    def login(self, user: str, *groups: str, server: str | None = None) -> Login:
        """A user by certificate, with these groups; `server`: the URL of a proxy in between."""
        name = f"{user}@{server}" if server else user
        folder = self.folder / "users" / name.replace("/", "_").replace(":", "_")
        folder.mkdir(parents=True, exist_ok=True)
        pair = self._authority.issue(user, groups=groups, folder=folder)
        return Login(user, self._kubeconfig(folder / "kubeconfig", user, pair, server))

    def service_account(self, namespace: str, name: str, *, server: str | None = None) -> Login:
        """Who a pod with this ServiceAccount is to RBAC and audit, by certificate; no such object needs to be there."""
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return self.login(f"system:serviceaccount:{namespace}:{name}", *groups, server=server)

    def token(self, namespace: str, name: str, *, seconds: int = 3600) -> str:
        """A token of a ServiceAccount, as a pod has it; the account and its namespace are made where missing."""
        api = self.api()
        api.namespace(namespace)
        meta = {"name": name, "namespace": namespace}
        api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        path = api.path("v1", "ServiceAccount", namespace, name, subresource="token")
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        token: str = api.request("POST", path, request)["status"]["token"]
        return token

    def api(self, login: Login | None = None) -> Api:
        """A client as this user; as the cluster's administrator where none is given. It ends with the server."""
        login = login or self.admin
        return self._clients.setdefault(login, Api(login.kubeconfig))

    def kubectl(self, *arguments: str, login: Login | None = None, stdin: str | None = None) -> str:
        """Run kubectl, and give what it printed; raises `CalledProcessError` with its output where it fails."""
        program = binaries.ensure("kubectl")["kubectl"]
        command = [str(program), "--kubeconfig", str((login or self.admin).kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, text=True, capture_output=True, check=True, timeout=60).stdout

    # --- life

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Hold the server's process where it stands: connections stay, and nothing answers."""
        pid = self._server.pid
        assert pid is not None, "it does not run"
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def start(self) -> None:
        """Start all that does not run, and wait until the API is ready. Data of an earlier start are there again."""
        if self._etcd.pid is None:
            self._etcd.launch()
            self._etcd.wait_ready(lambda: _answers(f"http://127.0.0.1:{self._etcd_port}/health"))
        if self._server.pid is None:
            self._server.launch()
            self._server.wait_ready(self.api().ready)
        idle = [(p, port) for p, port in zip(self._controllers, self._controller_ports, strict=False) if p.pid is None]
        for process, _ in idle:
            process.launch()
        for process, port in idle:
            process.wait_ready(functools.partial(_answers, f"https://127.0.0.1:{port}/healthz"))

    def stop(self) -> None:
        """End the API server and all that hangs on it, as in an outage; etcd keeps what was written. `start` ends it."""
        for process in (*self._controllers, self._server):
            process.stop()

    def kill(self) -> None:
        """The same without warning: connections are reset, not closed."""
        for process in (*self._controllers, self._server):
            process.kill()

    def close(self) -> None:
        """End everything."""
        for client in self._clients.values():
            client.close()
        self.kill()
        self._etcd.kill()

    # --- inside

    def _process(self, name: str, flags: list[str]) -> Process:
        return Process(name, [str(self._programs[name]), *flags], self.folder / f"{name}.log")

    def _kubeconfig(self, path: Path, user: str, pair: Pair, server: str | None = None) -> Path:
        return kubeconfig.write(path, server=server or self.url, authority=self.authority, user=user, credentials=pair)

    def _etcd_flags(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _server_flags(self, *, controllers: bool) -> list[str]:
        flags = [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.serving.certificate}",
            f"--tls-private-key-file={self.serving.key}",
            f"--client-ca-file={self.authority}",
            f"--requestheader-client-ca-file={self.authority}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._tokens.certificate}",
            f"--service-account-signing-key-file={self._tokens.key}",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--profiling=false",
            f"--audit-policy-file={self.folder / 'audit.yaml'}",
            f"--audit-log-path={self.audit_log}",
            "--shutdown-delay-duration=0s",
        ]
        if not controllers:  # nothing makes the `default` accounts that pods would need
            flags.append("--disable-admission-plugins=ServiceAccount")
        return flags

    def _controller_processes(self) -> list[Process]:
        manager = self.login("system:kube-controller-manager").kubeconfig
        scheduler = self.login("system:kube-scheduler").kubeconfig
        manager_port, scheduler_port = self._controller_ports
        return [
            self._process(
                "kube-controller-manager",
                [
                    *_controller_flags(manager, manager_port),
                    f"--service-account-private-key-file={self._tokens.key}",
                    f"--root-ca-file={self.authority}",
                    "--use-service-account-credentials=true",
                    "--pvclaimbinder-sync-period=1s",  # a claim whose volume is not known yet is looked at again
                    "--controllers=*,-nodeipam,-node-route-controller,-cloud-node-lifecycle-controller",
                    "--concurrent-gc-syncs=5",
                ],
            ),
            self._process("kube-scheduler", _controller_flags(scheduler, scheduler_port)),
        ]


def _answers(url: str) -> bool:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=2, context=trusting):
            return True
    except OSError:
        return False


def _controller_flags(login: Path, port: int) -> list[str]:
    return [
        f"--kubeconfig={login}",
        f"--authentication-kubeconfig={login}",
        f"--authorization-kubeconfig={login}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
    ]


@contextlib.contextmanager
def start(folder: Path, *, controllers: bool = False, attempts: int = 3) -> Iterator[ApiServer]:
    """Give a running API server, all of it in `folder`, ended at the end.

    Raises `binaries.Missing` where its programs are neither there nor can be built.
    """
    programs = binaries.ensure(*SERVER, *(CONTROLLERS if controllers else ()))
    server = _started(folder, programs, controllers=controllers, attempts=attempts)
    try:
        yield server
    finally:
        server.close()


def _started(folder: Path, programs: dict[str, Path], *, controllers: bool, attempts: int) -> ApiServer:
    room = folder / str(attempts)
    room.mkdir(parents=True)
    server = ApiServer(room, programs, controllers=controllers)
    try:
        server.start()
    except BaseException as failure:
        server.close()
        if isinstance(failure, NotStarted) and attempts > 1:  # somebody else may have taken one of the ports
            return _started(folder, programs, controllers=controllers, attempts=attempts - 1)
        raise
    return server
