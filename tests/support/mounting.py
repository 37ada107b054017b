"""Mounts Secrets as Kubernetes does: files are links into `..data`, which is a link that moves on to a new folder."""

from collections.abc import Mapping
from pathlib import Path


def mount(folder: Path, files: Mapping[str, str]) -> Path:
    """Have the folder hold these files, from one moment to the next. Gives the folder."""
    version = folder / f"..{len(list(folder.glob('..*'))) if folder.exists() else 0}"
    version.mkdir(parents=True)
    for name, text in files.items():
        (version / name).write_text(text)
    staged = folder / "..tmp"
    staged.symlink_to(version.name)
    staged.replace(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    for link in folder.iterdir():
        if not link.name.startswith("..") and link.name not in files:
            link.unlink()
    return folder
