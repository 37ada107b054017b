"""The scaler on a real Redis, with a recorded cluster: what it writes, and above all what it does not."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from bullpen.queue.keys import QueueKeys
from bullpen.scaling import Behavior, Direction, ScalingPolicy, Window
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Forbidden, NotLeading, Unavailable
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling import Target
from bullpen_operator.scaling.crew import PROTOCOL
from bullpen_operator.scaling.pods import PROTECTIONS
from tests.support.recorded import NAMESPACE, Stage, deployment, key_of, unit
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "mail")
AT_ONCE = ScalingPolicy(
    max_replicas=20, zero_after_ms=0, zero_readings=1, behavior=Behavior(down=Direction(window_ms=0))
)


async def add(plain, jobs=1, keys=KEYS):
    async with plain.pipeline(transaction=True) as pipe:
        pipe.lpush(keys.wait, *["1"] * jobs)
        pipe.xadd(keys.events, {"event": "added", "jobId": "1"})
        await pipe.execute()


async def watched(stage, count=1):
    await eventually(lambda: sum(observer.watched for observer in stage.scaler.observers) == count, timeout=10)


async def state(stage, condition, name="mail", timeout=15.0):
    """Wait until the state of a queue meets a condition, and give it."""

    def met():
        found = stage.scaler.state(key_of(name))
        return found if found is not None and condition(found) else None

    return await eventually(met, timeout=timeout)


def read_again(stage):
    for observer in stage.scaler.observers:
        observer.nudge(key_of("mail"))


async def rounds(stage, count=3):
    """Have the queue read so many times more."""
    for _ in range(count):
        (observer,) = stage.scaler.observers
        before = observer.readings
        read_again(stage)
        await eventually(lambda before=before, observer=observer: observer.readings > before)
        await asyncio.sleep(0)


def pod(name, *, ready=True, uid=None, waiting=None, **annotations):
    """A pod as a kubelet writes it."""
    container = {"name": "worker", "restartCount": 0}
    container["state"] = {"waiting": waiting} if waiting else {"running": {"startedAt": "2026-01-01T00:00:01Z"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid or f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {kinds.LABEL_JOBQUEUE: "mail", "pod-template-hash": "a"},
            "annotations": annotations,
        },
        "status": {
            "conditions": [
                {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:03Z"},
                {"type": "PodScheduled", "status": "True"},
            ],
            "containerStatuses": [container],
        },
    }


async def beat(plain, host, *, busy=0, state="working"):
    """Have a worker say that it is there."""
    now_ms = time.time_ns() // 1_000_000
    entry = {"v": 1, "at": now_ms, "host": host, "started": now_ms, "slots": 10, "busy": busy, "state": state}
    await plain.hset(KEYS.workers, f"{host}@0123456789ab", json.dumps({**entry, "protocol": PROTOCOL}))


async def test_from_nothing_to_what_is_needed_in_one_write(stage, plain):
    stage.add("mail")
    await watched(stage)
    await add(plain, 95)
    await eventually(lambda: stage.kube.scales_of("mail") == [10], timeout=15)
    found = await state(stage, lambda found: found.crew.replicas == 10)
    assert (found.desired, found.reason) == (10, "JobsWaiting")
    assert "95 jobs (95 waiting) need 10" in found.message
    assert stage.meter.changes == [("up", "JobsWaiting")]
    assert 0 < stage.meter.wakes[0] < 1


async def test_awaited_adds_are_one_write_or_two(stage, plain):
    stage.add("mail")
    await watched(stage)
    for _ in range(100):
        await add(plain)
    await eventually(lambda: stage.kube.scales_of("mail")[-1:] == [10], timeout=15)
    assert len(stage.kube.scales_of("mail")) <= 2


async def test_a_quiet_fleet_is_no_write_at_all(stage, plain):
    for number in range(20):
        stage.add(f"q{number}", replicas=0)
    await watched(stage, 20)
    await rounds_of_all(stage)
    assert stage.kube.writes == []


async def rounds_of_all(stage):
    for observer in stage.scaler.observers:
        before = observer.readings
        for key in list(observer._posts):
            observer.nudge(key)
        await eventually(lambda before=before, observer=observer: observer.readings >= before + len(observer))


async def test_who_does_not_lead_observes_and_holds_still(stage, plain):
    stage.leads = False
    stage.add("mail")
    await watched(stage)
    await add(plain, 30)
    found = await state(stage, lambda found: found.desired == 3)
    assert found.crew.replicas == 0
    await rounds(stage)
    assert stage.kube.writes == []
    assert await plain.keys("*bullpen:*") == []
    stage.leads = True
    await eventually(lambda: stage.kube.scales_of("mail") == [3], timeout=15)


async def test_a_fence_that_falls_in_between_is_no_error(stage, plain):
    stage.kube.failures = [NotLeading("another leads")]
    stage.add("mail")
    await watched(stage)
    await add(plain, 30)
    await eventually(lambda: not stage.kube.failures, timeout=15)
    await eventually(lambda: stage.kube.scales_of("mail") == [3], timeout=15)


async def test_a_target_that_changed_meanwhile_is_decided_on_anew(stage, plain):
    stage.add("mail")
    await watched(stage)
    stage.kube.told = False  # the informers are late
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", replicas=7))
    await add(plain, 30)
    await eventually(lambda: stage.kube.scales_of("mail") == [3, 3], timeout=15)
    assert stage.kube.replicas("mail") == 3, "what somebody else set is not what the work asks for"


async def test_our_own_write_is_known_before_the_informers_tell(stage, plain):
    stage.add("mail")
    await watched(stage)
    stage.kube.told = False
    await add(plain, 30)
    await state(stage, lambda found: found.crew.replicas == 3)
    await rounds(stage)
    assert stage.kube.scales_of("mail") == [3]


async def test_an_api_server_that_is_away_is_tried_again_and_nothing_is_lost(stage, plain):
    stage.kube.failures = [Unavailable("503"), Unavailable("503")]
    stage.add("mail")
    await watched(stage)
    await add(plain, 30)
    await eventually(lambda: stage.kube.scales_of("mail") == [3], timeout=15)
    found = await state(stage, lambda found: found.crew.replicas == 3)
    assert found.trouble == ""


async def test_what_the_api_server_refuses_is_told(stage, plain):
    stage.kube.failures = [Forbidden("may not patch deployments/scale")]
    stage.add("mail")
    await watched(stage)
    await add(plain, 30)
    found = await state(stage, lambda found: found.trouble)
    assert "may not patch deployments/scale" in found.trouble
    assert stage.kube.scales_of("mail") == []
    assert key_of("mail") in stage.changes


async def test_somebody_elses_deployment_is_left_alone(stage, plain):
    stage.kube.put(
        kinds.DEPLOYMENT, deployment("mail") | {"metadata": deployment("mail")["metadata"] | {"ownerReferences": []}}
    )
    stage.scaler.put(unit("mail"))
    await add(plain, 30)
    found = await state(stage, lambda found: found.trouble)
    assert "belongs to somebody else" in found.trouble
    assert stage.kube.writes == []


async def test_foreign_workers_carry_a_label(stage, plain):
    target = Target(kinds.DEPLOYMENT, NAMESPACE, "mail-worker", foreign=True)
    stage.add("mail", target=target)
    await add(plain, 30)
    found = await state(stage, lambda found: found.trouble)
    assert "bullpen.dev/scaled-by=mail" in found.trouble
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", **{kinds.LABEL_SCALED_BY: "mail"}))
    await eventually(lambda: stage.kube.scales_of("mail") == [3], timeout=15)


async def test_foreign_workers_shrink_to_what_runs(stage, plain):
    target = Target(kinds.DEPLOYMENT, NAMESPACE, "mail-worker", foreign=True)
    await plain.lpush(KEYS.active, *["1"] * 25)
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", 8, **{kinds.LABEL_SCALED_BY: "mail"}))
    stage.scaler.put(unit("mail", AT_ONCE, target=target))
    await eventually(lambda: stage.kube.scales_of("mail") == [3], timeout=15)
    await plain.delete(KEYS.active)
    await eventually(lambda: stage.kube.replicas("mail") == 0, timeout=15)


async def test_foreign_workers_that_shrink_when_idle_wait_for_the_last_job(stage, plain):
    target = Target(kinds.DEPLOYMENT, NAMESPACE, "mail-worker", foreign=True, shrink="WhenIdle")
    policy = ScalingPolicy(max_replicas=20, zero_after_ms=0, zero_readings=1, shrink_when_idle=True,
                           behavior=AT_ONCE.behavior)  # fmt: skip
    await plain.lpush(KEYS.active, "1")
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", 8, **{kinds.LABEL_SCALED_BY: "mail"}))
    stage.scaler.put(unit("mail", policy, target=target))
    found = await state(stage, lambda found: found.desired is not None)
    assert (found.desired, found.reason) == (8, "ShrinkWhenIdle")
    await plain.delete(KEYS.active)
    await eventually(lambda: stage.kube.replicas("mail") == 0, timeout=15)


async def test_while_redis_cannot_be_read_what_runs_is_held(redis_server):
    async with Stage(redis_server.url) as stage:
        stage.add("mail", AT_ONCE, replicas=4)
        redis_server.kill()
        found = await state(stage, lambda found: found.redis_trouble, timeout=10)
        assert found.desired in (None, 4)
        writes = len(stage.kube.scales)
        await state(stage, lambda found: found.redis_trouble)
        assert len(stage.kube.scales) == writes
        redis_server.restart()
        found = await state(stage, lambda found: not found.redis_trouble, timeout=15)


async def test_a_redis_that_was_emptied_does_not_take_all_workers_at_once(stage, plain):
    policy = ScalingPolicy(max_replicas=20, zero_after_ms=60_000)
    stage.add("mail", policy)
    await watched(stage)
    await add(plain, 100)
    await eventually(lambda: stage.kube.replicas("mail") == 10)
    await plain.flushall()
    await rounds(stage, 5)
    assert stage.kube.replicas("mail") == 10


async def test_zero_needs_fresh_readings_in_a_row(stage, plain):
    policy = ScalingPolicy(max_replicas=5, zero_after_ms=0, zero_readings=3, behavior=AT_ONCE.behavior)
    target = Target(kinds.DEPLOYMENT, NAMESPACE, "mail-worker", foreign=True)
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", 1, **{kinds.LABEL_SCALED_BY: "mail"}))
    stage.scaler.put(unit("mail", policy, target=target))
    found = await state(stage, lambda found: found.desired is not None)
    assert found.desired == 1
    await eventually(lambda: stage.kube.replicas("mail") == 0, timeout=15)


async def test_jobs_that_run_without_a_worker_get_one(stage, plain):
    await plain.lpush(KEYS.active, "1")
    stage.add("mail", AT_ONCE)
    await eventually(lambda: stage.kube.scales_of("mail") == [1], timeout=15)
    await plain.hset(KEYS.meta, "paused", 1)
    await rounds(stage, 4)
    assert stage.kube.replicas("mail") == 1


async def test_hold_and_manual(stage, plain):
    stage.add("mail", ScalingPolicy(mode="Hold"), replicas=3)
    await add(plain, 100)
    found = await state(stage, lambda found: found.reason == "Hold")
    assert found.desired == 3
    stage.scaler.put(unit("mail", ScalingPolicy(mode="Manual", manual_replicas=6)))
    await eventually(lambda: stage.kube.replicas("mail") == 6, timeout=15)
    stage.scaler.put(unit("mail", ScalingPolicy(mode="Manual", manual_replicas=6), hpa_min=8))
    await eventually(lambda: stage.kube.replicas("mail") == 8, timeout=15)
    assert stage.kube.scales_of("mail") == [6, 8]


async def test_a_window_keeps_workers_ready(stage, plain):
    window = Window(name="always", schedule="* * * * *", duration_ms=120_000, min_replicas=2)
    stage.add("mail", ScalingPolicy(max_replicas=5, windows=(window,)))
    await eventually(lambda: stage.kube.scales_of("mail") == [2], timeout=15)


async def test_a_window_that_cannot_be_read_holds_what_runs(stage, plain):
    window = Window(name="odd", schedule="what", duration_ms=120_000, min_replicas=2)
    stage.add("mail", ScalingPolicy(max_replicas=5, windows=(window,)), replicas=1)
    await add(plain, 50)
    found = await state(stage, lambda found: found.trouble)
    assert "window" in found.trouble
    assert stage.kube.writes == []


async def test_pods_that_cannot_start_are_not_made_more(stage, plain):
    stage.add("mail", replicas=1)
    stage.kube.put(kinds.POD, pod("a", ready=False, waiting={"reason": "ImagePullBackOff", "message": "no such image"}))
    await add(plain, 100)
    found = await state(stage, lambda found: found.reason == "PodsCannotStart")
    assert found.cannot_start == "ImagePullBackOff: no such image"
    assert found.desired == 1
    await rounds(stage)
    assert stage.kube.writes == []
    stage.kube.put(kinds.POD, pod("a"))
    await eventually(lambda: stage.kube.replicas("mail") == 10, timeout=15)


async def test_a_quota_is_told_by_the_replicaset(stage, plain):
    stage.add("mail", replicas=2)
    status = {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                              "message": "exceeded quota: pods"}]}  # fmt: skip
    metadata = {"name": "mail-worker-a", "namespace": NAMESPACE, "uid": "rs",
                "ownerReferences": [{"uid": "deployment-mail"}], "labels": {"pod-template-hash": "a"}}  # fmt: skip
    stage.kube.put(kinds.REPLICASET, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata,
                                      "spec": {"replicas": 2}, "status": status})  # fmt: skip
    await add(plain, 100)
    found = await state(stage, lambda found: found.cannot_start)
    assert found.cannot_start == "FailedCreate: exceeded quota: pods"
    assert stage.kube.writes == []
    stage.kube.remove(Key(kinds.REPLICASET, NAMESPACE, "mail-worker-a"))
    await rounds(stage)
    await eventually(lambda: stage.kube.replicas("mail") == 10, timeout=15)


async def test_retire_then_shrink_then_unretire(stage, plain):
    await plain.lpush(KEYS.active, "1")
    for name, busy in (("a", 1), ("b", 0)):
        stage.kube.put(kinds.POD, pod(name))
        await beat(plain, name, busy=busy)
    stage.add("mail", AT_ONCE, replicas=2)
    await eventually(lambda: plain.hexists(KEYS.retiring, "b@0123456789ab"), timeout=15)
    order = json.loads(await plain.hget(KEYS.retiring, "b@0123456789ab"))
    assert order["pod"] == "uid-b"
    assert stage.kube.scales == [], "nobody has gone yet"
    await add(plain, 15)
    await eventually(lambda: _lacks(plain, "b"), timeout=15)
    await plain.delete(KEYS.wait)
    await eventually(lambda: plain.hexists(KEYS.retiring, "b@0123456789ab"), timeout=15)
    await beat(plain, "b", state="retiring")
    stage.kube.put(kinds.POD, pod("b", ready=False))
    await eventually(lambda: stage.kube.replicas("mail") == 1, timeout=15)
    marks = [write for write in stage.kube.writes if write.verb == "annotate" and write.key.name == "b"]
    assert marks[-1].value == {"controller.kubernetes.io/pod-deletion-cost": "-1000"}
    assert await plain.hexists(KEYS.retiring, "b@0123456789ab"), "it is still there, and must take no job"
    stage.kube.remove(Key(kinds.POD, NAMESPACE, "b"))
    await eventually(lambda: _lacks(plain, "b"), timeout=15)
    assert stage.kube.replicas("mail") == 1


async def _lacks(plain, host):
    return not await plain.hexists(KEYS.retiring, f"{host}@0123456789ab")


async def test_a_redis_that_takes_no_writes_shrinks_nobody(stage, plain):
    await plain.lpush(KEYS.active, "1")
    for name, busy in (("a", 1), ("b", 0)):
        stage.kube.put(kinds.POD, pod(name))
        await beat(plain, name, busy=busy)
    await plain.config_set("maxmemory", 1)
    try:
        stage.add("mail", AT_ONCE, replicas=2)
        await state(stage, lambda found: found.desired == 1)
        await rounds(stage)
        assert stage.kube.scales == []
        await plain.config_set("maxmemory", 0)
        await eventually(lambda: plain.hexists(KEYS.retiring, "b@0123456789ab"), timeout=15)
    finally:
        await plain.config_set("maxmemory", 0)


async def test_busy_pods_are_marked_for_those_who_drain_nodes(stage, plain):
    stage.add("mail", replicas=2)
    await plain.lpush(KEYS.active, "1")
    for name, busy in (("a", 1), ("b", 0)):
        stage.kube.put(kinds.POD, pod(name))
        await beat(plain, name, busy=busy)

    def marks():
        return [write for write in stage.kube.writes if write.verb == "annotate"]

    await eventually(lambda: [(write.key.name, write.value) for write in marks()] == [("a", PROTECTIONS)], timeout=15)
    await rounds(stage)
    assert len(marks()) == 1
    stage.scaler.put(unit("mail", protect=False))
    await eventually(lambda: len(marks()) == 2, timeout=15)
    assert set(marks()[1].value.values()) == {None}


async def test_a_restart_resumes_and_writes_nothing(stage, plain):
    policy = ScalingPolicy(max_replicas=20, zero_after_ms=0, zero_readings=1)
    stage.add("mail", policy)
    await watched(stage)
    await add(plain, 100)
    await eventually(lambda: stage.kube.replicas("mail") == 10)
    await eventually(lambda: _remembers(plain, 10), timeout=15)
    await plain.delete(KEYS.wait)
    writes = len(stage.kube.writes)
    await stage.restart(unit("mail", policy))
    found = await state(stage, lambda found: found.desired is not None)
    assert found.desired == 10, "the window of shrinking goes on"
    await rounds(stage)
    assert len(stage.kube.writes) == writes
    assert stage.scaler._cares[key_of("mail")].charge.memory.history.highs[0].replicas == 10


async def _remembers(plain, replicas):
    found = json.loads(await plain.get(KEYS.scaling) or "{}")
    return found and found["history"]["replicas"] == replicas


async def test_a_memory_that_is_older_than_the_last_write_takes_no_pod_at_once(stage, plain):
    policy = ScalingPolicy(max_replicas=20, zero_after_ms=0, zero_readings=1)
    stage.add("mail", policy)
    await watched(stage)
    await eventually(lambda: plain.exists(KEYS.scaling), timeout=15)
    await stage.end()
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", 8))
    await stage.restart(unit("mail", policy))
    found = await state(stage, lambda found: found.desired is not None)
    assert (found.desired, found.reason) == (8, "Stabilization")
    await rounds(stage)
    assert stage.kube.scales == []


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"v":9}', b'{"v":1,"history":{"v":1,"highs":"x"}}'])
async def test_a_restart_that_finds_nothing_known_takes_no_pod_at_once(stage, plain, damaged):
    await plain.set(KEYS.scaling, damaged)
    stage.add("mail", ScalingPolicy(max_replicas=20, zero_after_ms=0, zero_readings=1), replicas=6)
    found = await state(stage, lambda found: found.desired is not None)
    assert found.desired == 6
    await rounds(stage)
    assert stage.kube.scales == []


async def test_what_was_learned_is_written_seldom(stage, plain):
    stage.add("mail")
    await watched(stage)
    await add(plain, 30)
    await eventually(lambda: _remembers(plain, 3), timeout=15)
    first = await plain.get(KEYS.scaling)
    await rounds(stage, 5)
    assert await plain.get(KEYS.scaling) == first
    assert 0 < await plain.pttl(KEYS.scaling) <= 86_400_000


async def test_a_connection_that_cannot_be_found_is_said_and_tried_again(stage, plain):
    stage.pool.failure = Unavailable("the Secret redis has no key password")
    stage.add("mail", replicas=2)
    found = await state(stage, lambda found: found.redis_trouble)
    assert "no key password" in found.redis_trouble
    stage.pool.failure = None
    stage.scaler._unfound[key_of("mail")] = 0
    stage.scaler._find.set()
    await state(stage, lambda found: not found.redis_trouble)


async def test_a_queue_that_is_dropped_is_let_alone(stage, plain):
    stage.add("mail", replicas=2)
    await watched(stage)
    stage.scaler.drop(key_of("mail"))
    await add(plain, 100)
    assert stage.scaler.state(key_of("mail")) is None
    assert stage.scaler.observers == ()
    assert stage.kube.writes == []


async def test_a_new_policy_is_followed_at_once(stage, plain):
    stage.add("mail", ScalingPolicy(max_replicas=2))
    await watched(stage)
    await add(plain, 100)
    await eventually(lambda: stage.kube.replicas("mail") == 2)
    found = await state(stage, lambda found: found.crew.replicas == 2)
    assert found.limited[-1].reason == "MaxReplicas"
    stage.scaler.put(unit("mail", ScalingPolicy(max_replicas=7)))
    await eventually(lambda: stage.kube.replicas("mail") == 7, timeout=15)


async def test_a_recreated_jobqueue_begins_anew(stage, plain):
    stage.add("mail")
    await watched(stage)
    await add(plain, 10)
    await state(stage, lambda found: found.desired == 1)
    stage.kube.put(
        kinds.DEPLOYMENT,
        deployment("mail") | {"metadata": deployment("mail")["metadata"] | {"ownerReferences": [{"uid": "new"}]}},
    )
    stage.scaler.put(unit("mail", uid="new"))
    await eventually(lambda: stage.kube.scales_of("mail") == [1, 1], timeout=15)


async def test_a_redis_whose_clock_is_far_off_delays_nothing(stage, plain, monkeypatch):
    """Decisions go by Redis' clock: one of ours that is an hour behind makes no reading stale, one ahead none fresh."""
    monkeypatch.setattr(time, "time_ns", lambda: (1_000_000_000 - 3_600) * 1_000_000_000)
    stage.add("mail", AT_ONCE, replicas=0)
    await watched(stage)
    await add(plain, 30)
    await eventually(lambda: stage.kube.replicas("mail") == 3, timeout=15)
    await plain.delete(KEYS.wait)
    await eventually(lambda: stage.kube.replicas("mail") == 0, timeout=15)


async def test_counts_alone_are_news_now_and_then_only(stage, plain):
    stage.add("mail", ScalingPolicy(mode="Hold"), replicas=1)
    await watched(stage)
    await state(stage, lambda found: found.desired == 1)
    before = len(stage.changes)
    for _ in range(20):
        await add(plain)
        await rounds(stage, 1)
    assert len(stage.changes) <= before + 1


async def test_fifty_queues_wake_at_once(stage, plain):
    for number in range(50):
        stage.add(f"q{number}")
    await watched(stage, 50)
    async with plain.pipeline(transaction=False) as pipe:
        for number in range(50):
            pipe.lpush(f"bull:q{number}:wait", "1")
            pipe.xadd(f"bull:q{number}:events", {"event": "added"})
        await pipe.execute()
    await eventually(lambda: len(stage.kube.scales) == 50, timeout=15)
    assert {write.value for write in stage.kube.scales} == {1}
