"""Specs, and what must become of each, by the models and by a real API server alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

API_VERSION = "bullpen.dev/v1alpha1"

WORKER = {"image": "shop:1", "handlers": ["shop.jobs"]}
CRON = {"name": "digest", "job": "digest", "cron": "0 8 * * 1"}
ENDPOINTS = ["rediss://redis.infra.svc:6379/0"]


@dataclass(frozen=True)
class Case:
    """A spec, and the rules across fields that it breaks: by the names of the methods that state them."""

    spec: Mapping[str, Any]
    breaks: tuple[str, ...] = ()
    kind: str = "JobQueue"

    def object(self, name: str = "emails", namespace: str = "shop") -> dict[str, Any]:
        return an_object(self.kind, dict(self.spec), name, namespace)


def an_object(kind: str, spec: Any, name: str = "emails", namespace: str = "shop") -> dict[str, Any]:
    metadata = {"name": name} if kind == "ClusterRedisConnection" else {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _worker(**more: Any) -> dict[str, Any]:
    return {"worker": {**WORKER, **more}}


def _env(**more: Any) -> dict[str, Any]:
    return _worker(env=[{"name": "A", **more}])


def _job(*, queue: Mapping[str, Any] = {}, **backoff: Any) -> dict[str, Any]:
    return {
        "retry": {"backoff": dict(queue)},
        "jobs": [{"name": "a"}, {"name": "b", "retry": {"attempts": 2}}, {"name": "c", "retry": {"backoff": backoff}}],
    }


def _connection(*breaks: str, endpoints: Any = ENDPOINTS, **spec: Any) -> Case:
    return Case({"endpoints": endpoints, **spec}, breaks, "RedisConnection")


def _offered(*breaks: str, **selector: Any) -> Case:
    spec = {"endpoints": ENDPOINTS, "allowedNamespaces": {"selector": selector}}
    return Case(spec, breaks, "ClusterRedisConnection")


def _expression(operator: str, **more: Any) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "team", "operator": operator, **more}]}


SECRET = {"name": "redis", "key": "password"}
WINDOW = {"name": "office", "schedule": "0 8 * * 1-5", "duration": "10h", "minReplicas": 3}
SENTINEL = {"masterName": "shop"}

RULES = [
    Case({}),
    # who works
    Case(_worker()),
    Case({"scaleTargetRef": {"name": "legacy"}}),
    Case({**_worker(), "scaleTargetRef": {"name": "legacy"}}, ("_has_one_kind_of_workers",)),
    Case({**_worker(), "workerPoolRef": {"name": "pool"}}, ("_has_one_kind_of_workers",)),
    Case({"scaleTargetRef": {"name": "a"}, "workerPoolRef": {"name": "b"}}, ("_has_one_kind_of_workers",)),
    Case(_worker(strategy={"maxSurge": 0}), ("_lets_a_rollout_move",)),
    Case(_worker(strategy={"maxSurge": "0%", "maxUnavailable": "0%"}), ("_lets_a_rollout_move",)),
    Case(_worker(strategy={"maxSurge": 0, "maxUnavailable": "0%"}), ("_lets_a_rollout_move",)),
    Case(_worker(strategy={"maxSurge": 0, "maxUnavailable": 1})),
    Case(_worker(strategy={"maxSurge": "0%", "maxUnavailable": "1%"})),
    Case(_env(value="x")),
    Case(_env(valueFrom={"secretKeyRef": SECRET})),
    Case(_env(value="", valueFrom={"secretKeyRef": SECRET})),
    Case(_env(value="x", valueFrom={"secretKeyRef": SECRET}), ("_has_one_source",)),
    Case(_env(value="x", valueFrom={}), ("_has_one_source",)),
    # how often
    Case({"retry": {"backoff": {"delay": "10s", "maxDelay": "10s"}}}),
    Case({"retry": {"backoff": {"delay": "1h", "maxDelay": "60m"}}}),
    Case({"retry": {"backoff": {"delay": "10s", "maxDelay": "9s"}}}, ("_bounds_the_delay",)),
    Case({"retry": {"backoff": {"delay": "1s1s", "maxDelay": "1999ms"}}}, ("_bounds_the_delay",)),
    Case({"retry": {"backoff": {"maxDelay": "1s"}}}, ("_bounds_the_delay",)),
    Case({"retry": {"backoff": {"type": "Linear", "maxDelay": "1s"}}}, ("_bounds_the_delay",)),
    Case({"retry": {"backoff": {"type": "Fixed", "maxDelay": "1s"}}}),
    Case({"retry": {"backoff": {"type": "Immediate", "maxDelay": "1s"}}}),
    Case(_job()),
    Case(_job(delay="5m")),
    Case(_job(delay="5s", maxDelay="5s")),
    Case(_job(delay="5s", maxDelay="4s"), ("_has_jobs_whose_backoff_fits",)),
    Case(_job(maxDelay="1s"), ("_has_jobs_whose_backoff_fits",)),
    Case(_job(queue={"maxDelay": "10s"}, delay="20s"), ("_has_jobs_whose_backoff_fits",)),
    Case(_job(queue={"maxDelay": "10s"}, delay="20s", type="Fixed")),
    Case(_job(queue={"maxDelay": "10s", "type": "Fixed"}, delay="20s")),
    Case(_job(queue={"maxDelay": "1s", "type": "Fixed"}, type="Linear"), ("_has_jobs_whose_backoff_fits",)),
    Case(_job(queue={"delay": "20s"}, maxDelay="10s"), ("_has_jobs_whose_backoff_fits",)),
    Case(_job(queue={"delay": "20s"}, maxDelay="20s")),
    # in which order
    Case({"priorities": {"levels": {"high": 1, "low": 9}, "default": "low"}}),
    Case({"priorities": {"levels": {"high": 1, "low": 9}, "default": "normal"}}, ("_defaults_to_a_level",)),
    Case({"priorities": {"levels": {"high": 1}, "default": "1"}}, ("_defaults_to_a_level",)),
    # when
    Case({"schedules": [CRON, {"name": "sweep", "every": "5m", "job": "sweep"}]}),
    Case({"schedules": [{**CRON, "timeZone": "Europe/Berlin"}]}),
    Case({"schedules": [{**CRON, "every": "5m"}]}, ("_comes_one_way",)),
    Case({"schedules": [{"name": "a", "job": "a"}]}, ("_comes_at_all",)),
    Case(
        {"schedules": [{"name": "a", "job": "a", "every": "5m", "timeZone": "UTC"}]},
        ("_has_a_zone_for_its_cron",),
    ),
    Case(
        {"schedules": [CRON, {"name": "a", "job": "a", "timeZone": "UTC"}]},
        ("_comes_at_all", "_has_a_zone_for_its_cron"),
    ),
    # how many
    Case({"scaling": {"maxReplicas": 1}}),
    Case({"scaling": {}}, ("_has_a_maximum",)),
    Case({"scaling": {"mode": "Auto", "minReplicas": 3}}, ("_has_a_maximum",)),
    Case({"scaling": {"mode": "Hold"}}),
    Case({"scaling": {"mode": "Manual", "minReplicas": 3}}),
    Case({"scaling": {"maxReplicas": 0}}, ("_allows_a_replica",)),
    Case({"scaling": {"mode": "Manual", "maxReplicas": 0}}),
    Case({"scaling": {"maxReplicas": 0, "minReplicas": 1}}, ("_allows_a_replica", "_keeps_its_bounds_in_order")),
    Case({"scaling": {"minReplicas": 3, "maxReplicas": 3}}),
    Case({"scaling": {"minReplicas": 3, "maxReplicas": 2}}, ("_keeps_its_bounds_in_order",)),
    Case({"scaling": {"mode": "Hold", "minReplicas": 3, "maxReplicas": 2}}, ("_keeps_its_bounds_in_order",)),
    Case({"scaling": {"maxReplicas": 3, "jobsPerReplica": 2}}),
    Case({"scaling": {"maxReplicas": 3, "wait": "30s"}}),
    Case({"scaling": {"maxReplicas": 3, "wait": "30s", "jobsPerReplica": 2}}, ("_measures_demand_one_way",)),
    Case({"scaling": {"maxReplicas": 3, "windows": [WINDOW]}}),
    Case({"scaling": {"maxReplicas": 2, "windows": [WINDOW]}}, ("_keeps_its_windows_in_order",)),
    Case({"scaling": {"mode": "Hold", "windows": [WINDOW]}}),
    # where to
    Case({"deadLetter": {"jobQueueRef": {"name": "emails-dead"}}}),
    Case({"deadLetter": {"jobQueueRef": {"name": "emails"}}}, ("_is_not_its_own_dead_letter_queue",)),
    # Redis
    _connection(),
    _connection(endpoints=["redis://r:6379"]),
    _connection(endpoints=["redis://[::1]:6379/15"]),
    _connection("_is_one_server_when_alone", endpoints=["redis://a:1", "redis://b:1"]),
    _connection(endpoints=["redis://a:1", "redis://b:1"], topology="Cluster"),
    _connection(endpoints=["redis://a:1/0", "redis://b:1"], topology="Cluster"),
    _connection("_has_no_databases_as_a_cluster", endpoints=["redis://a:1/1"], topology="Cluster"),
    _connection("_has_no_databases_as_a_cluster", endpoints=["redis://a:1", "redis://a:1/10"], topology="Cluster"),
    _connection("_has_no_databases_as_a_cluster", endpoints=["redis://a:1/00"], topology="Cluster"),
    _connection("_is_secured_throughout", endpoints=["redis://a:1", "rediss://b:1"], topology="Cluster"),
    _connection("_is_secured_throughout", endpoints=["rediss://a:1", "redis://b:1"], topology="Cluster", tls={}),
    _connection(tls={}),
    _connection("_has_endpoints_for_its_tls", endpoints=["redis://a:1"], tls={}),
    _connection(topology="Sentinel", sentinel=SENTINEL),
    _connection("_has_its_sentinel", topology="Sentinel"),
    _connection("_has_no_sentinel_to_ignore", sentinel=SENTINEL),
    _connection("_has_no_sentinel_to_ignore", topology="Cluster", sentinel=SENTINEL),
    _connection(auth={"username": {"value": "me"}, "password": {"secretKeyRef": SECRET}}),
    _connection(auth={"username": {"secretKeyRef": SECRET}}),
    _connection("_has_one_source", auth={"username": {}}),
    _connection("_has_one_source", auth={"username": {"value": "me", "secretKeyRef": SECRET}}),
    _connection(tls={"ca": {"configMapKeyRef": SECRET}, "clientCertificate": {"secretName": "redis-client"}}),
    _connection("_has_one_source", tls={"ca": {}}),
    _connection("_has_one_source", tls={"ca": {"secretKeyRef": SECRET, "configMapKeyRef": SECRET}}),
    _offered(),
    _offered(matchLabels={"team": "shop"}),
    _offered(**_expression("In", values=["shop"])),
    _offered(**_expression("Exists")),
    _offered(**_expression("DoesNotExist", values=[])),
    _offered("_has_values_to_compare", **_expression("In")),
    _offered("_has_values_to_compare", **_expression("NotIn", values=[])),
    _offered("_has_no_values_to_ignore", **_expression("Exists", values=["shop"])),
]


def _lengths(*texts: str) -> list[Mapping[str, Any]]:
    return [{"timeout": text} for text in texts]


ACCEPTED: list[Mapping[str, Any]] = [
    *_lengths("1ms", "99999h", "00001s", "99998h59m60s", "1h1h1m1ms"),
    {"scaling": {"maxReplicas": 1, "zeroAfter": "0s"}},
    {"retry": {"backoff": {"delay": "0s", "factor": "99.999", "jitter": "100%"}}},
    {"queueName": "Rechnungen für Köln, №5 🎉"},
    {"queueName": "x" * 200},
    {"queueName": "\u00a0"},
    {"queueName": "🎉" * 200},
    {"jobs": [{"name": "a:b c"}]},
    {"paused": True, "closed": True},
    _worker(strategy={"maxSurge": 10_000}),
    _worker(handlers=["a", "b.c", "b.c:d"], processes=64, podTemplate={"spec": {"nodeSelector": {"a": "b"}}}),
    _worker(env=[{"name": "a b", "value": "ß" * 10}], resources={"limits": {"cpu": 1}}),
    {"priorities": {"levels": {"a": 1, "B-1._c": 2_097_151}, "default": "a"}},
    {"payloadSchema": {"type": "object", "properties": {"n": {"type": "number", "multipleOf": 0.5}}}},
    {"schedules": [{"name": "a", "every": "1s", "job": "j", "data": {"a": [1, None, {"b": 2.5}]}}]},
    {"alerts": {"oldestJobAge": "5m", "failureRatio": "0%"}},
    {"replicas": 10_000},
    {"className": "team-a.example"},
]
"""Specs of a JobQueue that both take."""

REFUSED: list[tuple[str, Any]] = [
    *(
        ("timeout", text)
        for text in ("0s", "0h0m", "5", "", "1d", "-1s", "1.5s", "100000h", "99999h1ms", "1s ", "１s", 5)
    ),
    *(("timeout", text) for text in ("1h1h1h1h1h", True, {}, [])),
    ("scaling", {"maxReplicas": 1, "zeroAfter": "5"}),
    ("scaling", {"maxReplicas": 1, "wait": "0s"}),
    ("scaling", {"maxReplicas": 10_001}),
    ("scaling", {"maxReplicas": "1"}),
    ("scaling", {"maxReplicas": 1.5}),
    ("scaling", {"maxReplicas": 1, "mode": "auto"}),
    ("scaling", {"maxReplicas": 1, "behavior": {"scaleUp": {"selectPolicy": "Most"}}}),
    ("scaling", {"maxReplicas": 1, "behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601}}}),
    ("scaling", {"maxReplicas": 1, "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1}]}}}),
    ("scaling", {"maxReplicas": 1, "windows": [WINDOW, WINDOW]}),
    ("scaling", {"maxReplicas": 1, "windows": [{"name": "a", "schedule": "0 8 * * 1", "duration": "1h"}]}),
    ("queueName", "a:b"),
    ("queueName", "a\nb"),
    ("queueName", "a\x7f"),
    ("queueName", ""),
    ("queueName", "x" * 201),
    ("queueName", "🎉" * 201),
    ("paused", "true"),
    ("paused", 1),
    ("className", "A"),
    ("replicas", -1),
    ("replicas", 2**63),
    ("concurrency", {"perWorker": 0}),
    ("concurrency", [1]),
    ("rateLimit", {"jobs": 1}),
    ("retry", {"attempts": 101}),
    ("retry", {"backoff": {"factor": 2}}),
    ("retry", {"backoff": {"factor": "0.5"}}),
    ("retry", {"backoff": {"factor": "100.5"}}),
    ("retry", {"backoff": {"jitter": "101%"}}),
    ("retry", {"backoff": {"jitter": "05%"}}),
    ("retry", {"backoff": {"type": "Exponentiell"}}),
    ("jobs", [{"name": "a"}, {"name": "a"}]),
    ("jobs", [{"name": ""}]),
    ("jobs", [{}]),
    ("jobs", {"a": {}}),
    ("jobs", [{"name": f"job-{number}"} for number in range(257)]),
    ("priorities", {"levels": {}, "default": "a"}),
    ("priorities", {"levels": {"a b": 1}, "default": "a b"}),
    ("priorities", {"levels": {"": 1}, "default": ""}),
    ("priorities", {"levels": {"x" * 64: 1}, "default": "x"}),
    ("priorities", {"levels": {"-a": 1}, "default": "-a"}),
    ("priorities", {"levels": {"a": 0}, "default": "a"}),
    ("priorities", {"levels": {"a": 2_097_152}, "default": "a"}),
    ("priorities", {"levels": {f"level{number}": 1 for number in range(65)}, "default": "level0"}),
    ("schedules", [{**CRON, "cron": "* * *\n* *"}]),
    ("schedules", [{**CRON, "timeZone": "Europe Berlin"}]),
    ("schedules", [{**CRON, "name": "a b"}]),
    ("schedules", [{**CRON, "data": [1]}]),
    ("worker", {"image": "shop:1"}),
    ("worker", {"handlers": ["a"]}),
    ("worker", {**WORKER, "handlers": []}),
    ("worker", {**WORKER, "handlers": ["a-b"]}),
    ("worker", {**WORKER, "image": ""}),
    ("worker", {**WORKER, "image": "shop 1"}),
    ("worker", {**WORKER, "image": "shop\u00a01"}),
    ("worker", {**WORKER, "processes": 65}),
    ("worker", {**WORKER, "env": [{"name": "A"}, {"name": "A"}]}),
    ("worker", {**WORKER, "env": [{"name": "A", "value": 8080}]}),
    ("worker", {**WORKER, "env": [{"value": "x"}]}),
    ("worker", {**WORKER, "resources": []}),
    ("worker", {**WORKER, "podTemplate": {f"key{number}": 1 for number in range(257)}}),
    ("worker", {**WORKER, "strategy": {"maxSurge": 10_001}}),
    ("worker", {**WORKER, "strategy": {"maxSurge": -1}}),
    ("worker", {**WORKER, "strategy": {"maxSurge": "25"}}),
    ("worker", {**WORKER, "strategy": {"maxSurge": "025%"}}),
    ("worker", {**WORKER, "strategy": {"maxSurge": True}}),
    ("scaleTargetRef", {"kind": "Deployment"}),
    ("scaleTargetRef", {"name": "Legacy"}),
    ("redisRef", {"kind": "Redis", "name": "a"}),
    ("redisRef", {}),
    ("deadLetter", {"jobQueueRef": {"name": "a.b"}}),
    ("payloadSchema", "{}"),
    ("deletion", {"policy": "Keep"}),
    ("unknown", 1),
    ("retry", {"backof": {}}),
    ("jobs", [{"name": "a", "retries": 1}]),
]
"""Fields of a JobQueue's spec that both refuse, unknown ones where the API server is asked to be strict."""

REFUSED_CONNECTIONS: list[tuple[str, Any]] = [
    ("endpoints", []),
    ("endpoints", ["r:6379"]),
    ("endpoints", ["redis://me:hunter2@r:6379"]),
    ("endpoints", ["redis://:hunter2/x@r:6379"]),
    ("endpoints", ["redis://r:6379?password=hunter2"]),
    ("endpoints", ["redis://r:6379/x"]),
    ("endpoints", ["redis://r\u00a0:6379"]),
    ("endpoints", ["http://r"]),
    ("endpoints", ["redis://" + "r" * 512]),
    ("endpoints", [f"redis://r{number}:1" for number in range(33)]),
    ("topology", "Replicated"),
    ("users", "shared"),
    ("prefix", ""),
    ("prefix", "{queue}"),
    ("prefix", "a:b"),
    ("limits", {"connections": 0}),
    ("auth", {"password": {}}),
    ("auth", {"password": {"secretKeyRef": {"name": "redis"}}}),
    ("auth", {"password": {"secretKeyRef": {"name": "redis", "key": "a/b"}}}),
    ("allowedNamespaces", {"selector": {}}),
]
