"""The reference page of the JobQueue says what the models say today."""

import pytest

from bullpen.api import checks, files
from tests.docs import generate


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
