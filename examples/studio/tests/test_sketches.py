"""Sketches of real photographs."""

from pathlib import Path

import pytest
from PIL import Image

from bullpen import NonRetryableError
from bullpen.testing import SyncHarness
from studio import photographs
from studio.payloads import Photograph, draw
from studio.sketches import sketches


def test_a_photograph_becomes_a_sketch(out: Path, queues: Path) -> None:
    cat = next(path for path in photographs.find(None) if path.stem == "chelsea")
    with SyncHarness(sketches, queues=queues) as harness:
        handle = harness.client.enqueue(draw.job(Photograph(path=str(cat), width=120)))
        sketch = handle.result(timeout="1m")
        assert handle.info().progress == 80
    with Image.open(sketch.path) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (120, sketch.height))
        light = picture.histogram()
    assert sum(light[200:]) > sum(light[:100]) > 0  # lines on paper
    assert [path.name for path in (out / "sketches").iterdir()] == ["chelsea.png"]


def test_photographs_of_one_name_in_several_folders_are_several_sketches(out: Path, queues: Path) -> None:
    shots = [out / "monday" / "1.png", out / "tuesday" / "1.jpg", out / "tuesday" / "1-2.png"]
    for shot in shots:
        shot.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "grey").save(shot)
    (out / "tuesday" / "a folder.png").mkdir()
    named = photographs.names(photographs.find(out))
    assert sorted(named) == sorted(shots)
    with SyncHarness(sketches, queues=queues) as harness:
        drawn = [harness.run(draw.job(Photograph(path=str(path), width=20, name=name))) for path, name in named.items()]
        outside = harness.run(draw.job(Photograph(path=str(shots[0]), width=20, name="../../x")))
    assert len({sketch.path for sketch in drawn}) == 3
    assert outside.path == str(out / "sketches" / "x.png")
    assert len(list((out / "sketches").iterdir())) == 4


def test_what_is_no_photograph_fails_at_once(out: Path, queues: Path) -> None:
    text = out / "notes.txt"
    text.write_text("no picture")
    with SyncHarness(sketches, queues=queues) as harness:
        for path in (text, out / "missing.png"):
            with pytest.raises(NonRetryableError, match="is not a photograph that can be read"):
                harness.run(draw.job(Photograph(path=str(path))))
        assert [info.attempt for info in harness.jobs(draw)] == [1, 1]
