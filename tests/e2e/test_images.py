"""The ways to a worker image that docs/how-to/images.md shows, each built as the page has it, and at work."""

import re
import subprocess
import sys

import pytest

from tests.docs import pages
from tests.support.e2e import images, load
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

PAGE = images.PROJECT / "docs" / "how-to" / "images.md"
HANDLERS = """
import os

import PIL  # what the page installs beside
from bullpen import Handlers

handlers = Handlers("load")


@handlers.handler("work")
async def work(seconds: float) -> dict[str, str]:
    return {"pod": os.environ["BULLPEN_WORKER_NAME"], "version": PIL.__version__}
"""


def dockerfile(on: str) -> str:
    """Give the page's Dockerfile whose base begins so, on the base that there is here."""
    (block,) = [one for one in pages.blocks(PAGE) if one.language == "dockerfile" and one.text.startswith(f"FROM {on}")]
    return re.sub(r"^FROM \S+", "ARG BASE\nFROM ${BASE}", block.text)


@pytest.fixture
def context(tmp_path):
    """A folder as a user has it: handlers, and the wheel of `make build`."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "jobs.py").write_text(HANDLERS)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=images.PROJECT, check=True, capture_output=True, timeout=120)
    return tmp_path


@pytest.mark.parametrize(
    ("on", "base"),
    [("registry.example.com/bullpen-worker", {"BASE": images.WORKER}), ("python:", {})],
    ids=["on the worker's image", "on a base of one's own"],
)
def test_an_image_of_the_page_does_jobs(cluster, context, on, base, make_queue, toolbox, ended):
    (context / "Dockerfile").write_text(dockerfile(on))
    tag = f"localhost/shop:{len(base)}"
    cluster.build(tag, context, **base)
    queue = make_queue(worker={"image": tag, "handlers": ["shop.jobs"]}, scaling={"maxReplicas": 1})
    toolbox.produce(5, longest=0.2)
    ended(5, 120)
    jobs = toolbox.report(5)
    assert load.spent(jobs) == []
    assert all(job.version and job.pod for job in jobs)
    eventually_sync(lambda: queue.pods() == [], 90, every=0.2)
