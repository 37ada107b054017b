"""The async client and its blocking twin have the same methods with the same parameters and results."""

import inspect

import pytest

from bullpen import Client, JobHandle, Queue, SyncClient, SyncJobHandle, SyncQueue

TWINS = [(Client, SyncClient), (Queue, SyncQueue), (JobHandle, SyncJobHandle)]
TRANSLATED = [
    ("AbstractAsyncContextManager", "AbstractContextManager"),
    ("AsyncIterator", "Iterator"),
    ("SyncJobHandle", "JobHandle"),
    ("SyncQueue", "Queue"),
    ("sync_session.SyncSession", "session.Session"),
    ("SyncClient", "Client"),
]


def members(cls):
    return {name: member for name, member in vars(cls).items() if not name.startswith("_")}


def plain(annotation):
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for left, right in TRANSLATED:
        text = text.replace(left, right)
    return text


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_they_have_the_same_names(one, other):
    assert members(one).keys() == members(other).keys()


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_they_have_the_same_signatures(one, other):
    for name, member in [*members(one).items(), ("__init__", one.__init__)]:
        if not callable(member):
            continue
        ours, theirs = inspect.signature(member), inspect.signature(getattr(other, name))
        assert list(ours.parameters) == list(theirs.parameters), name
        for mine, yours in zip(ours.parameters.values(), theirs.parameters.values(), strict=True):
            assert (mine.kind, mine.default) == (yours.kind, yours.default), (name, mine.name)
            assert plain(mine.annotation) == plain(yours.annotation), (name, mine.name)
        assert plain(ours.return_annotation) == plain(theirs.return_annotation), name


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_one_is_async_where_the_other_blocks(one, other):
    for name, member in members(one).items():
        assert not inspect.iscoroutinefunction(vars(other)[name]), name
        if name in {"enqueue", "enqueue_many", "result", "info", "cancel", "counts", "health", "close"}:
            assert inspect.iscoroutinefunction(member), name
