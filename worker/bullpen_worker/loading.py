"""Finds handlers by the names of the modules that register them."""

import importlib
import sys
import traceback
from types import ModuleType
from typing import Any

from bullpen.errors import ConfigurationError
from bullpen.handling.handlers import Handlers


def load_handlers(*modules: str) -> list[Handlers[Any]]:
    """Import each module and give the `Handlers` objects in its namespace, each once, in order.

    ``"shop.jobs"`` gives all of a module's, ``"shop.jobs:emails"`` the one of that name. Raises `ConfigurationError` for
    a module that is not there, that fails at import (the message has its traceback), or that has no `Handlers`.
    """
    found: dict[int, Handlers[Any]] = {}
    for spec in modules:
        for handlers in _of(spec):
            found.setdefault(id(handlers), handlers)
    return list(found.values())


def _of(spec: str) -> list[Handlers[Any]]:
    name, colon, attribute = spec.partition(":")
    if not name or (colon and not attribute):
        msg = f"handlers {spec!r}: write a module, like shop.jobs, or one registry of it, like shop.jobs:emails"
        raise ConfigurationError(msg)
    module = _import(name)
    if colon:
        found = getattr(module, attribute, None)
        if not isinstance(found, Handlers):
            what = "no such name" if found is None else f"{attribute!r} is {type(found).__name__}"
            msg = f"handlers {spec!r}: the module {name} has no Handlers named {attribute!r} ({what}){_choice(module)}"
            raise ConfigurationError(msg)
        return [found]
    registries = _registries(module)
    if not registries:
        msg = (
            f"handlers {spec!r}: the module {name} ({getattr(module, '__file__', None) or 'a folder'}) has no Handlers "
            f"in its namespace; it needs one, like: emails = Handlers('emails')"
        )
        raise ConfigurationError(msg)
    return list(registries.values())


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            places = ", ".join(repr(place) for place in sys.path[:3])
            msg = (
                f"handlers {name!r}: there is no module {error.name!r}; looked in {places} …: "
                "is the working directory, or PYTHONPATH, the folder that holds it?"
            )
            raise ConfigurationError(msg) from error
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> ConfigurationError:
    """Give the error of a module that fails at import, with the part of the traceback that is the module's own."""
    frames = traceback.extract_tb(error.__traceback__)
    outer = {__file__, importlib.__file__}
    own = [frame for frame in frames if frame.filename not in outer and "importlib._bootstrap" not in frame.filename]
    lines = "".join(traceback.StackSummary.from_list(own).format() + traceback.format_exception_only(error))
    return ConfigurationError(f"handlers {name!r}: its import failed:\n{lines.rstrip()}")


def _registries(module: ModuleType) -> dict[str, Handlers[Any]]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Handlers)}


def _choice(module: ModuleType) -> str:
    names = sorted(_registries(module))
    return f"; it has: {', '.join(names)}" if names else ""
