"""The chart as Helm renders it. Where helm cannot be built these tests are skipped, aloud."""

import contextlib

import pytest

from tests.chart.rendering import Chart
from tests.support import requirements
from tests.support.kubernetes import binaries


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build helm now where it is missing: a minute, which no single test's timeout should pay for."""
    if any("chart" in getattr(item, "fixturenames", ()) for item in session.items):
        capture = session.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled(), contextlib.suppress(binaries.Missing):  # said by the fixture
            binaries.ensure("helm")


@pytest.fixture(scope="session")
def chart() -> Chart:
    """The chart, to be rendered with values."""
    try:
        helm = binaries.ensure("helm")["helm"]
    except binaries.Missing as error:
        requirements.missing("cluster", f"nothing renders the chart: {error}")
    return Chart(helm)
