"""What pods say: ready, starting, going, and why they cannot start."""

import pytest

from bullpen_operator.scaling.pods import (
    PROTECTIONS,
    STRANDED_MS,
    PodView,
    cannot_start,
    stranded,
    time_ms,
    unschedulable,
)


def pod(
    name="a", *, ready=False, state=None, last=None, phase="Pending", revision="r1", created="2026-01-01T00:00:00Z",
    deleted=False, scheduled=True, restarts=0, init=None, annotations=None,
):  # fmt: skip
    conditions = [
        {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": "2026-01-01T00:00:04Z"},
        {"type": "PodScheduled", "status": "True"}
        if scheduled
        else {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: cpu"},
    ]
    container = {"name": "worker", "restartCount": restarts, "state": state or {}}
    if last:
        container["lastState"] = {"terminated": last}
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "labels": {"pod-template-hash": revision},
            **({"deletionTimestamp": created} if deleted else {}),
            **({"annotations": annotations} if annotations else {}),
        },
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{"name": "sidecar", "state": {"running": {"startedAt": created}}}, container],
            "initContainerStatuses": [init] if init else [],
        },
    }


def view(*args, **options):
    return PodView.of(pod(*args, **options))


def waits(reason, message="because"):
    return {"waiting": {"reason": reason, "message": message}}


NOW = time_ms("2026-01-01T00:00:10Z")
RUNS = {"running": {"startedAt": "2026-01-01T00:00:02Z"}}


def test_a_pod_that_runs():
    found = view(ready=True, state=RUNS, phase="Running")
    assert (found.ready, found.starting, found.going, found.trouble) == (True, False, False, "")
    assert found.started_ms == time_ms("2026-01-01T00:00:02Z")
    assert found.startup_ms == 4_000


def test_a_pod_of_which_nothing_is_known_yet():
    found = PodView.of({"metadata": {"name": "a"}})
    assert (found.ready, found.starting, found.started_ms, found.startup_ms) == (False, True, None, None)


@pytest.mark.parametrize(
    ("options", "going"),
    [
        ({"deleted": True, "state": RUNS}, True),
        ({"phase": "Failed"}, True),
        ({"phase": "Succeeded"}, True),
        ({}, False),
    ],
)
def test_pods_on_their_way_out(options, going):
    assert view(**options).going is going


def test_a_start_after_a_crash_teaches_nothing():
    assert view(ready=True, state=RUNS, restarts=1).startup_ms is None


def test_marks_are_there_when_all_are():
    assert view(annotations=PROTECTIONS).protected
    assert not view(annotations=dict(list(PROTECTIONS.items())[:1])).protected


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([], ""),
        ([view(state=waits("ContainerCreating"))], ""),
        ([view(state=waits("ImagePullBackOff", "no image"))], "ImagePullBackOff: no image"),
        ([view(state=waits("CreateContainerConfigError", 'secret "x" not found'))],
         'CreateContainerConfigError: secret "x" not found'),
        ([view(state=waits("CrashLoopBackOff", "back-off"), last={"exitCode": 3})],
         "CrashLoopBackOff: back-off; the last one ended with exit code 3"),
        ([view(init={"name": "init", "state": waits("ErrImagePull", "no init image")})], "ErrImagePull: no init image"),
        ([view("a", state=waits("ErrImagePull")), view("b", ready=True, state=RUNS)], ""),
        ([view("a", ready=True, state=RUNS, revision="old"),
          view("b", state=waits("ErrImagePull"), revision="new", created="2026-01-01T01:00:00Z")],
         "ErrImagePull: because"),
        ([view("a", state=waits("ErrImagePull"), revision="old"),
          view("b", ready=True, state=RUNS, revision="new", created="2026-01-01T01:00:00Z")], ""),
        ([view(state=waits("ErrImagePull"), deleted=True)], ""),
        ([view(scheduled=False)], ""),
        ([view(state=waits("ErrImagePull", "x" * 900))], "ErrImagePull: " + "x" * 499 + "…"),
    ],
)  # fmt: skip
def test_why_pods_cannot_start(pods, expected):
    assert cannot_start(pods, now_ms=NOW) == expected


def ended(seconds, code=1, **more):
    return {
        "exitCode": code,
        "startedAt": "2025-12-31T23:58:00Z",
        "finishedAt": f"2025-12-31T23:58:{seconds:02}Z",
        **more,
    }


@pytest.mark.parametrize(
    ("what", "one", "told"),
    [
        ("runs, for the third time", view(state=RUNS, last=ended(2, 3), restarts=2), "exit code 3"),
        ("has just ended again", view(state={"terminated": ended(2, 3)}, restarts=2), "exit code 3"),
        ("killed for its memory", view(state=RUNS, last=ended(9, 137, reason="OOMKilled"), restarts=4),
         "exit code 137 (OOMKilled)"),
        ("its first restart", view(state=RUNS, last=ended(2), restarts=1), ""),
        ("the run before had lasted", view(state=RUNS, last=ended(2) | {"startedAt": "2025-12-31T23:57:00Z"}, restarts=9), ""),
        ("runs for a minute now", view(state={"running": {"startedAt": "2025-12-31T23:59:10Z"}}, last=ended(2), restarts=9), ""),
        ("is ready", view(ready=True, state=RUNS, last=ended(2), restarts=9), ""),
        ("nothing is known of its end", view(state=RUNS, restarts=9), ""),
    ],
)  # fmt: skip
def test_a_crash_loop_is_one_between_its_waits_too(what, one, told):
    found = cannot_start([one], now_ms=NOW)
    assert found.startswith("CrashLoopBackOff: container worker starts again and again") is bool(told), what
    assert told in found


NO_NODE = "Unschedulable: 0/3 nodes: cpu"
NEVER = "NeverReady: the worker runs and was never heard of in Redis: see its log"


@pytest.mark.parametrize(
    ("what", "pods", "unheard", "told"),
    [
        ("none", [], (), ""),
        ("no node has room", [view("b"), view("a", scheduled=False)], (), NO_NODE),
        ("one works", [view("b", ready=True, state=RUNS), view("a", scheduled=False)], (), ""),
        ("it goes", [view(scheduled=False, deleted=True)], (), ""),
        ("its worker is not heard of", [view(state=RUNS)], {"uid-a"}, NEVER),
        ("its worker is heard of: it retires", [view(state=RUNS)], (), ""),
        ("it has not started", [view(state=waits("ContainerCreating"))], {"uid-a"}, ""),
        ("an older template works", [view(ready=True, state=RUNS, revision="r0", created="2025-12-31T23:00:00Z"),
                                     view("b", scheduled=False)], (), NO_NODE),
    ],
)  # fmt: skip
def test_who_has_waited_for_minutes_is_told_of_and_not_sooner(what, pods, unheard, told):
    since = time_ms("2026-01-01T00:00:02Z")
    assert stranded(pods, unheard, now_ms=since + STRANDED_MS) == told, what
    assert stranded(pods, unheard, now_ms=since + STRANDED_MS - 2_001) == "", what
    assert cannot_start(pods, now_ms=since + STRANDED_MS) == ""


def test_a_quota_comes_before_all():
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    owner = {"metadata": {"name": "rs"}, "status": {"conditions": [failure]}}
    assert (
        cannot_start([view(ready=True, state=RUNS)], [{"metadata": {}}, owner], now_ms=NOW)
        == "FailedCreate: exceeded quota"
    )
    over = {"metadata": {}, "status": {"conditions": [failure | {"status": "False"}]}}
    assert cannot_start([], [over], now_ms=NOW) == ""


def test_pods_that_no_node_takes():
    assert unschedulable([view(), view("b", deleted=True, scheduled=False)]) == ""
    assert unschedulable([view("a", scheduled=False), view("b", scheduled=False)]) == (
        "2 pods Unschedulable: 0/3 nodes: cpu"
    )


@pytest.mark.parametrize(
    ("text", "ms"),
    [("1970-01-01T00:00:02Z", 2_000), ("1970-01-01T01:00:02+01:00", 2_000), ("soon", None), (None, None)],
)
def test_times(text, ms):
    assert time_ms(text) == ms
