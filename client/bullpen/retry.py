"""What becomes of a failed attempt: try again, and when, or give up, and why.

Nothing here waits, reads a clock or draws a random number. `resolve` says which policy holds for a job, `decide` what
follows from one failure. A handler's own backoff function may be a coroutine; awaiting it is left to the caller::

    function = retry.function_for(policy, rules, attempt, error)
    answer = None if function is None else await retry.ask(function, attempt, error)
    decision = retry.decide(policy, attempt, error, rules=rules, answer=answer, random=rng.random())

An attempt counts from 1: the first failure is that of attempt 1. Node's ``attemptsMade`` is one less while it runs.
"""

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from pydantic import JsonValue

from bullpen import errors
from bullpen.durations import Duration
from bullpen.options import MAX_DELAY_MS, Backoff, duration_ms

BackoffFunction = Callable[[int, Exception], Duration | Awaitable[Duration | None] | None]
"""A handler's own backoff: attempt (from 1) and error to delay. None leaves it to the policy."""

MOST_ATTEMPTS = 1_000_000
"""What a job that asks for more attempts gets: a number that every part can hold."""

_NEVER_AGAIN = (
    errors.NonRetryableError,
    errors.PayloadInvalid,  # the same data would be refused again
    errors.ResultInvalid,  # the side effects are done: again would do them twice
    errors.UnknownJob,
)


class Source(IntEnum):
    """Who decided a setting, the strongest first."""

    JOB = 1
    """The job's own option: what its producer asked for."""
    JOB_NAME = 2
    """The JobQueue's ``jobs`` entry of that name."""
    CODE = 3
    """The handler's or `JobType`'s default."""
    QUEUE = 4
    """The JobQueue's ``retry``."""
    BUILT_IN = 5


@dataclass(frozen=True)
class Wish:
    """What one source asks for; None leaves it to the next."""

    attempts: int | None = None
    backoff: Backoff | None = None

    @classmethod
    def from_wire(cls, opts: Mapping[str, JsonValue]) -> "Wish":
        """Read a job's ``opts``: what its producer asked for itself.

        Not what a client of ours took from the policy and wrote for Node's sake: that is named in
        ``opts.bullpen.policy``, and today's policy decides it. ``attempts`` of 0 is what Node writes when nobody
        brought any. Never raises: what cannot be read counts as absent.
        """
        ours = opts.get("bullpen")
        ours = ours if isinstance(ours, dict) else {}
        named = ours.get("policy")
        from_policy = named.split(",") if isinstance(named, str) else []
        brings_backoff = "backoff" not in from_policy
        return cls(
            attempts=None if "attempts" in from_policy else _attempts(opts.get("attempts")),
            backoff=Backoff.from_wire(opts.get("backoff"), ours.get("backoff")) if brings_backoff else None,
        )


@dataclass(frozen=True)
class Policy:
    """How often a job may run and how long it waits between, with who decided the backoff."""

    attempts: int
    backoff: Backoff
    backoff_source: Source = Source.BUILT_IN


BUILT_IN = Policy(3, Backoff.exponential("2s", max_delay="1m", jitter=0.5))
"""What holds where nobody says otherwise: 3 attempts, 2s x 2 up to 1m, half of it random."""


def resolve(wishes: Mapping[Source, Wish]) -> Policy:
    """Give the policy that holds: for each setting, the strongest source that has one, else what is built in."""
    in_order = [(source, wishes[source]) for source in sorted(wishes)]
    backoff, source = next(
        ((wish.backoff, source) for source, wish in in_order if wish.backoff is not None),
        (BUILT_IN.backoff, Source.BUILT_IN),
    )
    attempts = next((wish.attempts for _, wish in in_order if wish.attempts), BUILT_IN.attempts)
    return Policy(attempts, backoff, source)


@dataclass(frozen=True)
class Rules:
    """What a handler says about its errors.

    `backoff_for` refines the code's default, so it yields to a backoff of the job itself or of the JobQueue's ``jobs``
    entry, and overrules the JobQueue's own. By error class, the nearest base class decides.
    """

    give_up_on: tuple[type[Exception], ...] = ()
    backoff_for: Mapping[type[Exception], Backoff] | BackoffFunction | None = None


NO_RULES = Rules()


class GiveUpReason(StrEnum):
    """Why a job is not tried again."""

    ATTEMPTS_USED = "attempts_used"
    NON_RETRYABLE = "non_retryable"
    """The error says so by its class: `NonRetryableError`, `PayloadInvalid`, `ResultInvalid`, `UnknownJob`."""
    GIVE_UP_ON = "give_up_on"
    """The handler's ``give_up_on`` has the error's class."""


@dataclass(frozen=True)
class Retry:
    """Try again when `delay_ms` has passed; 0 is at once."""

    delay_ms: int


@dataclass(frozen=True)
class GiveUp:
    """The job has failed for good."""

    reason: GiveUpReason


def decide(
    policy: Policy,
    attempt: int,
    error: BaseException,
    *,
    random: float,
    rules: Rules = NO_RULES,
    answer: Duration | None = None,
) -> Retry | GiveUp:
    """Say what follows from the failure of `attempt` (counted from 1).

    `random` is in [0, 1) and decides the jitter; `answer` is what the handler's own backoff function said, if
    `function_for` gave one. Signals (`JobSignal`) and lost locks spend no attempt and are not asked about here.

    The delay, strongest first: the error's own (`RetryableError`), `answer`, ``backoff_for`` by class, the policy's
    backoff. The first two are taken as they are, without jitter. Raises `OptionInvalid` when `answer` or the error's
    delay is not a duration.
    """
    give_up = _give_up(policy, attempt, error, rules)
    if give_up is not None:
        return give_up
    if isinstance(error, errors.RetryableError) and error.delay is not None:
        return Retry(_own_delay_ms("RetryableError delay", error.delay))
    if answer is not None:
        return Retry(_own_delay_ms("backoff_for's answer", answer))
    backoff = _backoff_by_class(policy, error, rules) or policy.backoff
    return Retry(delay_ms(backoff, attempt, random=random))


def function_for(policy: Policy, rules: Rules, attempt: int, error: BaseException) -> BackoffFunction | None:
    """Give the handler's own backoff function, if its answer matters to `decide`; else None."""
    if not callable(rules.backoff_for) or policy.backoff_source < Source.CODE or not isinstance(error, Exception):
        return None
    if isinstance(error, errors.RetryableError) and error.delay is not None:
        return None
    return rules.backoff_for if _give_up(policy, attempt, error, rules) is None else None


async def ask(function: BackoffFunction, attempt: int, error: BaseException) -> Duration | None:
    """Call a handler's own backoff function, plain or async. What it raises comes through."""
    if not isinstance(error, Exception):
        return None
    answer = function(attempt, error)
    return await answer if inspect.isawaitable(answer) else answer


def delay_ms(backoff: Backoff, attempt: int, *, random: float) -> int:
    """Give the wait in milliseconds after the failure of `attempt` (counted from 1); see `Backoff` for the formulas.

    Computed as Node does it (rounded half up, jitter rounded down), so that a queue waits alike whoever works on it.
    https://github.com/taskforcesh/bullmq/blob/master/src/classes/backoffs.ts
    """
    limit = MAX_DELAY_MS if backoff.max_delay_ms is None else backoff.max_delay_ms
    whole = min(_delay_without_limit(backoff, max(attempt, 1)), limit)
    if not backoff.jitter:
        return whole
    # Kept within the bounds: a sum of rounded products may lie a hair outside.
    return min(max(math.floor(random * whole * backoff.jitter + whole * (1 - backoff.jitter)), 0), whole)


def _delay_without_limit(backoff: Backoff, attempt: int) -> int:
    match backoff.kind:
        case "Immediate":
            return 0
        case "Fixed":
            return backoff.delay_ms
        case "Linear":
            return backoff.delay_ms * attempt
        case "Exponential":
            try:
                return math.floor(backoff.delay_ms * float(backoff.factor) ** (attempt - 1) + 0.5)
            except OverflowError:  # attempt 1,025 of factor 2 is beyond a float
                return MAX_DELAY_MS if backoff.delay_ms else 0


def _give_up(policy: Policy, attempt: int, error: BaseException, rules: Rules) -> GiveUp | None:
    if isinstance(error, _NEVER_AGAIN):
        return GiveUp(GiveUpReason.NON_RETRYABLE)
    if isinstance(error, rules.give_up_on):
        return GiveUp(GiveUpReason.GIVE_UP_ON)
    if attempt >= policy.attempts:
        return GiveUp(GiveUpReason.ATTEMPTS_USED)
    return None


def _backoff_by_class(policy: Policy, error: BaseException, rules: Rules) -> Backoff | None:
    if not isinstance(rules.backoff_for, Mapping) or policy.backoff_source < Source.CODE:
        return None
    by_class = rules.backoff_for
    return next((by_class[base] for base in type(error).__mro__ if base in by_class), None)


def _own_delay_ms(option: str, value: Duration) -> int:
    return min(duration_ms(option, value), MAX_DELAY_MS)


def _attempts(value: JsonValue) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf:
        return None
    return min(int(value), MOST_ATTEMPTS)
