"""Images without Docker: built by buildah, on a base made by debootstrap where no registry gives one."""

import os
import shutil
import tempfile
from pathlib import Path

from tests.support.node.layout import BASE
from tests.support.node.shell import Word, run, succeeds

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_OPTIONS = ("cert", "index-url", "extra-index-url", "timeout", "trusted-host")
"""What a build needs to know of this machine's way to a package index: mounted for its time, and not in the image."""
JUNK = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


def build(tag: str, context: Path, dockerfile: Path | None = None, **arguments: str) -> None:
    """Build an image from a Dockerfile; `BASE` is given as a build argument unless `arguments` name another."""
    words: list[Word] = ["--runtime", "runc", "bud", "--layers", "--network", "host", "--ulimit", "nofile=1024:1024"]
    if "BASE" not in arguments:
        ensure_base()
        arguments = {**arguments, "BASE": BASE}
    for name, value in arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    with tempfile.TemporaryDirectory() as folder:
        pip = Path(folder) / "pip.conf"
        pip.write_text(_pip_options())
        words += ["-v", f"{pip}:/etc/pip.conf:ro", "-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        words += ["-t", tag, "-f", dockerfile or context / "Dockerfile", context]
        run("buildah", *words, timeout=1800)


def _pip_options() -> str:
    variables = {"timeout": "PIP_DEFAULT_TIMEOUT"}
    given = {
        option: os.environ.get(variables.get(option, f"PIP_{option.upper().replace('-', '_')}"))
        for option in PIP_OPTIONS
    }
    return "\n".join(["[global]", *(f"{option} = {value}" for option, value in given.items() if value), ""])


def exists(tag: str) -> bool:
    """Whether buildah has this image."""
    return succeeds("buildah", "inspect", "--type", "image", tag)


def identity(tag: str) -> str:
    """What tells this image from an earlier one of the same name."""
    return run("buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", tag).strip()


def save(tag: str, archive: Path) -> None:
    """Write an image to a file."""
    archive.unlink(missing_ok=True)
    run("buildah", "push", "-q", tag, f"docker-archive:{archive}:{tag}")


def ensure_base() -> None:
    """Debian 12 with Python 3.11, made where it is missing; a minute or two."""
    if exists(BASE):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        packages = "python3,python3-venv,python3-pip,ca-certificates"
        run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root, timeout=1200)
        for junk in JUNK:
            shutil.rmtree(root / junk, ignore_errors=True)
        # As in the image that it stands for: `python`, and a pip that installs where it is told to.
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        _commit(BASE, root, "/", "--env", path, "--cmd", "python3")


def build_pause(source: Path) -> None:
    """The sandbox's one static program."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "pause"
        run(
            "go",
            "build",
            "-trimpath",
            "-ldflags",
            "-s -w",
            "-o",
            program,
            ".",
            cwd=source,
            env={**os.environ, "CGO_ENABLED": "0"},
        )
        _commit("localhost/pause:1", program, "/pause", "--entrypoint", '["/pause"]')


def _commit(tag: str, source: Path, target: str, *config: str) -> None:
    box = run("buildah", "from", "scratch").strip().splitlines()[-1]
    try:
        run("buildah", "add", "-q", box, source, target)
        run("buildah", "config", *config, box)
        run("buildah", "commit", "-q", box, tag)
    finally:
        run("buildah", "rm", box)
