"""`sketch-generation`: photographs to pencil sketches. CPU-bound, so each runs in a process of its own."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from bullpen import Handlers, NonRetryableError, SyncContext
from studio.payloads import Photograph, Sketch, draw
from studio.settings import Settings

sketches = Handlers("sketch-generation")


def pencil(photograph: Image.Image) -> Image.Image:
    """Draw the photograph: its light, divided by a blurred negative of it (a "colour dodge"), leaves the edges."""
    grey = ImageOps.grayscale(photograph)
    blurred = ImageOps.invert(grey).filter(ImageFilter.GaussianBlur(radius=max(grey.size) / 80))
    light = np.asarray(grey, dtype=np.float32)
    dodge = light * 255 / np.maximum(255 - np.asarray(blurred, dtype=np.float32), 1)
    # A little of the photograph's own shade keeps faces and skies from burning out.
    shaded = np.clip(dodge, 0, 255) * (0.85 + 0.15 * light / 255)
    return Image.fromarray(shaded.astype(np.uint8))


@sketches.handler(draw, executor="process")
def draw_sketch(ctx: SyncContext[None], photograph: Photograph) -> Sketch:
    """Read the photograph, draw it, and lay the PNG beside the others."""
    source = Path(photograph.path)
    try:
        with Image.open(source) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (FileNotFoundError, UnidentifiedImageError) as error:
        raise NonRetryableError(f"{source} is not a photograph that can be read: {error}") from error
    ctx.progress(20)
    height = round(picture.height * photograph.width / picture.width)
    sketch = pencil(picture.resize((photograph.width, height), Image.Resampling.LANCZOS))
    ctx.progress(80)
    name = Path(photograph.name).name or source.stem  # a payload is data: it leads out of no folder
    target = Settings.from_environment().out / "sketches" / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a killed attempt leaves no half picture.
    unfinished = target.with_name(f"{name}.{ctx.job.id}.part")
    sketch.save(unfinished, format="PNG", optimize=True)
    unfinished.replace(target)
    ctx.log("drawn", source=source.name, target=target.name)
    return Sketch(path=str(target), width=sketch.width, height=sketch.height)
