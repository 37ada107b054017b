"""What can go wrong between the operator and the API server."""

from bullpen.errors import BullpenError


class KubeError(BullpenError):
    """The API server refused. `status` is HTTP's, `reason` Kubernetes' one word; `str()` says what was asked and why not."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(KubeError):
    """There is no such object, or no such kind."""


class Conflict(KubeError):
    """Somebody else changed the object meanwhile, or it exists already: read again, decide again."""


class Forbidden(KubeError):
    """The operator's role does not allow it, or admission refused it."""


class Invalid(KubeError):
    """The object is not one that the API server takes."""


class Unavailable(KubeError):
    """The API server did not answer, or only that it cannot now; this was tried a few times. It may have been done."""


class TooLarge(KubeError):
    """The reply is larger than is read; less is to be asked for at a time."""


class NotLeading(KubeError):
    """Nothing was sent: this operator is not, or no longer for certain, the one that may write."""
