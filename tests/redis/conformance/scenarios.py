"""What happens to jobs, told once and played on both sides. A scenario gives a report of plain values.

Each scenario also asserts the point that it is about, so that two sides which are wrong alike are noticed.
"""

from typing import Final

from tests.redis.conformance import attempts, control, duplicates, endings, order
from tests.redis.conformance.playing import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    *attempts.SCENARIOS,
    *endings.SCENARIOS,
    *order.SCENARIOS,
    *duplicates.SCENARIOS,
    *control.SCENARIOS,
)
