"""What can go wrong between us and Redis, as the wire and the link tell it.

Clients turn these into `bullpen.errors.RedisUnavailable` and `EnqueueUncertain` (`unavailable`); the worker reads
them as they are.
"""

from bullpen import errors


class ReplyError(errors.BullpenError):
    """Redis answered a command with an error. `code` is its first word: ``NOSCRIPT``, ``LOADING``, ``OOM``, ``ERR``."""

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


class ConnectFailed(errors.BullpenError):
    """No connection could be made; the message says where and why."""


class AuthenticationRefused(ConnectFailed):
    """Redis refused the user name or password, or asks for one that the settings do not give."""


class NotReady(ConnectFailed):
    """Redis is there and serves no commands now: it loads its data, or waits for its primary."""


def unavailable(failure: Exception, *, doing: str, where: str) -> errors.RedisUnavailable:
    """Give the client's error: `EnqueueUncertain` where the command may have been carried out."""
    text = f"{doing}: Redis at {where} did not answer: {failure}"
    if isinstance(failure, ConnectionLost) and failure.sent:
        return errors.EnqueueUncertain(f"{text} (the command had been sent: whether it was carried out is unknown)")
    if isinstance(failure, ConnectFailed):
        text = f"{doing}: {failure}"
    return errors.RedisUnavailable(text)
