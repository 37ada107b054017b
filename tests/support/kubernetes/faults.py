"""What may go wrong between a client and the API server."""

import re
from dataclasses import dataclass, field

from tests.support.kubernetes.attributes import Attributes

REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True)
class Answer:
    """The proxy answers in the server's place; the request never gets there."""

    status: int
    message: str = "injected by the test"
    retry_after: int | None = None
    """Seconds, as a header."""

    def body(self) -> dict[str, object]:
        """The Status object that the API server would send."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": self.message,
            "reason": REASONS.get(self.status, "Unknown"),
            "code": self.status,
        }


@dataclass(frozen=True)
class LoseReply:
    """The request is carried out; the connection ends before its answer is there."""


@dataclass(frozen=True)
class Refuse:
    """The connection ends before the request gets anywhere."""


@dataclass(frozen=True)
class Hang:
    """Nothing is ever answered, and the connection stays: a half-open one."""


@dataclass(frozen=True)
class Delay:
    """The request gets there so many seconds late."""

    seconds: float


Fault = Answer | LoseReply | Refuse | Hang | Delay


@dataclass
class Rule:
    """Which requests a fault meets."""

    fault: Fault
    verbs: frozenset[str]
    resources: frozenset[str]
    path: re.Pattern[str]
    user: str
    left: int | None
    hits: int = field(default=0, init=False)
    """How many requests it has met."""

    def meets(self, wanted: Attributes, path: str, user: str) -> bool:
        """Whether this request is one of those; counts it."""
        met = (
            (self.left is None or self.left > 0)
            and (not self.verbs or wanted.verb in self.verbs)
            and (not self.resources or wanted.resource in self.resources)
            and (not self.user or self.user == user)
            and self.path.search(path) is not None
        )
        if met:
            self.hits += 1
            if self.left is not None:
                self.left -= 1
        return met
