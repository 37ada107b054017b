"""Payloads of every kind, and handlers made of plain functions."""

import dataclasses
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from bullpen import Handlers, Payload
from bullpen.handling.registrations import Handler, Registration


class Welcome(Payload):
    user_id: int
    locale: str = "en"


class Receipt(Payload):
    message_id: str


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Page(BaseModel):
    text: str = ""


def define(function: Callable[..., Any], name: str = "job", **options: Any) -> Handler[..., Any, ..., Any]:
    """Register the function."""
    handlers: Any = Handlers("emails")
    handler: Handler[..., Any, ..., Any] = handlers.handler(name, **options)(function)
    return handler


def call(registration: Registration, data: str | bytes, version: int = 1) -> Any:
    """Call the function with what a payload gives, and None for its context."""
    args, kwargs = registration.decode(data, version)
    return registration.function(*((None,) if registration.takes_context else ()), *args, **kwargs)
