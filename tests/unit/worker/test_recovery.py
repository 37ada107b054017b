"""Whose fault a death was: the rules as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen_worker.keeping.recovery import (
    Crashes,
    Death,
    Decision,
    Holder,
    StalledJob,
    death_of_child,
    is_ours,
    judge,
    judge_all,
    read_dead,
    worker_name,
)

DEAD = worker_name("pod-1", "0123456789ab")
SELF = worker_name("pod-2", "ba9876543210")
NODE = "node-worker"
LOCK_MS = 10_000


def job(worker=DEAD, job_id="1"):
    return StalledJob(job_id, "1", worker, Crashes())


def holder(name=DEAD, active=1, locked=0, longest=0, silent=None):
    return Holder(name, active, locked, longest, silent)


def decide(stalled, held, max_crashes=3):
    return judge(stalled, held, own_name=SELF, lock_ms=LOCK_MS, max_crashes=max_crashes)


@pytest.mark.parametrize(
    ("why", "worker", "held", "wait", "death"),
    [
        ("the only job of a dead worker", DEAD, holder(), False, Death.ALONE),
        ("one of many of a dead worker", DEAD, holder(active=20), False, Death.COMPANY),
        ("the others' locks still run out", DEAD, holder(active=2, locked=1, longest=3_000), True, Death.NONE),
        ("another lock was renewed: it lives", DEAD, holder(active=2, locked=1, longest=7_000), False, Death.NONE),
        ("heard of since: it lives", DEAD, holder(silent=5_000), False, Death.NONE),
        ("last heard of before it can have died", DEAD, holder(silent=5_400), False, Death.ALONE),
        ("we ourselves: a lost lock is no death", SELF, holder(SELF), False, Death.NONE),
        ("a worker whose name may stand for many", NODE, holder(NODE), False, Death.COMPANY),
        ("a worker without a name", "", None, False, Death.COMPANY),
    ],
)
def test_what_a_lost_lock_says(why, worker, held, wait, death):
    decision = decide(job(worker), held)
    assert (decision.wait, decision.death) == (wait, death), why
    assert (decision.fields == ()) is (death is Death.NONE)


@pytest.mark.parametrize(
    ("before", "death", "suspect", "quarantined"),
    [
        (Crashes(), Death.COMPANY, False, False),
        (Crashes(company=1), Death.COMPANY, True, False),
        (Crashes(company=99), Death.COMPANY, True, False),
        (Crashes(company=99, alone=3), Death.COMPANY, True, False),
        (Crashes(), Death.ALONE, True, False),
        (Crashes(alone=1), Death.ALONE, True, False),
        (Crashes(alone=2), Death.ALONE, True, True),
        (Crashes(alone=7), Death.ALONE, True, True),
    ],
)
def test_what_a_death_leads_to(before, death, suspect, quarantined):
    fields = before.after(death, DEAD).fields(death, max_crashes=3)
    names = dict(zip(fields[::2], fields[1::2], strict=True))
    assert (names.get("bullpen:suspect") == "1") is suspect
    assert ("defa" in names) is quarantined
    assert Decision("1", "1", fields=fields).quarantines is quarantined
    if quarantined:
        assert names["defa"].startswith(f"quarantined: its worker died {before.alone + 1} times while it ran")


def test_one_crash_may_be_enough():
    decision = decide(job(), holder(), max_crashes=1)
    assert "quarantined: its worker died once while it ran" in decision.fields


def test_no_death_changes_nothing():
    assert Crashes(2, 1, ("a:x",)).after(Death.NONE, DEAD) == Crashes(2, 1, ("a:x",))
    assert Crashes(2, 1).fields(Death.NONE, 1) == ()


@pytest.mark.parametrize(("jobs", "death"), [(0, Death.ALONE), (1, Death.ALONE), (2, Death.COMPANY)])
def test_the_death_of_a_child(jobs, death):
    assert death_of_child(jobs) is death


@given(st.lists(st.just(Death.COMPANY), max_size=50), st.integers(1, 5))
def test_no_number_of_deaths_in_company_quarantines(deaths, max_crashes):
    crashes = Crashes()
    for death in deaths:
        crashes = crashes.after(death, DEAD)
        assert "defa" not in crashes.fields(death, max_crashes)
    assert crashes.suspect is (len(deaths) >= 2)
    assert len(crashes.deaths) <= 8


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.sampled_from(["a:x", "c:y@0123456789ab"]), max_size=8))
def test_what_is_remembered_is_read_back(company, alone, deaths):
    assert Crashes.read(str(company), str(alone), " ".join(deaths)) == Crashes(company, alone, tuple(deaths))


def test_what_others_wrote_counts_as_nothing():
    assert Crashes.read("many", "-1", "") == Crashes()
    assert Crashes.read("9" * 5_000, "\u0663", "") == Crashes()
    _, holders = read_dead(4_000, [], [(DEAD.encode(), 1, 0, 0, b'{"at":' + b"9" * 5_000 + b"}")])
    assert holders == {DEAD: Holder(DEAD, 1, 0, 0, None)}


@pytest.mark.parametrize(
    ("name", "ours"),
    [(DEAD, True), (f"{DEAD}/3", True), (NODE, False), ("", False), ("pod@0123456789AB", False), ("@012345", False)],
)
def test_our_names_are_told_from_others(name, ours):
    assert is_ours(name) is ours


def test_the_script_s_answer_is_read():
    jobs = [[b"7", b"2", DEAD.encode(), b"1", b"0", b"c:x"], [b"8", b"1", b"", b"0", b"0", b""]]
    workers = [(DEAD.encode(), 4, 1, 900, b'{"v":1,"at":1000,"host":"x"}'), (b"node", 1, 0, 0, b"")]
    stalled, holders = read_dead(4_000, jobs, workers)
    assert stalled == [StalledJob("7", "2", DEAD, Crashes(1, 0, ("c:x",))), StalledJob("8", "1", "", Crashes())]
    assert holders == {DEAD: Holder(DEAD, 4, 1, 900, 3_000), "node": Holder("node", 1, 0, 0, None)}


def test_all_of_one_check_are_decided():
    stalled = [job(job_id="1"), job(job_id="2"), job(NODE, "3")]
    decisions = judge_all(stalled, {DEAD: holder(active=2)}, own_name=SELF, lock_ms=LOCK_MS, max_crashes=3)
    assert [decision.death for decision in decisions] == [Death.COMPANY] * 3
    assert decisions[0].wire()[:3] == ("1", "1", "move")
