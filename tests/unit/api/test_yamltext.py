"""YAML as text: values as Kubernetes reads them, positions, doubts, and what a hostile file costs."""

import resource

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from bullpen.api import yamlnodes, yamlscalars, yamltext
from bullpen.api.yamlnodes import MAX_BYTES, MAX_DEPTH, Position


def one(text: str) -> yamltext.TextDocument:
    [document], findings = yamltext.read(text, file="f.yaml")
    assert findings == []
    return document


def broken(text: str | bytes) -> tuple[int, str]:
    _, [finding] = yamltext.read(text, file="f.yaml")
    return finding.line, finding.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("Null", None),
        ("true", True), ("False", False), ("TRUE", True),
        ("0", 0), ("-5", -5), ("+5", 5), ("0x1F", 31), ("0o17", 15),
        ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("-0.0", -0.0), ("5.", 5.0),
        ("12:30", "12:30"), ("1:30:00", "1:30:00"), ("2027-01-02", "2027-01-02"),
        ("2027-01-02T03:04:05Z", "2027-01-02T03:04:05Z"), ("50%", "50%"), ("1h30m", "1h30m"), ("1.2.3", "1.2.3"),
        ("=", "="), ("nope", "nope"), ("yes and no", "yes and no"), ("-", "-"),
    ],
)  # fmt: skip
def test_plain_scalars(text: str, value: JsonValue):
    scalar = yamlscalars.plain(text)
    assert (scalar.value, type(scalar.value), scalar.doubt) == (value, type(value), None)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "No",
        "on",
        "OFF",
        "y",
        "N",
        "010",
        "-07",
        "08",
        "1_000",
        "0b11",
        ".inf",
        ".NaN",
        "1e999",
        "9" * 19,
        "1_0.5",
    ],
)
def test_what_readers_disagree_on_is_not_guessed(text: str):
    scalar = yamlscalars.plain(text)
    assert scalar.value == text
    assert scalar.doubt is not None
    assert yamlscalars.plain(f"x{text}").doubt is None
    assert one(f'a: "{text}"').findings == ()
    [finding] = one(f"- 1\n- {text}").findings
    assert (finding.line, finding.field) == (2, "[1]")


@given(
    st.one_of(
        st.integers(-(10**17), 10**17), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_json_scalars_are_themselves(value: JsonValue):
    import json

    assert yamlscalars.plain(json.dumps(value)) == yamlscalars.Scalar(value)


def test_positions():
    document = one(
        "# a comment\nspec:\n  jobs:\n    - name: a\n    - {name: b,\n       timeout: 5s}\n  text: |\n    x\n"
    )
    places = {
        (): Position(2, 1),
        ("spec", "jobs"): Position(3, 3),
        ("spec", "jobs", 0): Position(4, 7),
        ("spec", "jobs", 1, "timeout"): Position(6, 8),
        ("spec", "text"): Position(7, 3),
        ("spec", "jobs", 1, "missing", "deeper"): Position(5, 7),
    }
    assert {path: document.position_of(path) for path in places} == places


def test_documents():
    documents, findings = yamltext.read("--- 1\n---\n...\n---\na: 2\n", file="f")
    assert [(each.index, each.value) for each in documents] == [(1, 1), (2, None), (3, {"a": 2})]
    assert findings == []
    assert yamltext.read("# nothing\n", file="f") == ([], [])


def test_what_comes_before_a_mistake_is_kept():
    documents, [finding] = yamltext.read("a: 1\n---\nb: [\n---\nc: 1\n", file="f.yaml")
    assert [each.value for each in documents] == [{"a": 1}]
    assert (finding.file, finding.document) == ("f.yaml", 2)


def test_anchors_and_merge_keys():
    document = one(
        "base: &b {a: 1, b: 2}\nmore: &m {b: 3, c: 4}\nx: {<<: [*b, *m], c: 5}\nw: *b\nz: {<<: *b, '<<': 1}\n"
    )
    assert document.value == {
        "base": {"a": 1, "b": 2},
        "more": {"b": 3, "c": 4},
        "x": {"a": 1, "b": 2, "c": 5},
        "w": {"a": 1, "b": 2},
        "z": {"a": 1, "b": 2, "<<": 1},
    }
    assert document.findings == ()
    assert document.position_of(("x", "c")).line == 3
    assert document.position_of(("x", "a")).line == 1


@pytest.mark.parametrize(
    ("text", "line", "field", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a", "stands twice in this mapping (first in line 1)"),
        ("x:\n  a: 1\n  'a': 2\n", 3, "x.a", "stands twice"),
        ("x:\n  on: 1\n", 2, "x.on", "as a key, on is text to some"),
        ("? [a]\n: 1\n", 1, "", "a key is a mapping or a list"),
        ("x: {~: 1}\n", 1, "x", "a key is empty"),
        ("x:\n  <<: 5\n", 2, "x", "<< takes a mapping"),
        ("x: !!binary aGk=\n", 1, "x", "is not supported"),
        ("x: !secret hi\n", 1, "x", "the tag !secret is not supported"),
        ("x: !!python/object/apply:os.system [ls]\n", 1, "x", "is not supported"),
        ("x: !!set {a, b}\n", 1, "x", "is not supported"),
        ("x: !!int five\n", 1, "x", "does not fit its tag"),
    ],
)
def test_doubts(text: str, line: int, field: str, message: str):
    [finding] = one(text).findings
    assert (finding.line, finding.field) == (line, field)
    assert message in finding.message


def test_tags_that_say_what_is_there():
    assert one('x: [!!str 5, !!int "5", !!float 5, !!null "", !!bool "true", !!seq [], !!map {}, ! 5]').value == {
        "x": ["5", 5, 5, None, True, [], {}, "5"]
    }


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\n\tb: 2\n", 2, "column 1: is not YAML: a tab; indent with spaces"),
        ("a:\n  b: 1\n c: 2\n", 3, "is not YAML: "),
        ("a: [1, 2\nb: 3\n", 2, "is not YAML: "),
        ('a: "x\n', 2, "is not YAML: "),
        ("a: b: c\n", 1, "column 5: is not YAML: mapping values are not allowed in this context"),
        ("replicas: {{ .Values.replicas }}\nimage: {{- if x }}\n", 2, "(a template? render it first)"),
        ("a: *b\n", 1, "alias *b refers to no anchor before it"),
        ("a: &a 1\n---\nb: *a\n", 3, "alias *a refers to no anchor before it"),
        ("a: &a [*a]\n", 1, "alias *a stands within what it refers to"),
        ("a: &a {b: {c: *a}}\n", 1, "alias *a stands within what it refers to"),
        (b"a: 1\nb: \xff\xfe\n", 2, "column 4: is not UTF-8 text"),
        ("a: 1\nb: \x00\n", 2, "column 4: is not YAML: a character that must not stand in it"),
        (b"\xff\xfea\x00:\x00", 1, "is not UTF-8 text"),
    ],
)
def test_text_that_breaks_off(text: str | bytes, line: int, message: str):
    found_line, found = broken(text)
    assert found_line == line
    assert message in found


def test_a_byte_order_mark_is_no_character():
    [document], _ = yamltext.read("\ufeffa: 1".encode(), file="f")
    assert document.value == {"a": 1}


LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
MERGED_LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'k{i}: {{<<: *a{n - 1}}}' for i in range(10))}}}\n" for n in range(1, 12)
)
DEEP_BY_ALIAS = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 5000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "expands to more than"),
        (MERGED_LAUGHS, "expands to more than"),
        (DEEP_BY_ALIAS, f"is nested deeper than {MAX_DEPTH} levels (aliases?)"),
        ("[" * 2_000_000, "is nested deeper than"),
        ("[\n" * 1_000_000, "is nested deeper than"),
        ("{a: " * 1_000_000, "is nested deeper than"),
        ("\n".join(" " * n + "a:" for n in range(2000)), "is nested deeper than"),
        ("[" + "1," * 1_000_000 + "]", "has more than"),
        ("--- 1\n" * 500_000, "has more than"),
        ("x" * (MAX_BYTES + 1), "is larger than 5 MiB"),
        ("a: " + "9" * 1_000_000, ""),
        ("a: " + "1_" * 1_000_000, ""),
        ("a: &" + "x" * 1_000_000 + " 1", ""),
        ('"' + "\\x41" * 1_000_000 + '": 1', ""),
    ],
    ids=lambda value: repr(value[:20]),
)
@pytest.mark.timeout(120)
def test_hostile_text_costs_little(text: str, message: str):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    documents, findings = yamltext.read(text, file="f")
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told = [each.message for each in findings] or [""]
    assert message in told[0]
    assert all(len(each) < 400 for each in told)
    assert all(len(str(each)) < 1_100_000 for document in documents for each in document.findings)
    assert grown_mb < 500


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#,? \n\t<01~."), max_size=60))
def test_any_text_is_read_or_refused(text: str):
    documents, findings = yamltext.read(text, file="f")
    for document in documents:
        document.position_of(("a", 0))
    assert all(isinstance(each.message, str) for each in findings)


@given(st.text(alphabet=st.sampled_from("ab:-[]{}'\" \n,"), max_size=40))
def test_what_pyyaml_reads_alike_is_read_alike(text: str):
    try:
        theirs = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, TypeError, ValueError):
        return
    documents, findings = yamltext.read(text, file="f")
    if not findings and not any(document.findings for document in documents):
        assert [document.value for document in documents] == theirs


def test_bounds_are_bounds():
    assert yamlnodes.MAX_NODES == 250_000
    value = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert one(value).findings == ()
    assert "deeper" in broken("[" + value + "]")[1]
