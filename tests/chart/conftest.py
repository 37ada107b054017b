"""The chart as Helm renders it. Where helm cannot be built these tests are skipped, aloud."""

import pytest

from tests.chart.rendering import Chart
from tests.support import requirements
from tests.support.kubernetes import binaries


@pytest.fixture(scope="session")
def chart() -> Chart:
    """The chart, to be rendered with values."""
    try:
        helm = binaries.ensure("helm")["helm"]
    except binaries.Missing as error:
        requirements.missing("cluster", f"nothing renders the chart: {error}")
    return Chart(helm)
