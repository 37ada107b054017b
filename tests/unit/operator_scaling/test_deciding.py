"""From what was seen to what is to be done: crews, targets, memory, marks, charges."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.queue.keys import QueueKeys
from bullpen.queue.observation import Reading
from bullpen.scaling import History, ScalingPolicy
from bullpen.scaling.history import Mark
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling import protection, targets
from bullpen_operator.scaling.charge import Around, Charge
from bullpen_operator.scaling.crew import Roll
from bullpen_operator.scaling.decider import Memory
from bullpen_operator.scaling.looking import Sight
from bullpen_operator.scaling.protection import IDLE_MS, Marks, Pace
from bullpen_operator.scaling.targets import TargetView, Written
from bullpen_operator.scaling.units import ScaleUnit, Target
from tests.support.recorded import deployment, unit

NOW = 1_800_000_000_000


def reading(**counts):
    values = {field.name: 0 for field in fields(Reading)}
    none = dict.fromkeys(("next_due_ms", "total_concurrency", "rate_jobs", "rate_per_ms", "limited_for_ms", "oldest_ms", "completed_total", "failed_total"))  # fmt: skip
    return Reading(**{**values, **none, "at_ms": NOW, "paused": False, **counts})


def sight(roll=None, **counts):
    return Sight(b"0-0", reading(**counts), roll or Roll(NOW), b"")


# -- crew: what others wrote is read with care ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [b"", b"?", b"[]", b"3", b'{"host":5}', b'{"host":null}', b"[" * 100_000, b'{"busy":1}', b"\xff\xfe"],
)
def test_entries_that_are_none_are_not_there(entry):
    roll = Roll.parse(NOW, [b"a", entry], [])
    assert roll is not None
    assert roll.workers == {}


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=60)), max_size=10))
def test_nothing_that_stands_there_breaks_the_reading(pairs):
    flat = [part for pair in pairs for part in pair]
    assert Roll.parse(NOW, flat, flat) is not None


@pytest.mark.parametrize("number", ["1e400", "-5", "true", '"7"', "null", "99999999999999999999", "NaN"])
def test_numbers_that_are_none_make_nobody_idle_or_young(number):
    entry = f'{{"host":"a","busy":{number},"started":{number},"at":{number}}}'.encode()
    roll = Roll.parse(NOW, [b"a@1", entry], [b"a@1", f'{{"deadline":{number}}}'.encode()])
    assert roll is not None
    worker = roll.workers.get("a@1")
    assert worker is None or isinstance(worker.busy, int)


def test_a_newer_protocol_is_read_as_far_as_it_can_be():
    entry = b'{"v":2,"host":"a","busy":1,"protocol":2,"state":"pondering","more":{}}'
    roll = Roll.parse(NOW, [b"a@1", entry], [])
    assert roll is not None
    assert (roll.workers["a@1"].busy, roll.workers["a@1"].protocol) == (1, 2)


# -- targets ----------------------------------------------------------------------------------------------------------


def test_our_own_write_counts_until_the_cache_has_it():
    obj = deployment("mail", 2)
    obj["metadata"]["resourceVersion"] = "10"
    written = Written("deployment-mail", "12", 5)
    assert TargetView.of(obj, (), (), written).replicas == 5
    assert TargetView.of(obj, (), (), written).version == "12"
    assert TargetView.of(obj, (), (), replace(written, uid="before")).replicas == 2
    obj["metadata"]["resourceVersion"] = "13"
    assert TargetView.of(obj, (), (), written).replicas == 2


def test_absent_replicas_are_one_as_kubernetes_has_it():
    assert TargetView.of({"metadata": {}, "spec": {}}, (), (), None).replicas == 1


def test_two_templates_are_a_rollout():
    replicaset = {"metadata": {"labels": {"pod-template-hash": "a"}}, "spec": {"replicas": 1}}
    other = {"metadata": {"labels": {"pod-template-hash": "b"}}, "spec": {"replicas": 1}}
    old = {"metadata": {"labels": {"pod-template-hash": "c"}}, "spec": {"replicas": 0}}
    obj = deployment("mail")
    assert not TargetView.of(obj, (), (replicaset, old), None).rolling_out
    assert TargetView.of(obj, (), (replicaset, other), None).rolling_out


@pytest.mark.parametrize(
    ("target", "obj", "said"),
    [
        (Target(kinds.DEPLOYMENT, "shop", "mail-worker"), None, "not there yet"),
        (Target(kinds.DEPLOYMENT, "shop", "mail-worker"), deployment("mail"), ""),
        (Target(kinds.DEPLOYMENT, "shop", "mail-worker"), deployment("other"), "belongs to somebody else"),
        (Target(kinds.DEPLOYMENT, "shop", "legacy", foreign=True), None, "bullpen.dev/scaled-by=mail"),
        (Target(kinds.DEPLOYMENT, "shop", "legacy", foreign=True), deployment("x"), "bullpen.dev/scaled-by=mail"),
        (Target(kinds.by_name("argoproj.io/v1alpha1", "Rollout"), "shop", "legacy", foreign=True), None,
         "only a Deployment or a StatefulSet of apps/v1 can be scaled"),
        (Target(kinds.DEPLOYMENT, "shop", "legacy", foreign=True),
         deployment("x", **{kinds.LABEL_SCALED_BY: "other"}), "label it"),
        (Target(kinds.DEPLOYMENT, "shop", "legacy", foreign=True),
         deployment("x", **{kinds.LABEL_SCALED_BY: "mail"}), ""),
    ],
)  # fmt: skip
def test_what_may_be_scaled(target, obj, said):
    found = targets.refusal(unit("mail", target=target), target, obj)
    assert (said in found) if said else found == ""


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_comes_back():
    memory = Memory(History(replicas=3, highs=(Mark(5, 3),), run_ms=12.5), 1_500)
    assert Memory.from_json(memory.to_json().encode()) == memory
    assert json.loads(memory.to_json())["v"] == 1


@pytest.mark.parametrize("raw", [b"", b"null", b"[1]", b'{"v":2}', b'{"v":1}', b'{"v":1,"history":3}', b"\xff"])
def test_what_is_no_memory_is_none(raw):
    assert Memory.from_json(raw) is None


@pytest.mark.parametrize("startup", [10**400, 10**9, -1, True, "soon"])
def test_a_start_that_takes_for_ever_is_not_believed(startup):
    document = json.loads(Memory(History(replicas=3), 1_500).to_json()) | {"startup": startup}
    found = Memory.from_json(json.dumps(document).encode())
    assert found == Memory(History(replicas=3))


def test_a_takeover_holds_what_its_memory_does_not_know_of():
    empty = Memory().taken_over(4, NOW)
    assert empty.history.highs == (Mark(NOW, 4),)
    assert Memory().taken_over(0, NOW).history.highs == ()
    knows = Memory(History(replicas=4, decided_ms=NOW - 1_000, highs=(Mark(NOW - 30_000, 4),)))
    assert knows.taken_over(4, NOW) == knows
    stale = Memory(History(replicas=1, decided_ms=NOW - 1_000, highs=(Mark(NOW - 30_000, 9), Mark(NOW - 9_000, 2))))
    assert stale.taken_over(4, NOW).history.highs == (Mark(NOW - 30_000, 9), Mark(NOW, 4))


def test_a_queue_in_which_nothing_happens_gives_nothing_to_remember():
    charge = Charge(unit("mail"))
    todo(charge, [], Roll(NOW), NOW)
    gists = set()
    for seconds in range(30, 3_000, 30):
        todo(charge, [], Roll(NOW), NOW + seconds * 1_000)
        gists.add(str(charge.memory.gist))
    assert len(gists) == 1
    todo(charge, [], Roll(NOW), NOW + 3_000_000, waiting=5)
    assert str(charge.memory.gist) not in gists


def test_start_up_time_is_learned_and_bounded():
    memory = Memory().with_startup(4_000)
    assert memory.startup_ms == 4_000
    assert memory.with_startup(14_000).startup_ms == 7_000
    assert Memory().with_startup(10**9).startup_ms == 600_000
    assert Memory().with_startup(-5).startup_ms == 0


# -- marks ------------------------------------------------------------------------------------------------------------


def pod(name="a", *, ready=True, uid=None, created="2026-01-01T00:00:00Z", **annotations):
    return {
        "metadata": {"name": name, "uid": uid or f"uid-{name}", "creationTimestamp": created,
                     "labels": {"pod-template-hash": "a"}, "annotations": annotations},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:03Z"}],
            "containerStatuses": [{"name": "worker", "state": {"running": {"startedAt": created}}}],
        },
    }  # fmt: skip


def roll(**busy):
    entries = []
    for host, jobs in busy.items():
        entry = {"host": host, "started": NOW, "at": NOW, "busy": jobs, "state": "working", "protocol": 1}
        entries += [f"{host}@0123456789ab".encode(), json.dumps(entry).encode()]
    found = Roll.parse(NOW, entries, [])
    assert found is not None
    return found


def todo(charge, pods, roll, now_ms=NOW, replicas=None, **counts):
    charge.see(sight(roll, **{"at_ms": now_ms, **counts}))
    return charge.consider(Around(deployment("mail", len(pods) if replicas is None else replicas), pods), now_ms)


def test_a_pod_is_marked_when_busy_and_let_go_when_long_idle():
    charge = Charge(unit("mail"))
    busy = [pod("a"), pod("b", **protection.PROTECTIONS)]
    assert todo(charge, busy, roll(a=1, b=0), active=1).marks == {"a": True}
    later = NOW + IDLE_MS - 1
    assert todo(charge, busy, roll(a=1, b=0), later, active=1).marks == {"a": True}
    assert todo(charge, busy, roll(a=1, b=0), later + 1, active=1).marks == {"a": True, "b": False}
    assert todo(charge, busy, roll(a=1, b=1), later + 2, active=2).marks == {"a": True}
    assert todo(charge, busy, roll(a=1, b=0), later + 3, active=2).marks == {"a": True}


def test_marks_go_where_they_are_no_longer_asked_for():
    charge = Charge(unit("mail", protect=False))
    assert todo(charge, [pod("a", **protection.PROTECTIONS)], roll(a=1), active=1).marks == {"a": False}


def test_marks_of_pods_that_are_gone_are_forgotten():
    assert Marks({"gone": 5}).after((), NOW) == Marks()


def test_writes_of_marks_are_paced():
    pace = Pace(5.0, 10.0)
    assert sum(pace.take(100.0) for _ in range(50)) == 10
    assert sum(pace.take(101.0) for _ in range(50)) == 5
    assert not pace.take(50.0), "a clock that goes back gives nothing"


# -- charges ----------------------------------------------------------------------------------------------------------


def test_a_crew_is_counted():
    charge = Charge(unit("mail"))
    going = pod("c")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:05Z"
    todo(charge, [pod("a"), pod("b", ready=False), going], roll(a=2, c=3), replicas=2, active=5)
    crew = charge.state.crew
    assert (crew.replicas, crew.ready, crew.starting, crew.busy) == (2, 1, 1, 1)


def test_jobs_on_pods_that_go_ask_for_no_other_pod():
    charge = Charge(unit("mail"))
    going = pod("c")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:05Z"
    todo(charge, [pod("a"), going], roll(a=1, c=10), replicas=1, active=11)
    assert charge.state.desired == 1


def test_our_own_write_counts_for_a_minute():
    charge = Charge(unit("mail"))
    charge.wrote(Written("deployment-mail", "9", 5), NOW)
    for passed_ms, replicas in ((59_999, 5), (60_000, 2)):
        todo(charge, [pod("a"), pod("b")], roll(a=1, b=1), NOW + passed_ms, active=2)
        assert charge.state.crew.replicas == replicas


def test_a_pod_that_somebody_made_by_hand_with_our_labels_is_no_worker_and_no_rollout():
    charge = Charge(unit("mail", ScalingPolicy(max_replicas=5, zero_after_ms=0, zero_readings=1)))
    charge.memory = Memory(History(replicas=2, decided_ms=NOW - 1))
    stray = pod("debug")
    del stray["metadata"]["labels"]["pod-template-hash"]
    found = todo(charge, [pod("a"), pod("b"), stray], roll(a=1, b=0), replicas=2, active=1)
    assert charge.state.crew.ready == 2
    assert [limit.reason for limit in charge.state.limited] == []
    assert list(found.plan.retire) == ["b@0123456789ab"]
    assert list(todo(charge, [pod("a"), stray], roll(a=1), NOW + 1, replicas=1, active=1).plan.retire) == []


def test_a_steady_flow_is_news_once_the_oldest_job_told_of_is_long_gone():
    charge = Charge(unit("mail"))
    news = []
    for seconds in range(0, 150, 5):
        now_ms = NOW + seconds * 1_000
        todo(charge, [pod("a")], roll(a=5), now_ms, waiting=100, active=5, oldest_ms=now_ms - 4_000)
        if charge.news(now_ms):
            news.append(seconds)
    assert news == [0, 65, 130]


def test_a_first_start_teaches_and_a_pod_that_was_there_before_does_not():
    charge = Charge(unit("mail"))
    todo(charge, [pod("a"), pod("b", ready=False)], roll(a=1), active=1)
    assert charge.memory.startup_ms is None
    todo(charge, [pod("a"), pod("b")], roll(a=1, b=0), active=1)
    assert charge.memory.startup_ms == 3_000
    assert charge.horizon_ms == 3_000


def test_a_charge_that_was_never_read_does_nothing():
    assert Charge(unit("mail")).consider(Around(deployment("mail", 3)), NOW) is None


def test_what_was_remembered_counts_though_redis_was_away_at_first():
    learned = Memory(History(replicas=1, decided_ms=NOW - 1_000, run_ms=70_000.0), 9_000)
    charge = Charge(unit("mail"))
    charge.unseen = "Redis does not answer"
    charge.consider(Around(deployment("mail", 1)), NOW)
    charge.see(sight()._replace(remembered=learned.to_json().encode()))
    charge.consider(Around(deployment("mail", 4)), NOW)
    assert (charge.memory.startup_ms, charge.memory.history.run_ms) == (9_000, 70_000.0)
    assert charge.memory.history.highs[0].replicas == 4, "what runs and it knows nothing of is held"
    charge.see(sight()._replace(remembered=Memory(History(replicas=9), 5).to_json().encode()))
    assert charge.memory.startup_ms == 9_000, "from then on what is seen counts"


def test_what_was_refused_is_told_as_long_as_it_is_asked_for():
    charge = Charge(unit("mail"))
    charge.refused = "may not patch deployments/scale"
    todo(charge, [], Roll(NOW), waiting=5)
    assert charge.state.trouble == "may not patch deployments/scale"
    todo(charge, [], Roll(NOW), NOW + 1_000)
    assert charge.state.trouble == ""


def test_the_deployment_that_the_reconciler_is_about_to_make_is_no_trouble():
    charge = Charge(unit("mail"))
    charge.see(sight())
    assert charge.consider(Around(None), NOW) is None
    assert (charge.state.trouble, charge.state.absent) == ("", True)
    todo(charge, [pod("a")], roll(a=1), active=1)
    assert not charge.state.absent


@pytest.mark.parametrize(
    ("found", "redis", "told"),
    [(Roll(NOW), "", "NeverReady"), (roll(a=0), "", ""), (None, "", ""), (Roll(NOW), "does not answer", "")],
    ids=["nobody heard of", "heard of", "unreadable", "Redis away"],
)
def test_workers_that_were_never_heard_of_are_told_of_and_more_are_asked_for_all_the_same(found, redis, told):
    charge = Charge(unit("mail"))
    charge.see(sight()._replace(reading=reading(waiting=25), roll=found))
    charge.unseen = redis
    result = charge.consider(Around(deployment("mail", 1), [pod("a", ready=False)]), NOW)
    assert charge.state.cannot_start.startswith(told)
    assert bool(charge.state.cannot_start) is bool(told)
    assert result.plan.replicas == (None if redis else 3)


def test_a_queue_whose_workers_are_nobodys_business_is_only_observed():
    charge = Charge(unit("mail", target=None))
    charge.see(sight(waiting=5))
    assert charge.consider(Around(None), NOW) is None
    assert charge.state.reading is not None
    assert charge.state.reading.waiting == 5


def test_what_is_shown_says_what_the_shrink_waits_for():
    charge = Charge(unit("mail", ScalingPolicy(max_replicas=5, zero_after_ms=0, zero_readings=1)))
    charge.memory = Memory(History(replicas=2, decided_ms=NOW - 1))
    todo(charge, [pod("a"), pod("b")], roll(a=4, b=2), active=6)
    assert charge.state.desired == 1
    assert charge.state.message.endswith("1 of 2 pods retire: 1 of them still run 2 jobs")


def test_a_rollout_that_holds_the_number_is_a_limit():
    charge = Charge(unit("mail", ScalingPolicy(max_replicas=5)))
    charge.memory = Memory(History(replicas=2, decided_ms=NOW - 1))
    old = pod("a")
    new = pod("b")
    new["metadata"]["labels"]["pod-template-hash"] = "b"
    todo(charge, [old, new], roll(a=1, b=0), active=1)
    assert charge.state.desired == 1
    assert charge.state.limited[-1].reason == "Rollout"
    assert "a rollout goes on; then 1 of 2 pods go" in charge.state.message


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 90_000), st.booleans()), max_size=30))
def test_however_clocks_jump_a_decision_comes_and_stays_in_bounds(steps):
    charge = Charge(unit("mail", ScalingPolicy(max_replicas=4)))
    now_ms = NOW
    for waiting, active, moved_ms, forth in steps:
        now_ms += moved_ms if forth else -moved_ms
        found = todo(charge, [], Roll(now_ms), now_ms, replicas=2, waiting=waiting, active=active)
        assert found is not None
        assert charge.state.desired is not None
        assert 0 <= charge.state.desired <= 4
        assert active == 0 or charge.state.desired >= 1


def test_a_unit_is_compared_by_value():
    one = ScaleUnit(key=Key(kinds.JOBQUEUE, "a", "b"), uid="u", keys=QueueKeys("bull", "b"), redis="r",
                    policy=ScalingPolicy(), target=None)  # fmt: skip
    assert one == replace(one)
    assert one != replace(one, protect=False)


@pytest.mark.parametrize(
    ("uid", "version", "news"), [("deployment-emails", "7", False), ("deployment-emails", "8", True), ("x", "7", True)]
)
def test_what_we_wrote_ourselves_is_no_news(uid, version, news):
    obj = deployment("emails")
    obj["metadata"] |= {"uid": uid, "resourceVersion": version}
    assert Written("deployment-emails", "7", 3).made(obj) is not news
