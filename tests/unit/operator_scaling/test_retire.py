"""Retire, then shrink: the plan as a table, and its laws beside a ReplicaSet controller that picks its victims itself."""

import json
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bullpen_operator.scaling import retire
from bullpen_operator.scaling.crew import Order, Roll, Worker
from bullpen_operator.scaling.pods import PodView
from bullpen_operator.scaling.retire import COST, Fleet, plan

NOW = 1_000_000_000


def pod(name, *, ready=True, started=True, going=False, cost=None, revision="a", age_s=600):
    created = NOW - age_s * 1_000
    return PodView(
        name=name,
        uid=f"uid-{name}",
        revision=revision,
        created_ms=created,
        ready=ready,
        ready_ms=created + 2_000 if ready else None,
        going=going,
        started_ms=created + 1_000 if started else None,
        restarts=0,
        trouble="",
        loop=None,
        unschedulable="",
        cost=cost,
        protected=False,
    )


def worker(host, busy=0, state="working", *, at_ms=NOW - 1_000, age_s=500):
    return Worker(f"{host}@0123456789ab", host, NOW - age_s * 1_000, at_ms, 10, busy, state)


def order(host, left_ms=25_000):
    return {f"{host}@0123456789ab": Order(NOW + left_ms, f"uid-{host}")}


def fleet(pods, workers=(), orders=None, *, replicas=None, rolling_out=False):
    roll = Roll(NOW, {one.name: one for one in workers}, orders or {})
    count = len([one for one in pods if not one.going]) if replicas is None else replicas
    return Fleet.of(count, pods, roll, now_ms=NOW, rolling_out=rolling_out)


def named(plan):
    return {name.partition("@")[0] for name in plan.retire}


def test_the_least_busy_get_orders_and_the_number_stays():
    pods = [pod("a"), pod("b"), pod("c")]
    found = plan(fleet(pods, [worker("a", 3), worker("b", 0), worker("c", 1)]), 1)
    assert named(found) == {"b", "c"}
    assert found.replicas is None
    assert found.waits == "2 of 3 pods retire: 1 of them still run 1 job"


def test_the_number_goes_down_by_those_that_may_go_and_they_are_marked_as_cheap():
    pods = [pod("a"), pod("b", ready=False), pod("c")]
    workers = [worker("a", 3), worker("b", 0, "retiring"), worker("c", 1, "retiring")]
    found = plan(fleet(pods, workers, order("b") | order("c")), 1)
    assert found.replicas == 2
    assert found.costs == {"b": COST}
    assert found.retire == {}


def test_demand_that_returns_lifts_first_and_adds_second():
    pods = [pod("a"), pod("b"), pod("c")]
    workers = [worker("a", 3), worker("b", 0, "retiring"), worker("c", 1, "retiring")]
    orders = order("b") | order("c")
    assert plan(fleet(pods, workers, orders), 3).replicas is None
    found = plan(fleet(pods, workers, orders), 5)
    assert set(found.lift) == set(orders)
    assert found.replicas == 5
    some = plan(fleet(pods, workers, orders), 2)
    assert [name.partition("@")[0] for name in some.lift] == ["c"]


def test_orders_are_renewed_in_time_and_leases_that_ran_out_do_not_count():
    pods = [pod("a"), pod("b")]
    workers = [worker("a", 1), worker("b", 1, "retiring")]
    assert named(plan(fleet(pods, workers, order("b", 25_000)), 1)) == set()
    assert named(plan(fleet(pods, workers, order("b", 15_000)), 1)) == {"b"}
    assert named(plan(fleet(pods, workers, order("b", -1)), 1)) in ({"a"}, {"b"})


@pytest.mark.parametrize(
    ("what", "one", "its_worker", "orders", "may_go"),
    [
        ("retired and idle", pod("a", ready=False), worker("a", 0, "retiring"), order("a"), True),
        ("still ready", pod("a"), worker("a", 0, "retiring"), order("a"), False),
        ("still busy", pod("a", ready=False), worker("a", 1, "retiring"), order("a"), False),
        ("has not obeyed", pod("a", ready=False), worker("a", 0), order("a"), False),
        ("order about to run out", pod("a", ready=False), worker("a", 0, "retiring"), order("a", 5_000), False),
        ("no order at all", pod("a", ready=False), worker("a", 0, "retiring"), {}, False),
        ("not heard of lately", pod("a", ready=False), worker("a", 0, "retiring", at_ms=NOW - 20_000), order("a"), False),
        ("never started", pod("a", ready=False, started=False), None, {}, True),
        ("just started", pod("a", ready=False, age_s=5), None, {}, False),
        ("runs, and was never heard of", pod("a", ready=False, age_s=90), None, {}, True),
        ("stops by itself", pod("a", ready=False), worker("a", 0, "stopping"), {}, True),
        ("order for another pod of that name", pod("a", ready=False), worker("a", 0, "retiring"),
         {"a@0123456789ab": Order(NOW + 25_000, "uid-before")}, False),
        ("worker of the container before", pod("a", ready=False, age_s=100), worker("a", 5), {}, True),
    ],
)  # fmt: skip
def test_who_may_go(what, one, its_worker, orders, may_go):
    found = plan(fleet([one], [its_worker] if its_worker else [], orders), 0)
    assert (found.replicas == 0) is may_go, what


def test_after_the_write_the_doomed_keep_their_orders_until_they_are_gone():
    pods = [pod("a"), pod("b", ready=False), pod("c", ready=False)]
    workers = [worker("a", 3), worker("b", 0, "retiring"), worker("c", 0, "retiring")]
    found = plan(fleet(pods, workers, order("b") | order("c"), replicas=1), 1)
    assert found.lift == ()
    assert found.replicas is None
    leaving = [pod("a"), pod("b", ready=False, going=True), pod("c", ready=False)]
    assert plan(fleet(leaving, workers, order("b") | order("c"), replicas=1), 1).lift == ()


def test_a_survivor_in_whose_place_another_went_works_again():
    pods = [pod("a"), pod("c", ready=False, cost=COST)]
    workers = [worker("a", 3), worker("c", 0, "retiring")]
    found = plan(fleet(pods, workers, order("c"), replicas=2), 2)
    assert found.lift == ("c@0123456789ab",)
    assert found.costs == {"c": None}


def test_pods_that_were_never_made_go_first():
    found = plan(fleet([pod("a"), pod("b")], [worker("a", 1), worker("b", 1)], replicas=10), 2)
    assert found.replicas == 2
    assert found.retire == {}


def test_those_doomed_already_are_not_counted_twice():
    pods = [pod("a"), pod("b", ready=False), pod("c"), pod("d")]
    workers = [worker("a", 1), worker("b", 0, "retiring"), worker("c", 1), worker("d", 1)]
    found = plan(fleet(pods, workers, order("b"), replicas=3), 2)
    assert found.replicas is None
    assert len(named(found)) == 1


def rollout(old, new, *, busy=(), retired=(), replicas=None, starting=()):
    """Pods of two templates; whoever is retired is idle, holds an order, and is not ready."""
    pods = [pod(name, revision="old", ready=name not in retired) for name in old]
    pods += [
        pod(name, revision="new", ready=name not in {*retired, *starting}, started=name not in starting) for name in new
    ]
    names = [name for name in (*old, *new) if name not in starting]
    workers = [worker(name, int(name in busy), "retiring" if name in retired else "working") for name in names]
    orders = {key: value for name in retired for key, value in order(name).items()}
    return fleet(pods, workers, orders, replicas=len(pods) if replicas is None else replicas, rolling_out=True)


def test_nobody_retires_while_a_rollout_goes_on_and_who_has_works_again():
    found = plan(rollout("ab", "cd", retired="b", replicas=3), 1)
    assert found.replicas is None
    assert found.retire == {}
    assert found.lift == ("b@0123456789ab",)
    assert found.waits == "a rollout goes on; then 2 of 3 pods go"


def test_a_rollout_is_not_waited_for_when_all_are_to_go():
    assert named(plan(rollout("a", "bcd", replicas=3), 0)) == {"a", "b", "c", "d"}
    assert plan(rollout("a", "bcd", retired="bcd", replicas=3), 0).replicas is None, "one still takes jobs"
    assert plan(rollout("a", "bcd", retired="abcd", replicas=3), 0).replicas == 0


def test_a_rollout_that_is_stuck_does_not_hold_a_fleet_for_ever():
    assert named(plan(rollout("abc", "d", starting="d", busy="a", replicas=3), 1)) <= {"a", "b", "c"}
    found = plan(rollout("abc", "d", starting="d", busy="a", retired="bc", replicas=3), 1)
    assert found.replicas in (1, 2)
    assert found.replicas != 1 or not {"a"} & named(found)


def test_a_rollout_that_has_just_begun_is_not_stuck():
    old = [pod(name, revision="old") for name in "abc"]
    new = pod("d", revision="new", ready=False, started=False, age_s=5)
    found = plan(fleet([*old, new], [worker(name) for name in "abc"], replicas=3, rolling_out=True), 1)
    assert (found.retire, found.replicas) == ({}, None)
    assert found.waits == "a rollout goes on; then 2 of 3 pods go"


def test_workers_that_cannot_be_read_are_left_alone():
    unread = Fleet.of(3, [pod("a"), pod("b"), pod("c")], None, now_ms=NOW)
    assert plan(unread, 1).replicas is None
    assert plan(unread, 5).replicas == 5


def test_of_two_starts_in_a_pod_the_latest_counts():
    before = Worker("a@000000000000", "a", NOW - 700_000, NOW - 5_000, 10, 7, "working")
    found = fleet([pod("a")], [before, worker("a", 0)])
    assert found.members[0].busy == 0


# -- laws: a cluster, workers, time ---------------------------------------------------------------------------------


@dataclass
class SimPod:
    view: PodView
    busy: int = 0
    retiring_until: int | None = None
    said: Worker | None = None
    seen: PodView | None = None
    """As the cache has it, late."""
    removed_busy: bool = False


@dataclass
class Sim:
    """Pods with workers that obey orders after a while, a ReplicaSet controller with Kubernetes' own victims, a late cache."""

    dice: random.Random
    replicas: int
    victims_by_chance: bool = False
    now: int = NOW
    pods: dict[str, SimPod] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    unmeant: int = 0
    serial: int = 0

    def settle(self):
        """The ReplicaSet controller."""
        while len(self.pods) < self.replicas:
            self.serial += 1
            self.pods[f"p{self.serial}"] = SimPod(replace(pod(f"p{self.serial}", ready=False, started=False),
                                                          created_ms=self.now))  # fmt: skip
        while len(self.pods) > self.replicas:
            victims = list(self.pods.values())
            if self.victims_by_chance:
                # Somebody else deletes a pod by hand: never ours to answer for.
                victim = self.dice.choice(victims)
                self.unmeant += 1
            else:
                victim = min(victims, key=lambda one: (one.view.started_ms is not None, one.view.ready,
                                                       int(one.view.cost or 0), -one.view.created_ms))  # fmt: skip
                if victim.busy:
                    self.cut.append(victim.view.name)
            del self.pods[victim.view.name]

    def step(self, demand: int):
        """Half a second of pods' and workers' lives."""
        self.now += 500
        for name, one in self.pods.items():
            full = f"{name}@0123456789ab"
            if one.view.started_ms is None:
                if self.dice.random() < 0.5:
                    one.view = replace(one.view, started_ms=self.now)
                continue
            lease = self.orders.get(full)
            if self.dice.random() < 0.5 or one.said is None:  # a beat
                holds = lease is not None and lease.deadline_ms > self.now
                one.retiring_until = lease.deadline_ms if lease is not None and holds else None
                state = "retiring" if one.retiring_until else "working"
                one.said = Worker(full, name, one.view.started_ms, self.now, 10, one.busy, state)
            if one.retiring_until is not None and one.retiring_until <= self.now:
                one.retiring_until = None
            if one.retiring_until is None and self.dice.random() < demand / 10:
                one.busy = min(one.busy + 1, 10)
            elif one.busy and self.dice.random() < 0.4:
                one.busy -= 1
            ready = not (one.retiring_until is not None and one.busy == 0)
            one.view = replace(one.view, ready=ready, ready_ms=self.now if ready else None)
            if self.dice.random() < 0.8:
                one.seen = one.view

    def scale(self, desired: int):
        """One round of ours, on what the cache has."""
        views = [one.seen or one.view for one in self.pods.values()]
        roll = Roll(self.now, {one.said.name: one.said for one in self.pods.values() if one.said}, dict(self.orders))
        found = plan(Fleet.of(self.replicas, views, roll, now_ms=self.now), desired)
        for name in found.lift:
            self.orders.pop(name, None)
        for name, retiree in found.retire.items():
            self.orders[name] = Order(self.now + 30_000, retiree.pod_uid, retiree.start_ms)
        for name, cost in found.costs.items():
            if name in self.pods:
                self.pods[name].view = replace(self.pods[name].view, cost=cost)
        if found.replicas is not None:
            assert found.replicas > self.replicas or found.replicas >= desired
            self.replicas = found.replicas
        return found


phases = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 8), phases)
def test_scaling_takes_no_busy_pod_and_gets_there_in_the_end(seed, replicas, phases):
    sim = Sim(random.Random(seed), replicas)
    desired = replicas
    for desired, demand, steps in phases:
        for _ in range(steps):
            sim.settle()
            sim.step(demand)
            sim.scale(desired)
    for _ in range(400):
        sim.settle()
        sim.step(0)
        sim.scale(desired)
    assert sim.cut == []
    assert sim.replicas == desired
    assert len(sim.pods) == desired
    names = {f"{name}@0123456789ab" for name in sim.pods}
    assert not names & sim.orders.keys(), "who stays works"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), phases)
def test_whoever_goes_the_number_comes_right_and_survivors_work(seed, phases):
    sim = Sim(random.Random(seed), 6, victims_by_chance=True)
    for desired, demand, steps in phases:
        for _ in range(steps):
            sim.settle()
            sim.step(demand)
            sim.scale(desired)
    for _ in range(300):
        sim.settle()
        sim.step(0)
        sim.scale(2)
    assert sim.replicas == len(sim.pods) == 2
    assert not {f"{name}@0123456789ab" for name in sim.pods} & sim.orders.keys()


@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(0, 6))
def test_planning_twice_on_the_same_says_nothing_new(seed, replicas, desired):
    sim = Sim(random.Random(seed), replicas)
    for _ in range(10):
        sim.settle()
        sim.step(4)
        sim.scale(desired)
    first = sim.scale(desired)
    again = sim.scale(desired)
    assert again.retire == {}
    assert set(again.lift) <= set(first.lift)


def test_a_crashed_operator_freezes_nobody():
    sim = Sim(random.Random(3), 5)
    for _ in range(20):
        sim.settle()
        sim.step(5)
    sim.scale(1)
    assert sim.orders
    for _ in range(120):  # a minute without anybody who renews
        sim.step(5)
    assert all(one.retiring_until is None for one in sim.pods.values())
    assert json.dumps(retire.COST) == '"-1000"'


# -- laws in a rollout: a Deployment that replaces its pods one by one, and waits for each to be ready ----------------


@dataclass
class Rollout(Sim):
    """A Deployment with maxSurge 1 and maxUnavailable 0; the new template's pods may never start."""

    revision: str = "old"
    broken: bool = False

    def settle(self):
        new = [one for one in self.pods.values() if one.view.revision == self.revision]
        old = [one for one in self.pods.values() if one.view.revision != self.revision]
        surge = 1 if old else 0
        if len(new) < self.replicas and len(self.pods) < self.replicas + surge:
            self.serial += 1
            name = f"p{self.serial}"
            self.pods[name] = SimPod(replace(pod(name, ready=False, started=False, revision=self.revision),
                                             created_ms=self.now))  # fmt: skip
        ready = sum(one.view.ready for one in self.pods.values())
        # Old pods that are not ready go first; others only while enough are ready without them.
        for one in sorted(old, key=lambda one: (one.view.ready, int(one.view.cost or 0))):
            if len(self.pods) > self.replicas and (not one.view.ready or ready > self.replicas):
                self._remove(one)
                ready -= one.view.ready
        spare = [one for one in self.pods.values() if one.view.revision == self.revision or not old]
        spare.sort(key=lambda one: (one.view.started_ms is not None, one.view.ready, int(one.view.cost or 0)))
        while len(self.pods) > self.replicas + surge and spare:
            self._remove(spare.pop(0))

    def _remove(self, one):
        # What a rollout itself removes is its own business, and cuts nothing but by its grace period.
        del self.pods[one.view.name]

    def step(self, demand):
        held = [one for one in self.pods.values() if self.broken and one.view.revision == self.revision]
        for one in held:
            one.view = replace(one.view, started_ms=None, ready=False)
        super().step(demand)
        for one in held:
            one.view = replace(one.view, started_ms=None, ready=False)
            one.said, one.busy = None, 0
            one.seen = one.view

    def scale(self, desired):
        views = [one.seen or one.view for one in self.pods.values()]
        roll = Roll(self.now, {one.said.name: one.said for one in self.pods.values() if one.said}, dict(self.orders))
        rolling = len({view.revision for view in views}) > 1
        found = plan(Fleet.of(self.replicas, views, roll, now_ms=self.now, rolling_out=rolling), desired)
        for name in found.lift:
            self.orders.pop(name, None)
        for name, retiree in found.retire.items():
            self.orders[name] = Order(self.now + 30_000, retiree.pod_uid, retiree.start_ms)
        if found.replicas is not None:
            self.replicas = found.replicas
        return found


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 4), st.integers(0, 9))
def test_a_rollout_and_a_shrink_do_not_wait_for_each_other(seed, replicas, desired, demand):
    sim = Rollout(random.Random(seed), replicas)
    for _ in range(40):
        sim.settle()
        sim.step(demand)
        sim.scale(replicas)
    sim.revision = "new"
    for _ in range(300):
        sim.settle()
        sim.step(demand if desired else 0)
        sim.scale(desired)
    for _ in range(150):
        sim.settle()
        sim.step(0)
        sim.scale(desired)
    assert sim.replicas == desired
    assert {one.view.revision for one in sim.pods.values()} <= {"new"}
    assert len(sim.pods) == desired


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_a_rollout_whose_pods_never_start_holds_no_fleet_of_idle_ones(seed, replicas):
    sim = Rollout(random.Random(seed), replicas)
    for _ in range(20):
        sim.settle()
        sim.step(0)
        sim.scale(replicas)
    sim.revision, sim.broken = "new", True
    for _ in range(250):
        sim.settle()
        sim.step(0)
        sim.scale(1)
    # What the Deployment is set to may stay higher by pods that do not start: they cost nothing, and whose they are taken
    # from is the rollout's choice.
    assert sum(one.view.started_ms is not None for one in sim.pods.values()) == 1
