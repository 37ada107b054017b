"""The list of commands: what the Lua of BullMQ and ours calls, what is sent as it is, and no more."""

import re
from pathlib import Path

import bullmq

import bullpen
from bullpen_operator.connections import acl

SENT_AS_THEY_ARE = {
    "bzpopmin": "workers wait by it",
    "hscan": "Node pages through the children of a job",
    "sscan": "the same",
    "mget": "workers look at many locks",
    "xrevrange": "clients begin after the last event",
    "zrevrange": "Node lists jobs, newest first",
    "xread": "events are followed",
}
CALL = re.compile(r"""(?:rcall|redis\.p?call)\(\s*['"]([A-Za-z]+)['"]""")
FOLDERS = [Path(bullmq.__file__).parent, Path(bullpen.__file__).parent / "queue" / "scripts"]


def called() -> set[str]:
    found: set[str] = set()
    for folder in FOLDERS:
        for path in (*folder.rglob("*.lua"), *folder.rglob("*.py")):
            found |= {name.lower() for name in CALL.findall(path.read_text(encoding="utf-8"))}
    return found


def test_whatever_a_script_calls_is_allowed() -> None:
    assert called() - {*acl.KEYS, *acl.CHANNELS, *acl.CONNECTION} == set()
    assert len(called()) > 40


def test_whatever_is_allowed_on_keys_is_called_by_somebody() -> None:
    # By a variable in Lua: RPUSH or LPUSH, HLEN or SCARD.
    assert set(acl.KEYS) - called() - SENT_AS_THEY_ARE.keys() - {"rpush", "lpush", "hlen", "scard"} == set()


def test_nothing_is_allowed_twice_nor_in_capitals() -> None:
    everything = (*acl.CONNECTION, *acl.SINCE_7_2, *acl.CHANNELS, *acl.KEYS)
    assert len(set(everything)) == len(everything)
    assert all(each == each.lower() for each in everything)


def test_a_user_is_whole_whatever_it_was_before() -> None:
    rules = acl.rules(acl.Confines("shop", ("a*",), 3), ("0" * 64,), version=(7, 2, 1))
    assert rules[:7] == (
        "reset",
        "on",
        "#" + "0" * 64,
        "~shop:a\\*:*",
        "resetchannels",
        "&shop:a\\*:bullpen:nudge",
        "-@all",
    )
    assert "+select|3" in rules
    assert "+client|setinfo" in rules
    assert "+client|setinfo" not in acl.rules(acl.Confines("shop", ("a",)), (), version=(7, 0, 15))
    assert not any("select" in rule for rule in acl.rules(acl.Confines("shop", ("a",)), (), version=(7, 0, 15)))
