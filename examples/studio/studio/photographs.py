"""Where the pictures come from: a folder of yours, or the photographs that scikit-image's wheel carries."""

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
        found = sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        if not found:
            raise SystemExit(f"no photographs in {folder}: looked for files ending in {', '.join(sorted(ENDINGS))}")
        return found
    package = util.find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    return [Path(package.origin).parent / "data" / name for name in IN_THE_WHEEL]
