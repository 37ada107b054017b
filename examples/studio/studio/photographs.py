"""Where the pictures come from: a folder of yours, or the photographs that scikit-image's wheel carries."""

from collections.abc import Iterable
from importlib import util
from pathlib import Path

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
IN_THE_WHEEL = (
    "astronaut.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "hubble_deep_field.jpg",
    "ihc.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip


def find(folder: Path | None) -> list[Path]:
    """List the photographs to draw, in order of their names. Raises `SystemExit` for a folder without any."""
    if folder is not None:
        found = sorted(
            path.resolve() for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
        )
        if not found:
            raise SystemExit(f"no photographs in {folder}: looked for files ending in {', '.join(sorted(ENDINGS))}")
        return found
    package = util.find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    return [Path(package.origin).parent / "data" / name for name in IN_THE_WHEEL]


def names(paths: Iterable[Path]) -> dict[Path, str]:
    """Give each photograph a name of its own: cameras count from 1 in every folder."""
    found: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name.lower())
        found[path] = name
    return found
