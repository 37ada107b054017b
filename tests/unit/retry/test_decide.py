"""What follows from one failure, and which policy holds."""

import pytest
from pydantic import JsonValue

from bullpen import errors, retry
from bullpen.durations import Duration
from bullpen.errors import OptionInvalid
from bullpen.options import Backoff
from bullpen.retry import GiveUp, GiveUpReason, Policy, Retry, Rules, Source, Wish

POLICY = Policy(3, Backoff.fixed("5s"), Source.QUEUE)
OWN = Policy(3, Backoff.fixed("5s"), Source.JOB)


class Timid(Exception):
    pass


class VeryTimid(Timid):
    pass


class Flaky(errors.RetryableError):
    pass


BY_CLASS = Rules(backoff_for={Timid: Backoff.fixed("1s"), Exception: Backoff.fixed("2s")})
BY_NEAREST = Rules(backoff_for={Exception: Backoff.fixed("2s"), VeryTimid: Backoff.fixed("1s")})


@pytest.mark.parametrize(
    ("name", "policy", "attempt", "error", "rules", "decision"),
    [
        ("attempts are left", POLICY, 2, ValueError(), Rules(), Retry(5_000)),
        ("attempts are used", POLICY, 3, ValueError(), Rules(), GiveUp(GiveUpReason.ATTEMPTS_USED)),
        ("more than used (policy lowered)", POLICY, 9, ValueError(), Rules(), GiveUp(GiveUpReason.ATTEMPTS_USED)),
        ("never again", POLICY, 1, errors.NonRetryableError(), Rules(), GiveUp(GiveUpReason.NON_RETRYABLE)),
        ("payload", POLICY, 1, errors.PayloadInvalid(), Rules(), GiveUp(GiveUpReason.NON_RETRYABLE)),
        ("result", POLICY, 1, errors.ResultInvalid(), Rules(), GiveUp(GiveUpReason.NON_RETRYABLE)),
        ("unknown", POLICY, 1, errors.UnknownJob(), Rules(), GiveUp(GiveUpReason.NON_RETRYABLE)),
        ("never again, last", POLICY, 3, errors.NonRetryableError(), Rules(), GiveUp(GiveUpReason.NON_RETRYABLE)),
        ("give_up_on", POLICY, 1, VeryTimid(), Rules((Timid,)), GiveUp(GiveUpReason.GIVE_UP_ON)),
        ("give_up_on another", POLICY, 1, Timid(), Rules((VeryTimid,)), Retry(5_000)),
        ("give_up_on over Retryable", POLICY, 1, Flaky(delay="1s"), Rules((Flaky,)), GiveUp(GiveUpReason.GIVE_UP_ON)),
        ("retryable", POLICY, 1, errors.RetryableError("x"), Rules(), Retry(5_000)),
        ("retryable with delay", POLICY, 1, Flaky("x", delay="30s"), BY_CLASS, Retry(30_000)),
        ("retryable at once", POLICY, 1, Flaky("x", delay="0s"), BY_CLASS, Retry(0)),
        ("retryable, used", POLICY, 3, Flaky("x", delay="30s"), Rules(), GiveUp(GiveUpReason.ATTEMPTS_USED)),
        ("class by base", POLICY, 1, VeryTimid(), BY_CLASS, Retry(1_000)),
        ("class by nearest", POLICY, 1, VeryTimid(), BY_NEAREST, Retry(1_000)),
        ("class by far", POLICY, 1, Timid(), BY_NEAREST, Retry(2_000)),
        ("the job's own backoff is stronger", OWN, 1, Timid(), BY_CLASS, Retry(5_000)),
        ("a timeout", POLICY, 1, TimeoutError(), Rules(), Retry(5_000)),
        ("not an Exception", POLICY, 1, SystemExit(), BY_CLASS, Retry(5_000)),
    ],
)
def test_decide(
    name: str, policy: Policy, attempt: int, error: BaseException, rules: Rules, decision: Retry | GiveUp
) -> None:
    assert retry.decide(policy, attempt, error, random=0.5, rules=rules) == decision


def plain(attempt: int, error: Exception) -> Duration | None:
    return None if isinstance(error, Timid) else f"{attempt}s"


async def coroutine(attempt: int, error: Exception) -> Duration | None:
    return plain(attempt, error)


@pytest.mark.parametrize("function", [plain, coroutine])
@pytest.mark.parametrize(
    ("error", "attempt", "decision"),
    [(ValueError(), 1, Retry(1_000)), (ValueError(), 2, Retry(2_000)), (Timid(), 1, Retry(5_000))],
)
async def test_the_handlers_own_function(
    function: retry.BackoffFunction, error: Exception, attempt: int, decision: Retry
) -> None:
    rules = Rules(backoff_for=function)
    asked = retry.function_for(POLICY, rules, attempt, error)
    assert asked is function
    answer = await retry.ask(asked, attempt, error)
    assert retry.decide(POLICY, attempt, error, random=0.5, rules=rules, answer=answer) == decision


@pytest.mark.parametrize(
    ("policy", "attempt", "error"),
    [
        (POLICY, 3, ValueError()),
        (POLICY, 1, errors.NonRetryableError()),
        (POLICY, 1, Timid()),
        (POLICY, 1, errors.RetryableError(delay="1s")),
        (POLICY, 1, SystemExit()),
        (OWN, 1, ValueError()),
        (Policy(3, Backoff.immediate(), Source.JOB_NAME), 1, ValueError()),
    ],
)
def test_a_function_whose_answer_does_not_matter_is_not_asked(
    policy: Policy, attempt: int, error: BaseException
) -> None:
    assert retry.function_for(policy, Rules((Timid,), plain), attempt, error) is None


@pytest.mark.parametrize("answer", [5, "soon", -1.5])
def test_an_answer_that_is_no_duration_is_refused(answer: object) -> None:
    with pytest.raises(OptionInvalid, match="backoff_for's answer"):
        retry.decide(POLICY, 1, ValueError(), random=0, answer=answer)  # type: ignore[arg-type]


A, B, C, D = (Wish(n, Backoff.fixed(f"{n}s")) for n in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("name", "wishes", "policy"),
    [
        ("nobody", {}, retry.BUILT_IN),
        ("all", {Source.QUEUE: D, Source.CODE: C, Source.JOB_NAME: B, Source.JOB: A}, Policy(1, A.backoff, Source.JOB)),
        (
            "all but the job",
            {Source.QUEUE: D, Source.CODE: C, Source.JOB_NAME: B},
            Policy(2, B.backoff, Source.JOB_NAME),
        ),
        ("code over queue", {Source.QUEUE: D, Source.CODE: C}, Policy(3, C.backoff, Source.CODE)),
        ("queue", {Source.QUEUE: D}, Policy(4, D.backoff, Source.QUEUE)),
        (
            "each setting for itself",
            {Source.QUEUE: D, Source.JOB: Wish(attempts=7)},
            Policy(7, D.backoff, Source.QUEUE),
        ),
        ("none brought", {Source.QUEUE: D, Source.JOB: Wish(attempts=0)}, Policy(4, D.backoff, Source.QUEUE)),
    ],
)
def test_the_strongest_that_says_something_decides(name: str, wishes: dict[Source, Wish], policy: Policy) -> None:
    assert retry.resolve(wishes) == policy


@pytest.mark.parametrize(
    ("name", "opts", "wish"),
    [
        ("nothing", {}, Wish()),
        ("Node without options", {"attempts": 0}, Wish()),
        (
            "Node with all",
            {"attempts": 5, "backoff": {"type": "fixed", "delay": 9, "jitter": 0.5}},
            Wish(5, Backoff.fixed("9ms", jitter=0.5)),
        ),
        ("a number is fixed", {"attempts": 5, "backoff": 700}, Wish(5, Backoff.fixed("700ms"))),
        ("exponential", {"backoff": {"type": "exponential", "delay": 9}}, Wish(None, Backoff.exponential("9ms"))),
        ("a custom type is the policy's business", {"attempts": 2, "backoff": {"type": "moon"}}, Wish(2)),
        ("unreadable", {"attempts": "5", "backoff": [], "bullpen": []}, Wish()),
        ("true is no number", {"attempts": True, "backoff": True}, Wish()),
        ("beyond reason", {"attempts": 1e300}, Wish(retry.MOST_ATTEMPTS)),
        (
            "our client: what Node cannot say",
            {"attempts": 4, "backoff": {"type": "exponential", "delay": 9}, "bullpen": {"backoff": "l:9:2:20:0.5"}},
            Wish(4, Backoff.linear("9ms", max_delay="20ms", jitter=0.5)),
        ),
        (
            "our client: all of it the policy's",
            {"attempts": 4, "backoff": {"type": "fixed", "delay": 9}, "bullpen": {"policy": "attempts,backoff"}},
            Wish(),
        ),
        (
            "our client: attempts asked for, backoff the policy's",
            {"attempts": 4, "backoff": {"type": "fixed", "delay": 9}, "bullpen": {"policy": "backoff,priority"}},
            Wish(4),
        ),
    ],
)
def test_what_a_job_brings(name: str, opts: dict[str, JsonValue], wish: Wish) -> None:
    assert Wish.from_wire(opts) == wish
