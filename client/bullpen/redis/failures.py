"""What can go wrong between us and Redis, as the wire and the link tell it.

Clients turn these into `bullpen.errors.RedisUnavailable` and `EnqueueUncertain` (`unavailable`); the worker reads
them as they are.
"""

import re

from bullpen import errors

_IN_A_SCRIPT = re.compile(r"^(?:ERR )?Error running script .*: -(?P<error>[A-Z]{3,} .*)$", re.DOTALL)


class ReplyError(errors.BullpenError):
    """Redis answered a command with an error. `code` is its first word: ``NOSCRIPT``, ``LOADING``, ``OOM``, ``ERR``.

    Redis before 7 wraps what a command within a script was refused with; it is unwrapped, so that both say the same.
    """

    def __init__(self, message: str) -> None:
        wrapped = _IN_A_SCRIPT.match(message)
        super().__init__(wrapped["error"] if wrapped else message)

    @property
    def code(self) -> str:
        """The first word of the message."""
        return str(self).partition(" ")[0]


class ConnectionLost(errors.BullpenError):
    """The connection ended before the answer came.

    `sent` says whether bytes of the command may have reached Redis: then its outcome is unknown. False: they did not,
    and the command can be repeated safely.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ReplyTimeout(ConnectionLost):
    """No answer within the time allowed: a frozen server, a cut network, or a command that takes too long."""


class ReplyTooLarge(ConnectionLost):
    """A reply passed a limit (`bullpen.redis.limits`); the same command would bring it again."""


class ConnectFailed(errors.BullpenError):
    """No connection could be made; the message says where and why."""


class LinkDied(errors.BullpenError):
    """What keeps a link has failed by an error that nobody foresaw: it will not connect again.

    No `ConnectFailed`, which those who are patient wait out: to wait for this one would be to wait in silence, for ever.
    """


class AuthenticationRefused(ConnectFailed):
    """Redis refused the user name or password, or asks for one that the settings do not give."""


class NotReady(ConnectFailed):
    """Redis is there and serves no commands now: it loads its data, or waits for its primary."""


UNAVAILABLE_CODES = frozenset(
    {"LOADING", "BUSY", "MASTERDOWN", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOAUTH", "WRONGPASS", "NOPERM"}
)
"""Error replies that say something about the server or our account with it, not about the command."""

_WHAT_TO_DO = {
    "OOM": "its memory is full (maxmemory); give it more, or remove jobs",
    "MISCONF": "it cannot write its data to disk and refuses writes; look at its log",
    "READONLY": "it is a replica; name the primary",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write asks for",
    "NOPERM": "the ACL of this user does not allow the command or the key",
}


def unavailable(failure: Exception, *, where: str) -> errors.RedisUnavailable:
    """Give the client's error: `EnqueueUncertain` where the command may have been carried out."""
    if isinstance(failure, ReplyError):
        hint = _WHAT_TO_DO.get(failure.code)
        return errors.RedisUnavailable(f"Redis at {where} refuses: {failure}{f' ({hint})' if hint else ''}")
    if isinstance(failure, ConnectionLost) and failure.sent:
        text = f"Redis at {where}: no answer: {failure}; the command had been sent, so it may or may not be carried out"
        return errors.EnqueueUncertain(text)
    if isinstance(failure, ConnectionLost):
        return errors.RedisUnavailable(f"Redis at {where}: no answer: {failure}")
    return errors.RedisUnavailable(str(failure))
