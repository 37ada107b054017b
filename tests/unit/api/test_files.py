"""Mistakes in YAML: each is named with its line, its field, what was found, what is allowed."""

import textwrap
from pathlib import Path

import pytest

from bullpen.api import files
from bullpen.api.findings import Finding, did_you_mean, dotted, shown

DURATION = 'allowed: a duration above zero, such as "500ms", "30s", "5m" or "1h30m"'


def queue(spec: str) -> str:
    head = "apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata:\n  name: emails\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def connection(spec: str, kind: str = "RedisConnection") -> str:
    return queue(spec).replace("JobQueue", kind).replace("emails", "shop")


def marked_line(text: str) -> int:
    """The line that carries the mark `# <-`."""
    [line] = [number for number, line in enumerate(text.splitlines(), start=1) if "# <-" in line]
    return line


def only(text: str) -> Finding:
    loaded = files.loads(text, file="queues.yaml")
    assert [each for each in loaded.documents if each.object] == []
    [finding] = loaded.findings
    assert (finding.severity, finding.file, finding.document) == ("error", "queues.yaml", 1)
    return finding


GOOD = [
    "replicas: 3",
    "paused: false",
    "paused: null",
    "queueName: Shop mails {now}",
    "timeout: 1h30m",
    "timeout: 99999h",
    "retry: {backoff: {delay: 0s}}",
    "retry: {backoff: {type: Fixed, delay: 5m}}",
    "retry: {backoff: {delay: 5m}}",
    'retry: {backoff: {factor: "100", jitter: 100%}}',
    "retention: {completed: {count: 0}}",
    "scaling: {mode: Manual}",
    "scaling: {mode: Hold}",
    "scaling: {minReplicas: 2, maxReplicas: 2, wait: 30s, zeroAfter: 0s}",
    "scaling: {maxReplicas: 1, behavior: {scaleUp: {policies: [{type: Pods, value: 4, periodSeconds: 15}]}}}",
    "scaleTargetRef: {name: legacy-node}",
    "workerPoolRef: {name: small-jobs, weight: 3}",
    'worker: {image: a, handlers: ["a.b:c"], env: [{name: A, value: "5"}, {name: B, valueFrom: {secretKeyRef: {}}}]}',
    "worker: {image: a, handlers: [a], strategy: {maxSurge: 0, maxUnavailable: 1}}",
    'schedules: [{name: x, job: x, cron: "@daily"}]',
    'jobs: [{name: "some job: really", retry: {attempts: 1}}]',
    "payloadSchema: {properties: {priority: {type: integer}}}",
]


@pytest.mark.parametrize("spec", GOOD)
def test_taken(spec: str):
    loaded = files.loads(queue(spec))
    assert loaded.findings == ()
    assert len(loaded.jobqueues) == 1


BAD = [
    # what it is
    ("timeOut: 10m", "spec.timeOut", 'unknown field; did you mean "timeout"?'),
    ("maxReplicas: 5", "spec.maxReplicas", 'unknown field; did you mean "scaling.maxReplicas"?'),
    ("colour: red", "spec.colour", "unknown field; allowed: className, queueName"),
    ("queue_name: a", "spec.queue_name", 'unknown field; did you mean "queueName"?'),
    ("retry:\n  max_attempts: 5 # <-", "spec.retry.max_attempts", 'unknown field; did you mean "attempts"?'),
    ("concurrency:\n  per_worker: 5 # <-", "spec.concurrency.per_worker", 'did you mean "perWorker"?'),
    ("retry: 5", "spec.retry", "found 5; allowed: a mapping with attempts, backoff"),
    ("retry: [5]", "spec.retry", "found a list of 1; allowed: a mapping"),
    (
        "jobs: {charge: {}}",
        "spec.jobs",
        "found a mapping; allowed: a list of at most 256 entries, each a mapping with name",
    ),
    ("schedules:", "spec.schedules", "found nothing; allowed: a list"),
    ("rateLimit:\n  jobs: 100", "spec.rateLimit.per", f"is missing; {DURATION}"),
    # numbers and text
    ('retry:\n  attempts: "five" # <-', "spec.retry.attempts", 'found "five"; allowed: an integer from 1 to 100'),
    ('retry: {attempts: "5"}', "spec.retry.attempts", 'found "5"; allowed: an integer from 1 to 100'),
    ("retry: {attempts: 0}", "spec.retry.attempts", "found 0; allowed: an integer from 1 to 100"),
    ("retry: {attempts: 101}", "spec.retry.attempts", "found 101; allowed"),
    ("retry: {attempts: 2.0}", "spec.retry.attempts", "found 2.0; allowed: an integer"),
    ("retry: {attempts: true}", "spec.retry.attempts", "found true; allowed: an integer"),
    ('closed: "true"', "spec.closed", 'found "true"; allowed: true or false'),
    ("paused: 1", "spec.paused", "found 1; allowed: true or false"),
    ("queueName: 5", "spec.queueName", "found 5; allowed: a BullMQ queue name"),
    ('queueName: "a:b"', "spec.queueName", 'found "a:b"; allowed: a BullMQ queue name: 1 to 200 characters, no colon'),
    ('queueName: ""', "spec.queueName", 'found ""; allowed'),
    ('queueName: "a\\nb"', "spec.queueName", "no control characters"),
    ("concurrency: {total: 0}", "spec.concurrency.total", "found 0; allowed: an integer from 1 to 1000000"),
    # durations
    ("timeout: 30", "spec.timeout", f"found 30; {DURATION}"),
    ("timeout: 12:30", "spec.timeout", f'found "12:30"; {DURATION}'),
    ("timeout: 5 minutes", "spec.timeout", f'found "5 minutes"; {DURATION}'),
    ("timeout: 1.5h", "spec.timeout", f'found "1.5h"; {DURATION}'),
    ("timeout: 0s", "spec.timeout", f'found "0s"; {DURATION}'),
    ("timeout: 99999h1s", "spec.timeout", "found"),
    ("recovery: {lockDuration: 999ms}", "spec.recovery.lockDuration", 'found "999ms"; allowed: a duration from "1s"'),
    ("recovery: {checkInterval: 99ms}", "spec.recovery.checkInterval", 'allowed: a duration from "100ms"'),
    ('timeout: "5m\\n"', "spec.timeout", "found"),
    ("retry: {backoff: {delay: -1s}}", "spec.retry.backoff.delay", 'allowed: a duration such as "0s"'),
    # percentages, decimals, choices
    ("retry: {backoff: {jitter: 0.5}}", "spec.retry.backoff.jitter", 'found 0.5; allowed: a percentage from "0%"'),
    ("retry: {backoff: {jitter: 101%}}", "spec.retry.backoff.jitter", 'found "101%"; allowed: a percentage'),
    ("retry: {backoff: {factor: 2}}", "spec.retry.backoff.factor", "found 2; allowed: a decimal number"),
    ('retry: {backoff: {factor: "0.5"}}', "spec.retry.backoff.factor", 'allowed: a decimal number from "1" to "100"'),
    (
        "retry:\n  backoff:\n    type: exponential # <-",
        "spec.retry.backoff.type",
        'allowed: Exponential, Linear, Fixed or Immediate; did you mean "Exponential"?',
    ),
    ("retry: {backoff: {type: random}}", "spec.retry.backoff.type", "allowed: Exponential, Linear, Fixed or Immediate"),
    ("deletion: {policy: Keep}", "spec.deletion.policy", 'found "Keep"; allowed: Retain, Drain or Delete'),
    ("redisRef: {kind: Redis, name: x}", "spec.redisRef.kind", "allowed: RedisConnection or ClusterRedisConnection"),
    ("worker: {image: a, handlers: [a], strategy: {maxSurge: 101%}}", "spec.worker.strategy.maxSurge", 'such as "25%"'),
    ("worker: {image: a, handlers: [a], strategy: {maxSurge: -1}}", "spec.worker.strategy.maxSurge", "found -1"),
    # lists and maps
    ("jobs:\n  - name: a\n  - name: b\n  - name: a # <-", "spec.jobs[2].name", 'found "a": the name stands twice'),
    ("jobs:\n  - name: a\n  - timeout: 5s # <-", "spec.jobs[1].name", "is missing; allowed: a job name"),
    ("worker:\n  image: a\n  handlers: [] # <-", "spec.worker.handlers", "found 0 entries; allowed: a list of 1 to 64"),
    ("worker: {image: a, handlers: [shop/jobs.py]}", "spec.worker.handlers[0]", 'a Python module such as "shop.jobs"'),
    ("worker: {image: a, handlers: ['a:b:c']}", "spec.worker.handlers[0]", 'found "a:b:c"; allowed'),
    ("worker: {image: a}", "spec.worker.handlers", "is missing; allowed: a list of 1 to 64 entries"),
    ("worker: {handlers: [a]}", "spec.worker.image", "is missing; allowed: text of 1 to 1024 characters"),
    (
        "worker:\n  image: a\n  handlers: [a]\n  env:\n    - name: PORT\n      value: 8080 # <-",
        "spec.worker.env[0].value",
        "found a value (not shown); allowed: text",
    ),
    (
        "priorities: {levels: {}, default: a}",
        "spec.priorities.levels",
        "found 0 entries; allowed: a mapping of 1 to 64",
    ),
    ("priorities: {levels: {a: 0}, default: a}", "spec.priorities.levels.a", "an integer from 1 to 2097151"),
    ("priorities: {levels: {a: 2097152}, default: a}", "spec.priorities.levels.a", "an integer from 1 to 2097151"),
    (
        "priorities: {levels: {a b: 1}, default: a b}",
        "spec.priorities.levels",
        'found the key "a b"; allowed: as a key',
    ),
    # rules across fields
    (
        "priorities:\n  levels: {high: 1, low: 5}\n  default: normal # <-",
        "spec.priorities.default",
        'found "normal": must name one of `levels`: high, low',
    ),
    ("scaling:\n  minReplicas: 1", "spec.scaling.maxReplicas", "is required in mode Auto"),
    ("scaling: {maxReplicas: 0}", "spec.scaling.maxReplicas", "must be at least 1 in mode Auto"),
    (
        "scaling:\n  minReplicas: 3 # <-\n  maxReplicas: 2",
        "spec.scaling.minReplicas",
        "found 3: must not be above `maxReplicas` (2)",
    ),
    (
        "scaling:\n  maxReplicas: 2\n  wait: 30s # <-\n  jobsPerReplica: 5",
        "spec.scaling.wait",
        "stands beside `jobsPerReplica`: take one of the two",
    ),
    (
        'scaling:\n  maxReplicas: 2\n  windows:\n    - {name: a, schedule: "0 8 * * *", duration: 1h, minReplicas: 3} # <-',
        "spec.scaling.windows[0].minReplicas",
        "must not be above `maxReplicas` (2)",
    ),
    (
        "worker: {image: a, handlers: [a]}\nworkerPoolRef: {name: small} # <-",
        "spec.workerPoolRef",
        "stands beside `worker`: take at most one of worker, scaleTargetRef, workerPoolRef",
    ),
    ("retry: {backoff: {delay: 10s, maxDelay: 5s}}", "spec.retry.backoff.maxDelay", 'found "5s": must not be shorter'),
    (
        "retry: {backoff: {delay: 1s, maxDelay: 10s}}\njobs:\n  - name: a\n    retry: {backoff: {delay: 20s}} # <-",
        "spec.jobs[0].retry.backoff.delay",
        "`maxDelay` must not be shorter than `delay`",
    ),
    ("schedules: [{name: a, job: a}]", "spec.schedules[0]", "needs `cron` or `every`"),
    ('schedules: [{name: a, job: a, every: 5s, cron: "* * * * *"}]', "spec.schedules[0].every", "stands beside `cron`"),
    ("schedules: [{name: a, job: a, every: 5s, timeZone: UTC}]", "spec.schedules[0].timeZone", "belongs to `cron`"),
    ("deadLetter: {jobQueueRef: {name: emails}}", "spec.deadLetter.jobQueueRef.name", "cannot be its own"),
    (
        "worker: {image: a, handlers: [a], strategy: {maxSurge: 0}}",
        "spec.worker.strategy.maxSurge",
        "so is `maxUnavailable`: a rollout could never move",
    ),
    (
        "worker: {image: a, handlers: [a], env: [{name: A, value: x, valueFrom: {}}]}",
        "spec.worker.env[0].valueFrom",
        "stands beside `value`",
    ),
]


@pytest.mark.parametrize(("spec", "field", "message"), BAD)
def test_refused(spec: str, field: str, message: str):
    text = queue(spec)
    finding = only(text)
    assert finding.field == field
    assert message in finding.message
    assert finding.line == (marked_line(text) if "# <-" in text else 6)
    assert str(finding) == f"queues.yaml:{finding.line}: {field}: {finding.message}"


BAD_CONNECTIONS = [
    ("endpoints: []", "spec.endpoints", "found 0 entries"),
    ('endpoints: ["r:6379"]', "spec.endpoints[0]", 'found "r:6379"; allowed: redis://host:port/db'),
    ('endpoints: ["redis://a:1", "redis://b:1"]', "spec.endpoints[1]", "topology Standalone has one endpoint"),
    ('topology: Cluster\nendpoints: ["redis://a:1", "rediss://b:1"] # <-', "spec.endpoints[0]", "all endpoints begin"),
    ('topology: Cluster\nendpoints: ["redis://a:1/1"] # <-', "spec.endpoints[0]", "database 0 only"),
    ('endpoints: ["redis://a:1"]\ntls: {} # <-', "spec.tls", "needs endpoints that begin with rediss://"),
    ('endpoints: ["redis://a:1"]\nsentinel: {masterName: a} # <-', "spec.sentinel", "goes with topology Sentinel"),
    ('topology: Sentinel\nendpoints: ["redis://a:1"]', "spec.sentinel", "is required with topology Sentinel"),
    ('endpoints: ["redis://a:1"]\nprefix: "{queue}" # <-', "spec.prefix", "the placeholder {namespace}"),
    ('endpoints: ["redis://a:1"]\nauth: {username: {}} # <-', "spec.auth.username", "needs exactly one of"),
    ('endpoints: ["rediss://a:1"]\ntls: {ca: {}} # <-', "spec.tls.ca", "needs exactly one of"),
    ('endpoints: ["redis://a:1"]\nallowedNamespaces: {} # <-', "spec.allowedNamespaces", "unknown field"),
]


@pytest.mark.parametrize(("spec", "field", "message"), BAD_CONNECTIONS)
def test_connections_refused(spec: str, field: str, message: str):
    text = connection(spec)
    finding = only(text)
    assert (finding.field, message in finding.message) == (field, True), finding
    expected = {True: 6, False: 5}["sentinel`" not in field and "is required" not in message]
    assert finding.line == (marked_line(text) if "# <-" in text else expected)


def test_a_connection_for_all_names_who_may():
    finding = only(connection('endpoints: ["redis://a:1"]', "ClusterRedisConnection"))
    assert (finding.field, finding.line) == ("spec.allowedNamespaces", 5)


@pytest.mark.parametrize(
    "spec",
    [
        'endpoints: ["redis://me:hunter2@r:6379"]',
        'endpoints: ["redis://:hunter2/x@r:6379"]',
        'endpoints: ["redis://r:6379?password=hunter2"]',
        'endpoints: ["redis://r:6379"]\nauth: {password: hunter2}',
        'endpoints: ["redis://r:6379"]\nauth: {password: {value: hunter2}}',
        'endpoints: ["redis://r:6379"]\nauth: {password: {secretKeyRef: hunter2}}',
        'endpoints: ["redis://r:6379"]\npassword: hunter2',
        'endpoints: ["redis://r:6379"]\nprefix: "redis://me:hunter2@r"',
    ],
)
def test_secrets_are_never_shown(spec: str):
    loaded = files.loads(connection(spec))
    assert loaded.findings
    assert "hunter2" not in repr(loaded.findings)


class TestObjects:
    @pytest.mark.parametrize(
        ("text", "field", "message"),
        [
            ("apiVersion: bullpen.dev/v1\nkind: JobQueue", "apiVersion", "allowed: bullpen.dev/v1alpha1"),
            ("apiVersion: v1\nkind: JobQueue", "apiVersion", "allowed: bullpen.dev/v1alpha1 for a JobQueue"),
            ("apiVersion: bulpen.dev/v1alpha1\nkind: JobQueue", "apiVersion", "allowed: bullpen.dev/v1alpha1"),
            ("apiVersion: bullpen.dev/v1alpha1\nkind: Jobqueue", "kind", 'did you mean "JobQueue"?'),
            ("apiVersion: bullpen.dev/v1alpha1\nkind: WorkerPool", "kind", "allowed: JobQueue, RedisConnection"),
            ("apiVersion: bullpen.dev/v1alpha1", "kind", "is missing"),
            ("kind: JobQueue", "apiVersion", "is missing"),
            ("apiVersion: [1]\nkind: JobQueue", "apiVersion", "is missing or no text"),
            ("- 1", "", "found a list of 1; allowed: a Kubernetes object"),
            ("just text", "", "allowed: a Kubernetes object"),
            ("apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nspec: {}", "metadata", "is missing"),
        ],
    )
    def test_neither_ours_nor_anybodys(self, text: str, field: str, message: str):
        finding = only(text)
        assert finding.field == field
        assert message in finding.message

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("Emails", 'found "Emails"; allowed: a DNS label of at most 45 characters'),
            ("a" * 46, "at most 45 characters"),
            ("a.b", "a DNS label"),
            ("-a", "a DNS label"),
            ("5", "found 5; allowed"),
        ],
    )
    def test_names(self, name: str, message: str):
        finding = only(f"apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata:\n  name: {name}\n")
        assert (finding.field, finding.line) == ("metadata.name", 4)
        assert message in finding.message

    def test_other_kinds_are_left_alone_even_where_they_are_odd(self):
        loaded = files.loads("apiVersion: v1\nkind: Secret\ndata: {a: no, a: 1}\n---\n---\n" + queue("replicas: 1"))
        assert loaded.findings == ()
        assert [document.kind for document in loaded.others] == ["Secret"]
        assert [document.index for document in loaded.documents] == [3]

    def test_each_document_speaks_for_itself(self):
        text = queue("replicas: x") + "---\n" + queue("replicas: 1") + "---\n" + queue("timeout: y")
        loaded = files.loads(text)
        assert [(each.document, each.line, each.field) for each in loaded.findings] == [
            (1, 6, "spec.replicas"),
            (3, 20, "spec.timeout"),
        ]
        assert len(loaded.jobqueues) == 1

    def test_several_mistakes_of_one_document_are_told_at_once(self):
        loaded = files.loads(queue("replicas: x\nretry: {attempts: 0, backoff: {type: Never}}\nclosed: 1"))
        assert sorted((each.line, each.field) for each in loaded.findings) == [
            (6, "spec.replicas"),
            (7, "spec.retry.attempts"),
            (7, "spec.retry.backoff.type"),
            (8, "spec.closed"),
        ]

    def test_two_rules_of_one_object_are_told_at_once(self):
        loaded = files.loads(queue("scaling: {jobsPerReplica: 1, wait: 1s}"))
        assert [each.field for each in loaded.findings] == ["spec.scaling.maxReplicas", "spec.scaling.wait"]


class TestLoading:
    def test_files_and_folders(self, tmp_path: Path):
        (tmp_path / "b.yaml").write_text(queue("replicas: 1").replace("emails", "b"))
        (tmp_path / "a.yml").write_text(queue("replicas: 1").replace("emails", "a"))
        (tmp_path / "notes.txt").write_text("{{")
        loaded = files.load([tmp_path, tmp_path / "b.yaml"])
        assert [each.name for each in loaded.jobqueues] == ["a", "b", "b"]

    def test_what_cannot_be_read(self, tmp_path: Path):
        (tmp_path / "empty").mkdir()
        loaded = files.load([tmp_path / "none.yaml", tmp_path / "empty"])
        assert [each.message for each in loaded.findings] == [
            "cannot be read: No such file or directory",
            "is a folder without *.yaml and *.yml files",
        ]
        assert str(loaded.findings[0]) == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"

    def test_a_large_file_is_not_read_to_its_end(self, tmp_path: Path):
        large = tmp_path / "large.yaml"
        with large.open("wb") as stream:
            stream.truncate(1 << 40)
        [finding] = files.load([large]).findings
        assert finding.message == "is larger than 5 MiB"


@pytest.mark.parametrize(
    "spec",
    [
        "\n".join(f"field{n}: 1" for n in range(50_000)),
        "x" * 900 + ": 1",
        f'timeout: "{"/" * 1_000_000}"',
        f'timeout: "{"9h" * 500_000}"',
        f'queueName: "{"a:" * 500_000}"',
        f"jobs: [{'{name: a},' * 50_000}]",
        "payloadSchema: {x: no}\n" * 20_000,
    ],
    ids=lambda spec: spec[:20],
)
@pytest.mark.timeout(120)
def test_hostile_specs_cost_little_and_are_told_briefly(spec: str):
    loaded = files.loads(queue(spec))
    assert 1 <= len(loaded.findings) <= 200
    assert all(len(str(each)) < 1000 for each in loaded.findings)


def test_words():
    assert dotted(("spec", "jobs", 0, "data", "a b")) == 'spec.jobs[0].data["a b"]'
    assert did_you_mean("perworker", ["perWorker", "total"]) == '; did you mean "perWorker"?'
    assert did_you_mean("zzz", ["perWorker", "total"]) == ""
    assert shown("x" * 100) == '"' + "x" * 58 + "…"
    assert shown("see redis://me:pw@host") == '"see redis://***@host"'
