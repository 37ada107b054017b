"""The scripts: BullMQ's to the letter, ours around them."""

import hashlib
import subprocess
import sys

import pytest

from bullpen.errors import ConfigurationError
from bullpen.queue import lua


def test_bullmqs_scripts_come_from_the_installed_package():
    script = lua.bullmq("moveToActive-11")
    assert script.key_count == 11
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()
    assert "moveToActive" not in lua.ours("getJob-9").source


def test_a_script_that_is_not_there_is_named():
    with pytest.raises(ConfigurationError, match="moveToMars-3"):
        lua.bullmq("moveToMars-3")


@pytest.mark.parametrize("kind", lua.ADD_KINDS)
def test_a_guarded_add_ends_with_bullmqs_source(kind):
    for limited in (False, True):
        assert lua.guarded_add(kind, limited=limited).source.endswith(lua.bullmq(kind).source)


@pytest.mark.parametrize("kind", lua.ADD_KINDS)
def test_a_bulk_runs_bullmqs_source_cut_in_three(kind):
    for limited in (False, True):
        source, _, body = lua.guarded_bulk(limited=limited).source.partition(
            f"\nbullmq['{kind}'] = function(KEYS, ARGV)\n"
        )
        definitions = source.rpartition("do\nlocal rcall = redis.call\n")[2].partition("\n-- What an add of BullMQ")[0]
        head, mark, body = body.partition("local parentData\n")
        assert head + mark + definitions + body.partition("\nend\nend\n")[0] == lua.bullmq(kind).source


def test_many_completions_run_bullmqs_source_cut_in_two():
    source = lua.complete_many().source
    definitions, body = source.split("local function moveToFinished(KEYS, ARGV, cmsgpack)\n")
    body = body[: body.index("\nend\n--[[\n  Completes many jobs")]
    assert definitions + body == lua.bullmq("moveToFinished-14").source


def test_another_version_of_bullmqs_script_is_told_from_a_broken_one(monkeypatch):
    monkeypatch.setattr(lua, "_bullmq_source", lambda name: f"return '{name}'")
    with pytest.raises(ConfigurationError, match="another version"):
        lua.complete_many.__wrapped__()


def test_the_package_itself_is_not_imported():
    code = "import sys; from bullpen.queue import lua; lua.bullmq('moveToActive-11'); print('bullmq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "False"
