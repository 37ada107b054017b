"""What several commands are given: where Redis is, and which queue. What is wrong with it is a wrong call, exit code 2."""

import contextlib
from collections.abc import Generator

import typer
from pydantic import ValidationError

from bullpen.errors import ConfigurationError, OptionInvalid
from bullpen.queue.keys import QueueKeys
from bullpen.redis.settings import DEFAULT_PREFIX, RedisSettings


@contextlib.contextmanager
def wrong_calls() -> Generator[None]:
    """Have what is refused within be a wrong call."""
    try:
        yield
    except (ConfigurationError, OptionInvalid) as error:
        raise typer.BadParameter(str(error)) from None


def redis_settings(url: str | None, prefix: str | None = None) -> RedisSettings:
    """Give the settings that `--redis` and `--prefix` ask for, else the environment's.

    Raises `typer.BadParameter` for what was given here, `ConfigurationError` for what is wrong in the environment.
    """
    if prefix is not None:
        _check_prefix(prefix)
    if url is None:
        return RedisSettings.of(None, prefix=prefix)
    with wrong_calls():
        return RedisSettings.of(RedisSettings.from_environment(url=url, origin="--redis"), prefix=prefix)


def queue_name(name: str) -> str:
    """Give the name of a queue, if there may be one of it. Raises `typer.BadParameter`."""
    with wrong_calls():
        return QueueKeys(DEFAULT_PREFIX, name).queue


def _check_prefix(prefix: str) -> None:
    try:
        RedisSettings(prefix=prefix)
    except ValidationError:
        msg = f"--prefix: {prefix!r} is not allowed; allowed: 1 to 128 visible ASCII characters without blanks"
        raise typer.BadParameter(msg) from None
