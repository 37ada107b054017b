"""The scaler on a real Redis, with a recorded cluster: what it writes, and above all what it does not."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from bullpen.queue.keys import QueueKeys
from bullpen.scaling import ScalingPolicy, Window
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Forbidden, NotLeading, Unavailable
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling import Target
from bullpen_operator.scaling.charge import Charge
from tests.support.recorded import NAMESPACE, Stage, deployment, key_of, unit
from tests.support.scaling import AT_ONCE, KEYS, add, pod, rounds, state, watched
from tests.support.waiting import eventually


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
    stage.scaler.renew()
    await eventually(lambda: stage.kube.scales_of("mail") == [3], timeout=15)


async def test_what_it_is_told_while_it_ends_is_no_error(stage):
    stage.add("mail")
    await watched(stage)
    stage._task.cancel()
    await asyncio.sleep(0)  # its own tasks end in the turns after this one
    stage.scaler.put(unit("mail", ScalingPolicy(min_replicas=2, max_replicas=5)))
    await stage.end()
    assert stage.kube.writes == []


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


async def test_hold_and_manual(stage, plain):
    stage.add("mail", ScalingPolicy(mode="Hold"), replicas=3)
    await add(plain, 100)
    found = await state(stage, lambda found: found.reason == "Hold")
    assert found.desired == 3
    stage.scaler.put(unit("mail", ScalingPolicy(mode="Manual", manual_replicas=6)))
    await eventually(lambda: stage.kube.replicas("mail") == 6, timeout=15)
    stage.scaler.put(unit("mail", ScalingPolicy(mode="Manual", manual_replicas=8)))
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


async def test_a_new_policy_is_followed_at_once(stage, plain):
    stage.add("mail", ScalingPolicy(max_replicas=2))
    await watched(stage)
    await add(plain, 100)
    await eventually(lambda: stage.kube.replicas("mail") == 2)
    found = await state(stage, lambda found: found.crew.replicas == 2)
    assert found.limited[-1].reason == "MaxReplicas"
    stage.scaler.put(unit("mail", ScalingPolicy(max_replicas=7)))
    await eventually(lambda: stage.kube.replicas("mail") == 7, timeout=15)


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


@pytest.mark.parametrize("where", ["seen", "carried out"])
async def test_whatever_one_queue_brings_the_others_are_scaled(stage, plain, monkeypatch, where):
    see, apply_scale = Charge.see, stage.kube.apply_scale

    def odd_sight(charge, sight):
        if charge.unit.key == key_of("odd"):
            msg = "nobody foresaw this"
            raise TypeError(msg)
        see(charge, sight)

    async def odd_answer(kind, namespace, name, *rest):
        if name == "odd-worker":
            msg = "nobody foresaw this"
            raise TypeError(msg)
        return await apply_scale(kind, namespace, name, *rest)

    if where == "seen":
        monkeypatch.setattr(Charge, "see", odd_sight)
    else:
        monkeypatch.setattr(stage.kube, "apply_scale", odd_answer)
    stage.add("odd")
    await add(plain, 30, QueueKeys("bull", "odd"))
    found = await state(stage, lambda found: found.trouble, name="odd")
    assert found.trouble == "the queue cannot be scaled: TypeError: nobody foresaw this"
    assert key_of("odd") in stage.changes
    stage.add("mail")
    await add(plain, 30)
    await eventually(lambda: stage.kube.scales_of("mail") == [3], timeout=15)


async def test_who_names_anothers_target_takes_no_news_of_it_away(stage, plain):
    stage.add("mail", ScalingPolicy(max_replicas=20, min_replicas=2), replicas=2)
    await watched(stage)
    stage.scaler.put(unit("other", target=Target(kinds.DEPLOYMENT, NAMESPACE, "mail-worker", foreign=True)))
    found = await state(stage, lambda found: found.trouble, name="other")
    assert "label it" in found.trouble
    stage.scaler.drop(key_of("other"))
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", replicas=1))
    await eventually(lambda: stage.kube.replicas("mail") == 2, timeout=10)


async def test_a_queue_whose_settings_are_gone_is_told_of_now_and_then(stage, plain):
    await plain.hset(KEYS.owner, "id", "cluster/shop/mail")
    stage.add("mail")
    await watched(stage)
    await rounds(stage)
    assert stage.lost == []
    await plain.flushall()
    await rounds(stage, 5)
    assert stage.lost == [key_of("mail")]


async def test_an_api_server_that_was_put_back_is_followed_from_where_it_is(stage, plain):
    """Its versions begin anew at lower ones; until all is listed again what the cache has is refused at each write."""
    stage.add("mail")
    await watched(stage)
    await add(plain, 30)
    await eventually(lambda: stage.kube.replicas("mail") == 3, timeout=15)
    stage.kube.told, stage.kube._versions = False, itertools.count(1)
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", 1))
    await add(plain, 30)
    await eventually(lambda: len(stage.kube.scales) == 4, timeout=15)
    refused = stage.kube.scales[1:]
    assert all(later.at - sooner.at > 0.4 for sooner, later in itertools.pairwise(refused)), "no storm of writes"
    stage.kube.told = True
    stage.cache.distrust(kinds.DEPLOYMENT)
    stage.kube.put(kinds.DEPLOYMENT, deployment("mail", 1))
    await eventually(lambda: stage.kube.replicas("mail") == 6, timeout=15)
