"""The reference page of the JobQueue says what the models say today."""

import pytest

from bullpen.api import checks, files
from tests.bench import report
from tests.docs import figures, generate


def test_the_page_is_what_the_models_make_of_it():
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run: make docs"


@pytest.mark.parametrize("field", [*generate.NOTHING_YET, *generate.OPERATOR, *generate.NOTES])
def test_what_the_page_marks_is_a_field(field):
    assert field in generate.fields()


@pytest.mark.parametrize("field", generate.NOTHING_YET)
def test_what_does_nothing_yet_is_warned_of(field):
    report = checks.report(files.loads(generate.example_with(field)))
    warned = [finding.field for finding in report.warnings if "does nothing yet" in finding.message]
    assert f"spec.{field}".replace("[]", "[0]") in warned


def test_nothing_else_is_warned_of_as_doing_nothing():
    warned = {
        finding.field.replace("[0]", "[]").removeprefix("spec.")
        for field in generate.NOTHING_YET
        for finding in checks.report(files.loads(generate.example_with(field))).warnings
    }
    assert warned == set(generate.NOTHING_YET)


def test_figures_are_taken_over_line_by_line(capsys):
    page = figures.PAGE.read_text(encoding="utf-8")
    found = report.Report()
    found.at_least("c=1: beside Node", 1.23, 1.3, report.times)
    found.print("Bullpen, measured: 2 cores")
    text = figures.filled(page, capsys.readouterr().out)
    assert "| c=1: beside Node | 1.23 × | ≥ 1.30 × |" in text
    assert "run at a time. Bullpen, measured: 2 cores\n" in text
    assert len(text.splitlines()) == len(page.splitlines())
    assert figures.filled(text, "").count("1.23") == 1
