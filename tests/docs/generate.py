"""Writes docs/reference/jobqueue.md from the models: ``python -m tests.docs.generate`` (``make docs``).

What a field means, takes and defaults to stands in `bullpen.api.v1alpha1` and nowhere else. Only what the models cannot
know is said here: which fields wait for a later version.
"""

import re
import types
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic_core
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bullpen import durations
from bullpen.api import explain
from bullpen.api.v1alpha1 import (
    ClusterRedisConnectionSpec,
    ConnectionStatus,
    JobQueueSpec,
    JobQueueStatus,
    RedisConnectionSpec,
)
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "reference" / "jobqueue.md"

NOTHING_YET = ("deadLetter", "workerPoolRef", "schedules[].concurrencyPolicy", "schedules[].startingDeadline")
"""What is read and has no effect; `bullpen check` warns of each."""

OPERATOR = (
    "className",
    "redisRef",
    "worker.image",
    "worker.resources",
    "worker.serviceAccountName",
    "worker.strategy",
    "worker.disruption",
    "worker.podTemplate",
    "scaleTargetRef",
    "alerts",
    "deletion",
)
"""What takes effect on Kubernetes; local mode has no use for it."""

NOTES = {
    "priorities.unprioritized": "Workers do that every `recovery.checkInterval`; a job that starts before is served first.",
    "schedules[].every": "The first comes at once.",
}
"""What else is to be said of a field that the model does not say."""

_OFFERED = "ClusterRedisConnection: spec"

HEAD = """# JobQueue in YAML

*Made from the models by `make docs`; the texts stand in `client/bullpen/api/v1alpha1`.*

A JobQueue declares a queue: how its jobs are run, who runs them, and how their number follows the work. The same file is for
the operator on Kubernetes and for `bullpen dev` on a laptop ([local mode](../how-to/local-mode.md)). In a cluster
`kubectl explain jobq.spec.scaling` says what stands here. The least that works:

```yaml least.yaml
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: emails}
spec:
  worker: {image: registry.example.com/shop-worker:1.4, handlers: [shop.jobs]}
  scaling: {maxReplicas: 20}
```

One that says more:

```yaml queues.yaml
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: payments, namespace: shop}
spec:
  concurrency: {perWorker: 10, total: 50}
  rateLimit: {jobs: 100, per: 1s}
  timeout: 2m
  expires: 24h
  retry: {attempts: 5, backoff: {type: Exponential, delay: 2s, factor: "2", maxDelay: 1m, jitter: 50%}}
  priorities: {levels: {urgent: 1, high: 5, normal: 10, low: 15}, default: normal}
  jobs:
    - {name: charge, timeout: 30s, retry: {attempts: 1}}
  limits: {payloadBytes: 65536, waiting: 100000, onFull: Reject}
  payloadSchema: {type: object, required: [orderId]}
  retention: {completed: {age: 1h, count: 100}}
  schedules:
    - {name: settle, cron: "0 8 * * 1-5", timeZone: Europe/Berlin, job: settle, data: {orderId: all}}
  worker:
    image: registry.example.com/shop-worker:1.4
    handlers: [shop.payments]
    env:
      - {name: GATEWAY_TOKEN, valueFrom: {secretKeyRef: {name: gateway, key: token}}}
  scaling: {minReplicas: 1, maxReplicas: 20, wait: 30s}
```

```console
$ bullpen check least.yaml queues.yaml
2 objects checked: 0 errors, 0 warnings
```

How values are written:

- **Durations** are text: one to four numbers with `h`, `m`, `s` or `ms`, such as `30s` or `1h30m`. A bare number is refused.
- **Percentages and factors** are text too: `50%`, `"1.5"`. **Enums** are CamelCase.
- **Lists of objects** are maps by `name`: a name stands once.
- A field that is left out and has no default is *absent*, which is a value of its own.
- Unknown fields are errors, with a hint where one was mistyped.

A field marked *operator* takes effect on Kubernetes alone. One marked *nothing yet* has no effect anywhere so far;
`bullpen check` and `bullpen dev` warn of it, and the operator says `NotYet`.

Mistakes are refused where they are made: by the API server, in the words that `bullpen check` has for them. What no API server
can know (whether a cron expression ever comes, a time zone, a `payloadSchema`) is said by `bullpen check`, and in the cluster by
`Ready=False`, while the last good spec keeps running. Defaults are filled in when the object is stored, but not within the
entries of lists. `null` is the same as absent to an API server, and a mistake to `bullpen check`.

## metadata

`name` is a DNS label of at most 45 characters, and the queue's name in Redis unless `spec.queueName` says otherwise. The
queue's name cannot be changed: another queue is another JobQueue.
`namespace`, `labels` and `annotations` are Kubernetes' own; local mode has no use for them.
"""

CONNECTIONS = """
## Redis connections

`RedisConnection` (of a namespace) and `ClusterRedisConnection` (offered by the platform to the namespaces it selects) say where a
Redis is; the operator reads them ([offer Redis to teams](../how-to/offer-redis.md)). Local mode has no use for them: it, clients and
workers take their Redis from the [environment](configuration.md#redis). One connection of a namespace, and one of the
cluster, may be the default: its annotation `bullpen.dev/default` is `"true"`.

```yaml redis.yaml
apiVersion: bullpen.dev/v1alpha1
kind: RedisConnection
metadata: {name: shop, namespace: shop}
spec:
  endpoints: ["rediss://redis.infra.svc:6379/0"]
  auth:
    username: {value: shop}
    password: {secretKeyRef: {name: redis-shop, key: password}}
```

```yaml offered.yaml
apiVersion: bullpen.dev/v1alpha1
kind: ClusterRedisConnection
metadata: {name: shared, annotations: {bullpen.dev/default: "true"}}
spec:
  endpoints: ["rediss://redis.infra.svc:6379/0"]
  auth: {username: {value: bullpen}, password: {secretKeyRef: {name: redis, key: password}}}
  allowedNamespaces: {selector: {matchLabels: {bullpen.dev/redis: shared}}}
  limits: {connections: 2000}
```

```console
$ bullpen check redis.yaml offered.yaml
2 objects checked: 0 errors, 0 warnings
```
"""


def page() -> str:
    """Give the whole page."""
    parts = [HEAD]
    parts += _sections(JobQueueSpec, JobQueueSpec, (), "spec")
    parts.append(CONNECTIONS)
    parts += _sections(RedisConnectionSpec, RedisConnectionSpec, (), "RedisConnection: spec", level=3)
    own = set(ClusterRedisConnectionSpec.model_fields) - set(RedisConnectionSpec.model_fields)
    parts.append(
        "\n### ClusterRedisConnection: spec\n\nAll of the above (`prefix` absent is `{namespace}` here), and:\n\n"
        + _table(ClusterRedisConnectionSpec, ClusterRedisConnectionSpec, (), _OFFERED, own)
    )
    parts += [
        section
        for name, info in ClusterRedisConnectionSpec.model_fields.items()
        if name in own
        for section in _nested(ClusterRedisConnectionSpec, info, (_alias(name, info),), _OFFERED, 3)
    ]
    parts += _status("JobQueue: status", JobQueueStatus, level=2)
    parts += _status("Redis connections: status", ConnectionStatus, level=2)
    return "".join(parts)


def _status(title: str, model: type[BaseModel], level: int) -> Iterator[str]:
    """What the operator writes: fields and their meaning; nobody else sets them."""
    yield f"\n{'#' * level} {title}\n\n{_doc(model)}\n\n| field | meaning |\n|---|---|\n"
    for path, info in _fields_below(model, ()):
        yield f"| `{_dotted(path)}` | {_cell(info.description or '')} |\n"


def _fields_below(
    model: type[BaseModel], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], FieldInfo]]:
    for name, info in model.model_fields.items():
        at = (*path, _alias(name, info))
        inner, is_list = _model_of(info)
        yield at, info
        if inner is not None:
            yield from _fields_below(inner, (*at, 0) if is_list else at)


def _sections(
    root: type[BaseModel], model: type[BaseModel], path: tuple[str | int, ...], title: str, level: int = 2
) -> Iterator[str]:
    text = _doc(model)
    yield f"\n{'#' * level} {_heading(title, path)}\n\n{text}\n\n{_table(root, model, path, title)}"
    for name, info in model.model_fields.items():
        yield from _nested(root, info, (*path, _alias(name, info)), title, level)


def _nested(
    root: type[BaseModel], info: FieldInfo, path: tuple[str | int, ...], title: str, level: int
) -> Iterator[str]:
    inner, is_list = _model_of(info)
    if inner is not None:
        yield from _sections(root, inner, (*path, 0) if is_list else path, title, max(level, 3))


def _table(
    root: type[BaseModel],
    model: type[BaseModel],
    path: tuple[str | int, ...],
    title: str,
    only: set[str] | None = None,
) -> str:
    rows = ["| field | takes | default | meaning |", "|---|---|---|---|"]
    for name, info in model.model_fields.items():
        if only is not None and name not in only:
            continue
        at = (*path, _alias(name, info))
        inner, is_list = _model_of(info)
        takes = explain.allowed_at(root, at)
        if inner is not None:
            anchor = _anchor(_heading(title, (*at, 0) if is_list else at))
            takes = f"a list of [mappings](#{anchor})" if is_list else f"a [mapping](#{anchor})"
        rows.append(f"| `{at[-1]}` | {_cell(takes)} | {_default(info)} | {_cell(_meaning(root, at, info))} |")
    return "\n".join(rows) + "\n"


def _heading(title: str, path: tuple[str | int, ...]) -> str:
    if not path:
        return title
    return f"{title} `{_dotted(path)}`" if " " in title else f"`{title}.{_dotted(path)}`"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _meaning(root: type[BaseModel], at: tuple[str | int, ...], info: FieldInfo) -> str:
    said = info.description or ""
    if root is not JobQueueSpec:
        return said
    where = _dotted(at)
    if where in NOTES:
        return f"{said} {NOTES[where]}"
    if where in NOTHING_YET:
        return f"*Nothing yet.* {said}"
    return f"*Operator.* {said}" if where in OPERATOR else said


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is None or value is pydantic_core.PydanticUndefined:
        return "absent"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, timedelta):
        return f"`{durations.format_ms(durations.parse_ms(value))}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ((), {}):
        return "empty"
    return f"`{value}`" if value != "" else '`""`'


def _model_of(info: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    annotation: Any = info.annotation
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            rest = [each for each in get_args(annotation) if each is not types.NoneType]
            if len(rest) != 1:
                return None, False
            annotation = rest[0]
        elif origin is tuple:
            item = get_args(annotation)[0]
            return (item, True) if isinstance(item, type) and issubclass(item, BaseModel) else (None, False)
        else:
            return (
                (annotation, False)
                if isinstance(annotation, type) and issubclass(annotation, BaseModel)
                else (None, False)
            )


def _doc(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _alias(name: str, info: FieldInfo) -> str:
    return info.alias or name


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path).replace(".0", "[]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def fields() -> set[str]:
    """Give every field below a JobQueue's spec, as this module writes them."""

    return {_dotted(path) for path, _ in _fields_below(JobQueueSpec, ())}


def example_with(field: str) -> str:
    """Give a JobQueue in YAML in which that field of `NOTHING_YET` stands."""
    spec: dict[str, object] = {}
    match field:
        case "deadLetter":
            spec["deadLetter"] = {"jobQueueRef": {"name": "dead"}}
        case "workerPoolRef":
            spec["workerPoolRef"] = {"name": "pool"}
        case _:
            schedule = {
                "name": "sweep",
                "every": "5m",
                "job": "sweep",
                "concurrencyPolicy": "Forbid",
                "startingDeadline": "1h",
            }
            spec["schedules"] = [schedule]
    queue = {"apiVersion": "bullpen.dev/v1alpha1", "kind": "JobQueue", "metadata": {"name": "emails"}, "spec": spec}
    return str(yaml.safe_dump(queue))


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")
