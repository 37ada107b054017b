"""Service bindings: for each queue a folder that says where its Redis is, as whom, and with which prefix.

The folders stand under ``$SERVICE_BINDING_ROOT``, as https://servicebinding.io/spec/core/1.1.0/ wants them; files are
``type`` (``redis``), ``uri`` or ``host`` and ``port``, ``username``, ``password``, ``database``, ``ca.crt``, ``tls.crt``,
``tls.key``, and of ours ``queue`` and ``prefix``. A folder of another type, or one that names no queue, is somebody else's.

Kubernetes changes a mounted Secret by moving the link ``..data`` to a new folder; all files of one reading come from the same.
No error repeats what a file holds.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bullpen import errors
from bullpen.redis import address
from bullpen.redis.settings import LARGEST_FILE, RedisSettings

FILES: Final = (
    *("type", "uri", "host", "port", "username", "password", "database", "prefix", "queue"),
    *("ca.crt", "tls.crt", "tls.key"),
)
_OURS: Final = frozenset({"queue", "prefix"})
_MOST_FOLDERS: Final = 1_000
_LOOK_SECONDS: Final = 1.0
_READS: Final = 3


@dataclass(frozen=True)
class Binding:
    """One folder, read."""

    folder: Path
    queue: str
    settings: RedisSettings


def read(folder: Path) -> Binding | None:
    """Read a folder; None where it is no binding of a queue. Raises `ConfigurationError` for half a one."""
    files = _files(folder)
    if files.get("type", "redis") != "redis" or not _OURS & files.keys():
        return None
    named = f"the binding {folder}"
    missing = [name for name in ("type", "queue", "prefix") if not files.get(name)]
    if not files.get("uri") and not files.get("host"):
        missing.append("uri or host")
    if missing:
        msg = f"{named} is half a one: it has no {', no '.join(missing)}"
        raise errors.ConfigurationError(msg)
    return Binding(folder, files["queue"], _settings(folder, files, named))


def scan(root: Path) -> tuple[Mapping[str, Binding], tuple[errors.ConfigurationError, ...]]:
    """Read all folders under the root: the bindings by queue, and what is wrong with others."""
    found: dict[str, Binding] = {}
    wrong: list[errors.ConfigurationError] = []
    for folder in _folders(root):
        try:
            binding = read(folder)
        except errors.ConfigurationError as error:
            wrong.append(error)
            continue
        if binding is not None and binding.queue in found:
            first = found[binding.queue].folder
            msg = f"the bindings {first} and {folder} are for the same queue: mount one of them"
            wrong.append(errors.ConfigurationError(msg))
        elif binding is not None:
            found[binding.queue] = binding
    return found, tuple(wrong)


def stamp(folder: Path) -> object:
    """Give a value that differs when the folder's files may hold something else. Cheap."""
    found = []
    for name in FILES:
        try:
            seen = (folder / name).stat()
        except OSError:
            continue
        found.append((name, seen.st_ino, seen.st_mtime_ns, seen.st_size))
    return tuple(found)


class Bindings:
    """The bindings under a root, looked at again now and then. May be shared by threads: what it knows is swapped whole."""

    def __init__(self, root: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.root = root
        self._monotonic = monotonic
        self._looked = float("-inf")
        self._stamp: object = None
        self._found: Mapping[str, Binding] = {}
        self._wrong: tuple[errors.ConfigurationError, ...] = ()

    def find(self, queue: str) -> Binding | None:
        """Give the binding of a queue; None where it has none. Raises `ConfigurationError` where that cannot be told."""
        if self._monotonic() - self._looked >= _LOOK_SECONDS:
            self._look()
        found = self._found.get(queue)
        if found is None and self._wrong:
            raise errors.ConfigurationError(str(self._wrong[0]))
        return found

    def folders(self) -> tuple[str, ...]:
        """Give the names of the folders that are bindings of queues."""
        if self._monotonic() - self._looked >= _LOOK_SECONDS:
            self._look()
        return tuple(sorted(each.folder.name for each in self._found.values()))

    def _look(self) -> None:
        seen = tuple((str(folder), stamp(folder)) for folder in _folders(self.root))
        if seen != self._stamp:
            found, wrong = scan(self.root)
            # What is half there may be on its way: what was read before does until it is whole.
            kept = {queue: each for queue, each in self._found.items() if wrong and queue not in found}
            self._found, self._wrong = {**kept, **found}, wrong
            self._stamp = None if wrong else seen
        self._looked = self._monotonic()


def for_queue(settings: RedisSettings, queue: str, bindings: Bindings | None = None) -> RedisSettings:
    """Give the settings of a queue: its binding's, else these. Raises `ConfigurationError`.

    Where neither a binding nor anything else says where Redis is, that is an error, and not the default address.
    """
    if settings.bindings is None:
        return settings
    known = bindings or Bindings(settings.bindings)
    found = known.find(queue)
    if found is not None:
        kept = {"bindings": settings.bindings, "client_name": found.settings.client_name or settings.client_name}
        return found.settings.model_copy(update=kept)
    if settings.binding is not None:  # another queue's
        settings = RedisSettings.from_environment().model_copy(update={"bindings": settings.bindings})
    if settings.is_default_address:
        folders = ", ".join(known.folders()) or "none"
        msg = (
            f"queue {queue!r} has no binding under SERVICE_BINDING_ROOT ({settings.bindings}; bindings of queues: {folders}), "
            "and neither BULLPEN_REDIS_URL nor its kin are set"
        )
        raise errors.ConfigurationError(msg)
    return settings


def of_all(settings: RedisSettings) -> RedisSettings:
    """Give what to look at where no queue is named: these settings; where they say nothing, the first binding's."""
    if settings.bindings is None or not settings.is_default_address:
        return settings
    found, wrong = scan(settings.bindings)
    if not found and wrong:
        raise errors.ConfigurationError(str(wrong[0]))
    return next((each.settings for each in found.values()), settings)


# -- inside --------------------------------------------------------------------------------------------------------


def _folders(root: Path) -> list[Path]:
    try:
        found = sorted(each for each in root.iterdir() if not each.name.startswith(".") and each.is_dir())
    except OSError:
        return []
    return found[:_MOST_FOLDERS]


def _files(folder: Path) -> dict[str, str]:
    """Read the files, all of them from before a change or all from after it."""
    for _ in range(_READS):
        data = folder / "..data"
        before = _target(data)
        found = _read_all(data if before else folder)
        if _target(data) == before:
            return found
    msg = f"the binding {folder} changes while it is read"
    raise errors.ConfigurationError(msg)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _read_all(folder: Path) -> dict[str, str]:
    found = {}
    for name in FILES:
        if "." in name:  # certificates: ssl reads them itself
            if (folder / name).is_file():
                found[name] = ""
            continue
        try:
            with (folder / name).open("rb") as opened:
                content = opened.read(LARGEST_FILE + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            msg = f"the binding {folder}: the file {name} cannot be read: {error.strerror}"
            raise errors.ConfigurationError(msg) from error
        try:
            text = content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            text = "\n"
        if len(content) > LARGEST_FILE or "\n" in text or "\0" in text:
            msg = f"the binding {folder}: the file {name} must hold one line of UTF-8 text, of at most {LARGEST_FILE} bytes"
            raise errors.ConfigurationError(msg)
        found[name] = text
    return found


def _settings(folder: Path, files: Mapping[str, str], named: str) -> RedisSettings:
    parts: address.Parts = address.parse(files["uri"], named=f"{named}, file uri") if files.get("uri") else {}
    secured = "tls" in parts or ("uri" not in files and "ca.crt" in files)
    if "path" not in parts and files.get("host"):
        parts["host"] = files["host"]
        if files.get("port"):
            parts["port"] = address.number(files["port"], named=f"{named}, file port", least=1, most=65_535)
    if files.get("database"):
        parts["db"] = address.number(files["database"], named=f"{named}, file database", least=0, most=2**31 - 1)
    if files.get("username"):
        parts["username"] = files["username"]
    if files.get("password"):
        parts["password"] = files["password"]
    if ("tls.crt" in files) != ("tls.key" in files):
        missing = "tls.key" if "tls.crt" in files else "tls.crt"
        msg = f"{named} is half a one: a client certificate needs both tls.crt and tls.key, and there is no {missing}"
        raise errors.ConfigurationError(msg)
    if not secured and ("ca.crt" in files or "tls.crt" in files):
        msg = f"{named} has certificates, and its uri does not begin with rediss://"
        raise errors.ConfigurationError(msg)
    if secured:
        tls = parts.setdefault("tls", {})
        for field, name in (("ca", "ca.crt"), ("certificate", "tls.crt"), ("key", "tls.key")):
            if name in files:
                tls[field] = str(folder / name)  # type: ignore[literal-required]  # its keys, by the line above
    try:
        return RedisSettings.model_validate({**parts, "prefix": files["prefix"], "origin": named, "binding": folder})
    except ValidationError as error:
        fields = ", ".join(
            sorted({str(problem["loc"][0]) for problem in error.errors(include_input=False) if problem["loc"]})
        )
        msg = f"{named}: {fields or 'a value'} cannot be used"
        raise errors.ConfigurationError(msg) from None
