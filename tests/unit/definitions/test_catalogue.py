"""Registries, the catalogue of a worker, and lifespans."""

import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from bullpen import ConfigurationError, Context, Handlers
from bullpen.handling import registrations
from bullpen.handling.catalogue import Catalogue, open_lifespans
from bullpen.handling.registrations import Handler


async def nothing() -> None: ...
async def other() -> None: ...


async def any_job(ctx: Context[None], data: JsonValue) -> JsonValue:
    return data


def filled(queue: str | None, *names: str) -> Handlers[None]:
    handlers = Handlers(queue)
    for name in names:
        handlers.handler(name)(nothing)
    return handlers


def test_registering_keeps_the_handler_and_does_nothing_else() -> None:
    handlers = filled("emails", "a")
    assert set(handlers.registered) == {"a"}
    assert isinstance(handlers.registered["a"][0], Handler)
    assert repr(handlers) == "<Handlers of 'emails': a>"


def test_names_are_found_among_the_registries_of_the_queue_and_of_none() -> None:
    catalogue = Catalogue([filled("emails", "a"), filled(None, "b"), filled("other", "c")], "emails")
    assert catalogue.names == ("a", "b")
    assert catalogue.versions == {"a": 1, "b": 1}
    found = catalogue.find("a")
    assert found is not None
    assert found.name == "a"
    assert catalogue.find("c") is None


def test_the_fallback_takes_what_nobody_else_does_of_any_version() -> None:
    handlers = filled("emails", "a")
    assert handlers.fallback(any_job) is any_job
    catalogue = Catalogue([handlers], "emails")
    found = catalogue.find("whatever")
    assert found is not None
    assert found.is_fallback
    assert found.knows(9)
    assert found.decode("[1]", 9) == (([1],), {})
    assert catalogue.names == ("a",)
    assert [each.name for each in catalogue.registrations] == ["a", registrations.FALLBACK]


def test_a_registry_given_twice_counts_once() -> None:
    handlers = filled("emails", "a")
    assert Catalogue([handlers, handlers], "emails").names == ("a",)


def test_one_name_twice_names_both_places() -> None:
    handlers = filled("emails", "a")
    handlers.handler("a")(other)
    with pytest.raises(ConfigurationError) as caught:
        Catalogue([handlers], "emails")
    words = str(caught.value)
    assert "two handlers of queue 'emails' for job 'a'" in words
    assert ".nothing (" in words
    assert ".other (" in words
    assert words.count("test_catalogue.py:") == 2
    with pytest.raises(ConfigurationError, match="for job 'a'"):
        Catalogue([filled("emails", "a"), filled(None, "a")], "emails")
    first, second = filled("emails"), filled(None)
    first.fallback(any_job)
    second.fallback(any_job)
    with pytest.raises(ConfigurationError, match="for a fallback"):
        Catalogue([first, second], "emails")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no handler for queue 'emails': there are no handlers at all"),
        ([filled("emails")], "there are no handlers at all"),
        ([filled("b", "a"), filled("c", "a")], "there are handlers of b, c"),
    ],
)
def test_no_handler_for_the_queue_is_refused(given: list[Handlers[Any]], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Catalogue(given, "emails")


def test_what_a_definition_gets_wrong_is_refused_when_the_catalogue_is_made() -> None:
    handlers = filled("emails")

    async def wrong(*args: str) -> None: ...

    handlers.handler("a")(wrong)
    with pytest.raises(ConfigurationError, match="handler 'a'"):
        Catalogue([handlers], "emails")


# -- lifespans ---------------------------------------------------------------


@dataclass
class Deps:
    name: str


def recorder(name: str, seen: list[str], *, is_async: bool) -> Any:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Deps]:
        seen.append(f"+{name}")
        yield Deps(name)
        seen.append(f"-{name}")

    @contextmanager
    def opened_plainly() -> Iterator[Deps]:
        seen.append(f"+{name}")
        yield Deps(name)
        seen.append(f"-{name}")

    return opened if is_async else opened_plainly


async def test_each_lifespan_is_entered_once_and_left_in_the_opposite_order() -> None:
    seen: list[str] = []
    one, two = recorder("one", seen, is_async=True), recorder("two", seen, is_async=False)
    registries = []
    for name, lifespan in [("a", one), ("b", two), ("c", one)]:
        handlers: Handlers[Deps] = Handlers("emails", lifespan=lifespan)
        handlers.handler(name)(nothing)
        registries.append(handlers)
    catalogue = Catalogue([*registries, filled("emails", "d")], "emails")
    assert catalogue.lifespans() == (one, two)
    async with catalogue.open_deps() as deps:
        given = {each.name: deps[each.lifespan] for each in catalogue.registrations}
        assert given == {"a": Deps("one"), "b": Deps("two"), "c": Deps("one"), "d": None}
        assert given["a"] is given["c"]
    assert seen == ["+one", "+two", "-two", "-one"]


async def test_a_lifespan_that_fails_comes_through_and_those_before_it_are_left() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        raise OSError("no mail server")
        yield

    with pytest.raises(OSError, match="no mail server"):
        async with open_lifespans([recorder("one", seen, is_async=True), failing]):
            pass
    assert seen[0] == "+one"


async def test_what_is_no_context_manager_is_refused_with_the_remedy() -> None:
    async def forgotten() -> AsyncIterator[None]:
        yield

    with pytest.raises(ConfigurationError, match=r"forgotten gives async_generator.*@contextlib.asynccontextmanager"):
        async with open_lifespans([forgotten]):  # type: ignore[list-item]
            pass
    with pytest.raises(TypeError, match="lifespan"):
        Handlers("a", lifespan=5)  # type: ignore[call-overload]


async def test_with_deps_gives_the_same_handlers_other_dependencies() -> None:
    def never() -> Any:
        raise AssertionError

    handlers: Handlers[Deps] = Handlers("emails", lifespan=never)
    copy = handlers.with_deps(Deps("fake"))
    handlers.handler("a")(nothing)  # a later registration is seen too
    catalogue = Catalogue([copy], "emails")
    async with catalogue.open_deps() as deps:
        (registration,) = catalogue.registrations
        assert deps[registration.lifespan] == Deps("fake")
    assert handlers.lifespan is never


async def test_middleware_and_lifespans_may_be_any_callable() -> None:
    async def around(ctx: Any, call: Any) -> object:
        return await call()

    lifespan = functools.partial(recorder("one", [], is_async=True))
    handlers: Handlers[Deps] = Handlers("emails", lifespan=lifespan, middleware=[around])
    handlers.handler("a")(nothing)
    catalogue = Catalogue([handlers], "emails")
    assert catalogue.registrations[0].middleware == (around,)
    async with catalogue.open_deps() as deps:
        assert deps[lifespan] == Deps("one")


# -- found from another process ----------------------------------------------

MODULE = """
from bullpen import Handlers
handlers = Handlers("images")

@handlers.handler("sketch", executor="process")
def sketch(path: str) -> str:
    return path

class Box:
    @handlers.handler("boxed", executor="process")
    @staticmethod
    def boxed() -> int:
        return 1

plain = 5
"""


def test_another_process_finds_a_handler_by_module_and_name(tmp_path: Path) -> None:
    (tmp_path / "sketches.py").write_text(MODULE)
    code = (
        "from bullpen.handling import registrations\n"
        "found = registrations.locate('sketches', 'sketch')\n"
        "print(found.name, found.kind, found.module, found.qualname)\n"
        "print(registrations.locate('sketches', 'Box.boxed').name)\n"
        "for name in 'plain', 'missing':\n"
        "    try: registrations.locate('sketches', name)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines() == [
        "sketch process sketches sketch",
        "boxed",
        "ConfigurationError sketches.plain is no handler",
        "ConfigurationError sketches.missing is no handler",
    ], done.stderr


PEAK = """
import pathlib, resource, sys
import bullpen
print([name for name in ("redis", "yaml", "jsonschema", "croniter", "structlog", "bullmq") if name in sys.modules])
status = pathlib.Path("/proc/self/status")
if status.exists():  # ru_maxrss has the peak of the process that started this one in it
    print(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_importing_the_package_is_cheap() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=60)
    heavy, peak_kib = done.stdout.splitlines()
    assert heavy == "[]"
    assert int(peak_kib) < 60 * 1024
