"""How a fleet shrinks, on a real Redis with a recorded cluster: nobody who works goes, and zero is a step of its own."""

from __future__ import annotations

import json

from bullpen.scaling import ScalingPolicy
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Invalid, Unavailable
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling import Target, carrying
from bullpen_operator.scaling.pods import PROTECTIONS
from tests.support.recorded import NAMESPACE, deployment, unit
from tests.support.scaling import AT_ONCE, KEYS, add, beat, one_busy_of_two, pod, rounds, state, watched
from tests.support.waiting import eventually


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


async def test_retire_then_shrink_then_unretire(stage, plain):
    await one_busy_of_two(stage, plain)
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
    await one_busy_of_two(stage, plain)
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
    await one_busy_of_two(stage, plain)

    def marks():
        return [write for write in stage.kube.writes if write.verb == "annotate"]

    await eventually(lambda: [(write.key.name, write.value) for write in marks()] == [("a", PROTECTIONS)], timeout=15)
    await rounds(stage)
    assert len(marks()) == 1
    stage.scaler.put(unit("mail", protect=False))
    await eventually(lambda: len(marks()) == 2, timeout=15)
    assert set(marks()[1].value.values()) == {None}


async def _retired(stage, plain):
    """Two pods, of which one has retired and may go."""
    await one_busy_of_two(stage, plain)
    stage.add("mail", AT_ONCE, replicas=2)
    await eventually(lambda: plain.hexists(KEYS.retiring, "b@0123456789ab"), timeout=15)
    await beat(plain, "b", state="retiring")
    stage.kube.put(kinds.POD, pod("b", ready=False))


async def test_a_shrink_that_is_late_is_not_made(stage, plain, monkeypatch):
    """Its orders may have run out by then, and the pod that was to go be at work again."""
    monkeypatch.setattr(carrying, "SHRINK_SECONDS", 0.1)
    stage.kube.delay = 1.0
    await _retired(stage, plain)
    await eventually(lambda: stage.kube.writes, timeout=15)
    await eventually(lambda: not stage.kube.under_way, timeout=15)
    assert stage.kube.replicas("mail") == 2
    stage.kube.delay = 0.0
    await beat(plain, "b", state="retiring")
    await eventually(lambda: stage.kube.replicas("mail") == 1, timeout=15)


async def test_a_shrink_of_somebody_elses_workers_that_is_late_is_not_made(stage, plain, monkeypatch):
    """No job ran when it was decided on; one may by the time that it arrives."""
    monkeypatch.setattr(carrying, "SHRINK_SECONDS", 0.1)
    stage.kube.delay = 1.0
    target = Target(kinds.DEPLOYMENT, NAMESPACE, "mail-worker", foreign=True, shrink="WhenIdle")
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", 8, **{kinds.LABEL_SCALED_BY: "mail"}))
    stage.scaler.put(unit("mail", AT_ONCE, target=target))
    await eventually(lambda: stage.kube.writes, timeout=15)
    await eventually(lambda: not stage.kube.under_way, timeout=15)
    assert stage.kube.replicas("mail") == 8
    stage.kube.delay = 0.0
    await eventually(lambda: stage.kube.replicas("mail") == 0, timeout=15)


async def test_a_growth_may_take_its_time(stage, plain, monkeypatch):
    monkeypatch.setattr(carrying, "SHRINK_SECONDS", 0.1)
    stage.kube.delay = 0.5
    stage.add("mail")
    await watched(stage)
    await add(plain, 30)
    await eventually(lambda: stage.kube.replicas("mail") == 3, timeout=15)


async def test_pods_that_must_not_be_marked_go_all_the_same(stage, plain):
    stage.kube.refuses_marks = Invalid("admission webhook denied the request", status=422)
    await _retired(stage, plain)
    await eventually(lambda: stage.kube.replicas("mail") == 1, timeout=15)


async def test_a_write_is_known_of_though_the_marks_after_it_failed(stage, plain):
    await plain.lpush(KEYS.active, "1")
    stage.kube.put(kinds.POD, pod("a"))
    await beat(plain, "a", busy=1)
    stage.kube.refuses_marks = Unavailable("503")
    stage.add("mail", AT_ONCE, replicas=1)
    await state(stage, lambda found: found.desired == 1)
    stage.kube.told = False  # the informers are late
    await add(plain, 29)
    found = await state(stage, lambda found: found.crew.replicas == 3)
    assert stage.meter.changes == [("up", "JobsWaiting")]
    await rounds(stage)
    assert stage.kube.scales_of("mail") == [3]
    assert found.trouble == ""
