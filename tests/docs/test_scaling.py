"""The page on scaling says what the simulation gives, and knows every reason of a decision."""

import pytest

from bullpen.scaling import Reason
from tests.bench.simulation import contest, report
from tests.bench.simulation.contest import CONTENDERS, DEFAULTS, Result
from tests.bench.simulation.patterns import PATTERNS

RESULTS = report.load()
QUICK = ("burst", "boundary")


def test_table_and_figure_are_of_the_results():
    page = report.PAGE.read_text(encoding="utf-8")
    assert page == report.filled(page, RESULTS), "run: make simulation"
    assert report.FIGURE.read_text(encoding="utf-8") == report.figure(RESULTS), "run: make simulation"


def test_every_reason_is_explained():
    page = report.PAGE.read_text(encoding="utf-8")
    assert [reason for reason in Reason if f"`{reason}`" not in page] == []


def told() -> list[Result]:
    """The results that the table tells of."""
    rows = []
    for pattern in PATTERNS:
        keda = report.best_of_keda(RESULTS, pattern.name)
        rows += [
            report.defaults(RESULTS, pattern.name, "KEDA"),
            keda,
            report.defaults(RESULTS, pattern.name, "Bullpen"),
        ]
        rows += filter(None, [report.as_good(RESULTS, keda)])
    return list(dict.fromkeys(rows))


def played_again(result: Result) -> Result:
    index = next(i for i, each in enumerate(CONTENDERS) if (each.who, each.settings) == (result.who, result.settings))
    pattern = next(i for i, each in enumerate(PATTERNS) if each.name == result.pattern)
    return contest.play(pattern, index, contest.SEEDS)


@pytest.mark.parametrize(
    "result",
    [each if each.pattern in QUICK else pytest.param(each, marks=pytest.mark.prove) for each in told()],
    ids=lambda result: f"{result.pattern}, {result.who}: {result.settings}",
)
def test_the_figures_are_those_of_the_simulation_of_today(result: Result):
    again = played_again(result)
    assert (again.mean_wait, again.p99_wait, again.pod_hours, again.cut) == pytest.approx(
        (result.mean_wait, result.p99_wait, result.pod_hours, result.cut), rel=0.01, abs=0.01
    ), "run: make simulation"


@pytest.mark.parametrize("pattern", [pattern.name for pattern in PATTERNS])
def test_bullpen_is_on_the_better_side(pattern: str):
    """Whatever KEDA is set to: there is a setting of Bullpen's that waits no longer and costs no more."""
    keda = report.of(RESULTS, pattern, "KEDA")
    assert [each for each in keda if report.as_good(RESULTS, each) is None] == []
    assert all(each.cut == 0 for each in report.of(RESULTS, pattern, "Bullpen"))


@pytest.mark.parametrize("pattern", [pattern.name for pattern in PATTERNS])
def test_no_setting_of_kedas_is_better_than_bullpens_defaults(pattern: str):
    """None is both quicker and cheaper."""
    ours = report.defaults(RESULTS, pattern, "Bullpen")
    assert ours.settings == DEFAULTS
    better = [
        each
        for each in report.of(RESULTS, pattern, "KEDA")
        if each.mean_wait < ours.mean_wait and each.pod_hours < ours.pod_hours
    ]
    assert better == []
