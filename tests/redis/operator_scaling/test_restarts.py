"""An operator that begins anew, or a JobQueue that does: what was learned is kept, and nothing jumps."""

from __future__ import annotations

import json

import pytest

from bullpen.scaling import ScalingPolicy
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Unavailable
from tests.support.recorded import deployment, key_of, unit
from tests.support.scaling import KEYS, add, read_again, rounds, state, watched
from tests.support.waiting import eventually


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


async def test_what_a_quiet_queue_taught_is_kept_for_as_long_as_it_is_quiet(stage, plain):
    stage.add("mail")
    await watched(stage)
    await eventually(lambda: plain.exists(KEYS.scaling), timeout=15)
    await plain.pexpire(KEYS.scaling, 3_600_000)
    await rounds(stage)
    assert await plain.pttl(KEYS.scaling) <= 3_600_000
    stage.scaler._cares[key_of("mail")].remembered_ms -= 12 * 3_600_000
    read_again(stage)
    await eventually(lambda: _lives(plain, 23 * 3_600_000), timeout=15)


async def _lives(plain, ms):
    return await plain.pttl(KEYS.scaling) > ms


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


async def test_a_recreated_jobqueue_begins_anew(stage, plain):
    stage.add("mail")
    await watched(stage)
    await add(plain, 10)
    await eventually(lambda: stage.kube.scales_of("mail") == [1], timeout=15)
    stage.kube.put(
        kinds.DEPLOYMENT,
        deployment("mail") | {"metadata": deployment("mail")["metadata"] | {"ownerReferences": [{"uid": "new"}]}},
    )
    stage.scaler.put(unit("mail", uid="new"))
    await eventually(lambda: stage.kube.scales_of("mail") == [1, 1], timeout=15)
