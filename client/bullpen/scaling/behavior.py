"""How fast the number of replicas may change: autoscaling/v2's windows and policies.

The rules are those of Kubernetes' HorizontalPodAutoscaler, with three differences: no policies means no limit; `Percent`
of nothing is one pod, since Bullpen scales from zero; growth and shrinking are counted apart, so that in no period more
pods come, or go, than the policy says, whatever happened in the other direction meanwhile.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior
"""

from collections.abc import Iterable

from bullpen.scaling.history import Mark
from bullpen.scaling.policy import Behavior, Direction, Limit


def stabilized(wanted: int, current: int, highs: Iterable[Mark], lows: Iterable[Mark]) -> int:
    """Hold against flapping: no higher than the lowest, no lower than the highest recommendation of its window.

    `highs` and `lows` are the recommendations within the window of shrinking and of growing, this one included.
    """
    most = max((mark.replicas for mark in highs), default=wanted)
    least = min((mark.replicas for mark in lows), default=wanted)
    if current < least:
        return least
    return min(current, most)


def growth_limit(rules: Direction, current: int, changes: Iterable[Mark], now_ms: int) -> int | None:
    """Give the most replicas that there may be now; None for any number."""
    if rules.select == "Disabled":
        return current
    if not rules.limits:
        return None
    grown = [change for change in changes if change.replicas > 0]
    proposals = [_most(limit, current - _within(limit, grown, now_ms)) for limit in rules.limits]
    return max(current, max(proposals) if rules.select == "Max" else min(proposals))


def shrink_limit(rules: Direction, current: int, changes: Iterable[Mark], now_ms: int) -> int | None:
    """Give the fewest replicas that there may be now; None for any number."""
    if rules.select == "Disabled":
        return current
    if not rules.limits:
        return None
    shrunk = [change for change in changes if change.replicas < 0]
    proposals = [_fewest(limit, current - _within(limit, shrunk, now_ms)) for limit in rules.limits]
    return min(current, min(proposals) if rules.select == "Max" else max(proposals))


def longest_period_ms(behavior: Behavior) -> int:
    """Give how far back the policies look."""
    return max((limit.period_ms for limit in (*behavior.up.limits, *behavior.down.limits)), default=0)


def _within(limit: Limit, changes: list[Mark], now_ms: int) -> int:
    return sum(change.replicas for change in changes if change.at_ms > now_ms - limit.period_ms)


def _most(limit: Limit, at_start: int) -> int:
    at_start = max(at_start, 0)  # pods that have gone since cannot be counted as grown
    if limit.kind == "Pods":
        return at_start + limit.value
    return max(-(-at_start * (100 + limit.value) // 100), 1)


def _fewest(limit: Limit, at_start: int) -> int:
    if limit.kind == "Pods":
        return max(at_start - limit.value, 0)
    return max(at_start * (100 - limit.value) // 100, 0)
