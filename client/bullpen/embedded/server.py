"""The embedded Redis as a process.

Who holds what: the caller's process owns a `Server`; the server is its child in a session of its own, so that Ctrl-C
in a terminal reaches the caller alone, which stops its workers first. A guard, a sleeping shell beside the server,
reads a pipe from the caller: when the caller is gone, however it ended, the guard ends the server. The lock on the
data directory is a file lock that all three hold: it is free when the last of them is gone.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from bullpen import errors
from bullpen.embedded import binary as binaries

START_TIMEOUT_SECONDS = 30.0
LOADING_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 10.0
_LOCK_PATIENCE_SECONDS = 3.0
_LONGEST_SOCKET_PATH = 100  # the kernel's own limit is 108 with the final zero, 104 on macOS
_LOG_LIMIT_BYTES = 1 << 20
_PAUSE_SECONDS = 0.01
_PORT_TRIES = 5

# $$ is the server's process id: the shell becomes the server by exec. The background shell is the guard; "done" on
# its pipe means that the server was ended on purpose (its process id may be somebody else's by then). The arguments:
# temporary folders that go with the server, "--", the server's command.
_LAUNCH = """
exec 3<&0 </dev/null
(
    read -r word <&3
    if test "$word" != done; then
        kill -TERM $$; kill -CONT $$; left=100
        while kill -0 $$ && test $left -gt 0; do sleep 0.1 || sleep 1; left=$((left - 1)); done
        kill -KILL $$
        for folder; do test "$folder" = -- && break; rm -rf -- "$folder"; done
    fi
) >/dev/null 2>&1 &
while test "$1" != --; do shift; done
shift
exec "$@" 3<&-
"""


class EmbeddedRedisError(errors.BullpenError):
    """The embedded Redis could not start, or its data directory is in use; the message says why."""


class Server:
    """A redis-server of our own; see `start`. Use it as a context manager, or call `stop`.

    Methods block for milliseconds, at worst for the timeouts above; from a coroutine call them in a thread.
    """

    def __init__(
        self, data: Path | None, *, unix: bool, binary: binaries.Binary, config: Mapping[str, str], password: str | None
    ) -> None:
        self.binary = binary
        self._temporary = [] if data is not None else [Path(tempfile.mkdtemp(prefix="bullpen-"))]
        self.data = data.absolute() if data is not None else self._temporary[0]
        """The directory with the append-only file, the log and, where its path is short enough, the socket."""
        self._config = dict(config)
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._unix = unix
        self._socket: Path | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The address for clients: ``unix:///…`` or ``redis://127.0.0.1:port/0``. It stays over restarts."""
        auth = f":{quote(self._password, safe='')}@" if self._password else ""
        if self._socket is not None:
            return f"unix://{auth}{quote(str(self._socket))}"
        return f"redis://{auth}127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The server's process id. Raises `EmbeddedRedisError` when it does not run."""
        if self._process is None:
            msg = f"the embedded Redis in {self.data} does not run"
            raise EmbeddedRedisError(msg)
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """Redis' own log."""
        return self.data / "redis.log"

    def start(self) -> None:
        """Start the server and wait until it answers. Does nothing when it runs."""
        if self.running:
            return
        self._take_lock()
        try:
            self._refuse_newer_data()
            fresh = not self._unix and self._port == 0
            for left in reversed(range(_PORT_TRIES if fresh else 1)):
                self._choose_address()
                try:
                    self._launch()
                    break
                except EmbeddedRedisError as error:
                    if left == 0 or "Address already in use" not in str(error):
                        raise
                    # Somebody took the port between our look and Redis' bind.
                    self._ended()
                    self._port = 0
        except BaseException:
            self.stop()
            raise

    def stop(self, *, timeout: float = STOP_TIMEOUT_SECONDS) -> None:
        """End the server: SIGTERM, on which it writes what it has, and SIGKILL after `timeout` seconds. Idempotent.

        Temporary data goes with it.
        """
        self._terminate(timeout)
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        for folder in self._temporary:
            shutil.rmtree(folder, ignore_errors=True)

    def restart(self) -> None:
        """Stop the server, if it runs, and start it again: same address, same data."""
        self._terminate(STOP_TIMEOUT_SECONDS)
        self.start()

    def kill(self) -> None:
        """End the server at once with SIGKILL, as a crash would. `restart` brings it back."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        self._ended()

    def freeze(self) -> None:
        """Stop the process where it is (SIGSTOP): its sockets stay open and take bytes, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Remove every key of every database."""
        reply = self.execute(b"FLUSHALL")
        if not reply.startswith(b"+OK"):
            msg = f"the embedded Redis in {self.data} refused FLUSHALL: {reply[:200]!r}"
            raise EmbeddedRedisError(msg)

    def execute(self, *words: bytes, timeout: float = 30.0) -> bytes:
        """Send one command on a connection of its own and give the first bytes of the raw reply."""
        packed = b""
        if self._password:
            packed += _packed(b"AUTH", self._password.encode())
        with self._connect(timeout) as connection:
            connection.sendall(packed + _packed(*words))
            reply = connection.recv(65_536)
            if packed:
                status, _, reply = reply.partition(b"\r\n")
                reply = reply or (status if status.startswith(b"-") else connection.recv(65_536))
        return reply

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        return f"{self.binary} at {self._socket or f'127.0.0.1:{self._port}'}"

    # -- parts of start ----------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        """Hold the data directory. A predecessor that is on its way out is waited for."""
        if self._lock is not None:
            return
        try:
            for folder in self._temporary:
                folder.mkdir(mode=0o700, exist_ok=True)
            self.data.mkdir(parents=True, exist_ok=True)
            # Beyond the single digits, which the launching shell uses for its own.
            with (self.data / "redis.lock").open("a+") as opened:
                lock = os.fdopen(fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 10), "a+")
        except OSError as error:
            msg = f"{self.data} cannot hold the Redis data: {error.strerror or error}; name another directory"
            raise EmbeddedRedisError(msg) from error
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EACCES}:
                    lock.close()
                    raise
                if time.monotonic() > deadline:
                    lock.seek(0)
                    holder = lock.read().strip() or "another process"
                    lock.close()
                    msg = (
                        f"the Redis data in {self.data} is in use by {holder}: stop that one, or name another directory"
                    )
                    raise EmbeddedRedisError(msg) from None
                time.sleep(_PAUSE_SECONDS)
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        self._lock = lock

    def _refuse_newer_data(self) -> None:
        """Redis before 7 does not see the files that 7 writes: it would start empty, and that would look like a loss."""
        if self.binary.version < (7, 0, 0) and (self.data / "appendonlydir").exists():
            msg = (
                f"the data in {self.data} was written by Redis 7 or newer, and {self.binary} cannot read it: "
                f"name the newer server in {binaries.ENVIRONMENT}, or remove the directory to begin anew"
            )
            raise EmbeddedRedisError(msg)

    def _choose_address(self) -> None:
        if self._unix and self._socket is None:
            path = self.data / "redis.sock"
            if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
                folder = Path(tempfile.mkdtemp(prefix="bullpen-", dir="/tmp"))
                self._temporary.append(folder)
                path = folder / "redis.sock"
            self._socket = path
        if self._socket is not None:
            # Nobody else can listen there: the lock is ours. What a killed server left is no use to anyone.
            self._socket.unlink(missing_ok=True)
        elif self._port == 0:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._port = probe.getsockname()[1]

    def _launch(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.log.unlink()
        lock = self._lock
        with self.log.open("ab") as log:  # what is wrong with its configuration it says before it opens its log
            self._process = subprocess.Popen(  # noqa: S603 - a program that was found and asked for its version
                ["/bin/sh", "-c", _LAUNCH, "redis", *map(str, self._temporary), "--", *self._command()],
                cwd=self.data,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if lock is None else (lock.fileno(),),
            )
        began = time.monotonic()
        loading = False
        while True:
            if self._process.poll() is not None:
                msg = (
                    f"{self.binary} ended at once (exit {self._process.returncode}). Its log says:\n{self._log_tail()}"
                )
                raise EmbeddedRedisError(msg)
            reply = self._ping()
            if reply.startswith((b"+PONG", b"-NOAUTH", b"-WRONGPASS", b"-NOPERM")):
                return
            loading = loading or reply.startswith(b"-LOADING")
            limit = LOADING_TIMEOUT_SECONDS if loading else START_TIMEOUT_SECONDS
            if time.monotonic() - began > limit:
                msg = f"{self.binary} did not answer within {limit:.0f} s. Its log says:\n{self._log_tail()}"
                raise EmbeddedRedisError(msg)
            time.sleep(_PAUSE_SECONDS)

    def _command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": str(self.data),
            "daemonize": "no",
            "logfile": str(self.log),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        if self._socket is not None:
            options |= {"unixsocket": str(self._socket), "unixsocketperm": "700"}
        if self._password:
            options["requirepass"] = self._password
        options |= self._config
        command = [str(self.binary.path)]
        for name, value in options.items():
            # Some options take several words; an empty value is a word too (`save ""`).
            command += [f"--{name}", *(value.split() or [""])] if name not in _WHOLE else [f"--{name}", value]
        return command

    # -- parts of stop -----------------------------------------------------------------------------------------

    def _terminate(self, timeout: float) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._ended()

    def _ended(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"done\n")
                process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    # -- talking -----------------------------------------------------------------------------------------------

    def _connect(self, timeout: float) -> socket.socket:
        if self._socket is None:
            return socket.create_connection(("127.0.0.1", self._port), timeout)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(str(self._socket))
        except OSError:
            connection.close()
            raise
        return connection

    def _ping(self) -> bytes:
        try:
            return self.execute(b"PING", timeout=1.0)
        except OSError:
            return b""

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-8:]
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(f"  {line}" for line in lines)


_WHOLE = frozenset({"dir", "logfile", "unixsocket", "requirepass", "aclfile"})


def _packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def start(
    data: Path | str | None = None,
    *,
    unix: bool = True,
    binary: binaries.Binary | None = None,
    config: Mapping[str, str] | None = None,
    password: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Server:
    """Give a running embedded Redis, bound to a unix socket or (`unix=False`) to a free port of the loopback.

    Data lies in `data` between runs (append-only file, flushed each second); without `data` in a temporary directory
    that goes with the server. `config` adds or replaces Redis settings; `say` hears about a server that has to be
    fetched or compiled first. Raises `EmbeddedRedisError`, among others when another process uses `data`, and
    `ConfigurationError` when no server can be found.
    """
    server = Server(
        None if data is None else Path(data),
        unix=unix,
        binary=binary or binaries.find(say=say),
        config=config or {},
        password=password,
    )
    try:
        server.start()
    except BaseException:
        server.stop()
        raise
    return server
