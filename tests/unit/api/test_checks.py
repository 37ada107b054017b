"""What the schema cannot say: cron, time zones, JSON Schema, several documents, fields that do nothing yet."""

import textwrap
from pathlib import Path

import pytest
from pydantic import JsonValue

from bullpen.api import checks, files, schemas
from bullpen.api.v1alpha1 import JobQueue

WORKER = "worker: {image: a, handlers: [a]}\n"


def queue(spec: str, name: str = "emails", namespace: str | None = None) -> str:
    where = f", namespace: {namespace}" if namespace else ""
    head = f"apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata: {{name: {name}{where}}}\nspec:\n"
    return head + textwrap.indent(spec, "  ") + "\n"


def checked(text: str) -> checks.Report:
    return checks.report(files.loads(text, file="queues.yaml"))


@pytest.mark.parametrize(
    ("schedule", "field", "message"),
    [
        ('cron: "0 25 * * *"', "cron", "cron field hour: '25' is not allowed; allowed: 0 to 23"),
        ('cron: "* * * *"', "cron", "has 4 fields; allowed are 5"),
        ('cron: "0 0 0 0 0 0 0"', "cron", "has 7 fields"),
        ('cron: "60 0 8 * * 1"', "cron", "cron field second"),
        ('cron: "0 8 30 2 *"', "cron", "never comes"),
        ('cron: "0 8 * * mop"', "cron", "cron field day of week"),
        ('cron: "H 8 * * *"', "cron", "cron field minute"),
        ('cron: "@dayly"', "cron", "is no nickname"),
        (
            'cron: "0 8 * * *", timeZone: europe/berlin',
            "timeZone",
            'found "europe/berlin"; allowed: an IANA time zone such as "UTC" or "Europe/Berlin"; did you mean "Europe/Berlin"?',
        ),
        ('cron: "0 8 * * *", timeZone: Europe', "timeZone", 'found "Europe"; allowed: an IANA time zone'),
        ('cron: "0 8 * * *", timeZone: /etc/passwd', "timeZone", "allowed: an IANA time zone"),
    ],
)
def test_schedules(schedule: str, field: str, message: str):
    report = checked(queue(f"replicas: 1\nschedules:\n  - {{name: a, job: a, {schedule}}}"))
    [finding] = report.findings
    assert (finding.severity, finding.line, finding.field) == ("error", 7, f"spec.schedules[0].{field}")
    assert message in finding.message
    assert report.errors == (finding,)


@pytest.mark.parametrize(
    "cron", ["0 8 * * 1", "30 0 8 * * 1", "*/5 * * * *", "0 0 L * *", "0 0 * * 5#3", "@hourly", "0 0 29 2 *"]
)
def test_cron_that_comes(cron: str):
    spec = f'schedules: [{{name: a, job: a, cron: "{cron}", timeZone: America/New_York}}]'
    assert checked(queue(spec)).findings == ()


def test_windows():
    report = checked(
        queue(
            "scaling:\n  maxReplicas: 3\n  windows:\n"
            '    - {name: a, schedule: "0 8 * * 8", duration: 1h, minReplicas: 1}\n'
            '    - {name: b, schedule: "0 8 * * *", duration: 1h, minReplicas: 1, timeZone: Mars/Base}'
        )
    )
    assert [(each.line, each.field) for each in report.errors] == [
        (8, "spec.scaling.windows[0].schedule"),
        (9, "spec.scaling.windows[1].timeZone"),
    ]


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (
            "schedules: [{name: a, job: a, every: 5s, concurrencyPolicy: Forbid, startingDeadline: 1h}]",
            ["spec.schedules[0].concurrencyPolicy", "spec.schedules[0].startingDeadline"],
        ),
        ("schedules: [{name: a, job: a, every: 5s, concurrencyPolicy: Allow}]", []),
        ("deadLetter: {jobQueueRef: {name: dead}}", ["spec.deadLetter"]),
        ("workerPoolRef: {name: pool}", ["spec.workerPoolRef"]),
        ("alerts: {oldestJobAge: 5m}", []),
    ],
)
def test_fields_that_do_nothing_yet(spec: str, fields: list[str]):
    report = checked(queue(spec))
    assert report.errors == ()
    assert [each.field for each in report.warnings] == fields
    assert all("this field does nothing yet" in each.message for each in report.warnings)
    assert all(each.line == 5 for each in report.warnings)


def test_topologies_that_are_not_there_yet():
    text = queue('endpoints: ["redis://a:1", "redis://b:1"]\ntopology: Cluster').replace("JobQueue", "RedisConnection")
    [finding] = checked(text).findings
    assert (finding.severity, finding.line, finding.field) == ("warning", 6, "spec.topology")


def test_settings_that_are_not_read():
    report = checked(queue("replicas: 3\nscaling: {maxReplicas: 3}"))
    assert [str(each) for each in report.warnings] == [
        "queues.yaml:5: spec.replicas: is read in mode Manual only; the mode is Auto"
    ]
    assert checked(queue("replicas: 3\nscaling: {mode: Manual}")).findings == ()
    assert checked(queue("scaling: {maxReplicas: 3}")).findings == ()


def test_a_grace_period_too_short():
    spec = "jobs: [{name: a, timeout: 1h}]\nworker: {image: a, handlers: [a], terminationGracePeriod: 50m}"
    [finding] = checked(queue(spec)).findings
    assert finding.severity == "warning"
    assert 'found "50m": is shorter than the longest timeout, 1h' in finding.message


class TestAcrossDocuments:
    def test_one_name_twice(self):
        report = checked(queue("replicas: 1") + "---\n" + queue("replicas: 2\nqueueName: other"))
        [finding] = report.findings
        assert (finding.line, finding.document, finding.field) == (9, 2, "metadata.name")
        assert finding.message == 'found "emails": another JobQueue has this name: queues.yaml:3'

    def test_one_name_of_two_kinds_or_namespaces(self):
        texts = [
            queue("replicas: 1"),
            queue("replicas: 1", namespace="shop"),
            queue('endpoints: ["redis://a:1"]').replace("JobQueue", "RedisConnection"),
        ]
        assert checked("---\n".join(texts)).findings == ()

    def test_one_queue_twice(self):
        first = queue("redisRef: {name: a}")
        second = queue("redisRef: {name: a}\nqueueName: emails", name="mails")
        elsewhere = queue("redisRef: {name: b}\nqueueName: emails", name="others")
        [finding] = checked(f"{first}---\n{elsewhere}---\n{second}").findings
        assert (finding.line, finding.document, finding.field) == (19, 3, "spec.queueName")
        assert (
            finding.message == 'found "emails": another JobQueue declares this queue on the same Redis: queues.yaml:3'
        )

    def test_across_files(self, tmp_path: Path):
        (tmp_path / "a.yaml").write_text(queue("replicas: 1"))
        (tmp_path / "b.yaml").write_text(queue("replicas: 1"))
        [finding] = checks.check_files([tmp_path / "a.yaml", tmp_path / "b.yaml"]).findings
        assert finding.file == str(tmp_path / "b.yaml")
        assert f"{tmp_path}/a.yaml:3" in finding.message

    def test_findings_stand_in_the_files_order(self):
        text = queue("deadLetter: {jobQueueRef: {name: a}}") + "---\nx: y\n---\n" + queue("timeout: 5", name="b")
        assert [each.line for each in checked(text).findings] == sorted(each.line for each in checked(text).findings)
        assert len(checked(text).findings) == 3


def test_an_object_without_a_file():
    emails = JobQueue(metadata={"name": "emails"}, spec={"schedules": [{"name": "a", "job": "a", "cron": "x x x x x"}]})
    [finding] = checks.check(emails)
    assert (finding.file, finding.line, finding.field) == ("", 0, "spec.schedules[0].cron")
    assert str(finding).startswith("spec.schedules[0].cron: found")


class TestPayloadSchema:
    @pytest.mark.parametrize(
        "schema",
        [
            {},
            {"$schema": schemas.DIALECT, "type": "object", "required": ["a"], "additionalProperties": False},
            {"$defs": {"a/b~c": {"type": "string"}}, "items": {"$ref": "#/$defs/a~1b~0c"}},
            {"$defs": {"x": {"$anchor": "name", "type": "string"}}, "properties": {"a": {"$ref": "#name"}}},
            {"properties": {"$ref": {"type": "string"}, "$id": {}}, "examples": [{"$ref": "http://x/"}]},
            {"properties": {"children": {"items": {"$ref": "#"}}}},  # a tree: each step goes deeper into the value
            {"enum": [{"$ref": "http://x/"}], "const": {"$ref": "http://x/"}},
            {"$id": "https://shop.example.com/welcome"},
        ],
    )
    def test_taken(self, schema: dict[str, JsonValue]):
        assert list(schemas.problems(schema)) == []

    @pytest.mark.parametrize(
        ("schema", "path", "message"),
        [
            ({"type": "strng"}, ("type",), "is not JSON Schema 2020-12"),
            ({"properties": {"a": {"minimum": "5"}}}, ("properties", "a", "minimum"), "is not JSON Schema"),
            ({"pattern": "("}, ("pattern",), "is not JSON Schema"),
            ({"$schema": "http://json-schema.org/draft-07/schema#"}, ("$schema",), "or be left out"),
            ({"$schema": {}}, ("$schema",), "or be left out"),
            ({"items": {"$ref": "http://x/y.json"}}, ("items", "$ref"), "refers outside of the schema"),
            ({"items": {"$ref": "other.json#/a"}}, ("items", "$ref"), "refers outside of the schema"),
            ({"items": {"$ref": "file:///etc/passwd"}}, ("items", "$ref"), "refers outside of the schema"),
            ({"items": {"$dynamicRef": "http://x/"}}, ("items", "$dynamicRef"), "refers outside of the schema"),
            ({"allOf": [{"$ref": "#/$defs/none"}]}, ("allOf", 0, "$ref"), "refers to no schema of this one"),
            ({"$ref": "#name"}, ("$ref",), "refers to no schema of this one"),
            ({"$ref": "#"}, (), "refers to itself without end"),
            ({"$defs": {"a": {"$id": "b"}}}, ("$defs", "a", "$id"), "has no `$id`"),
            (
                {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}},
                ("$defs", "a"),
                "refers to itself without end",
            ),
        ],
    )
    def test_refused(self, schema: dict[str, JsonValue], path: tuple[str | int, ...], message: str):
        [problem] = schemas.problems(schema)
        assert problem.path == path
        assert message in problem.message

    def test_nested_beyond_reason(self):
        schema: dict[str, JsonValue] = {}
        for _ in range(5000):
            schema = {"not": schema}
        [problem] = schemas.problems(schema)
        assert problem.message == "is nested too deeply"

    def test_more_than_anybody_needs(self):
        [problem] = schemas.problems({"enum": list(range(schemas.MOST_PARTS))})
        assert problem.message == "has more than 10000 parts"

    def test_the_line_is_that_of_the_place(self):
        spec = "payloadSchema:\n  properties:\n    a:\n      type: strng\n    b: {$ref: 'http://x'}"
        [finding] = checked(queue(spec)).findings
        assert (finding.line, finding.field) == (8, "spec.payloadSchema.properties.a.type")
