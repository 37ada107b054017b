"""One burst is one write."""

from bullpen.scaling import Settle


def test_it_is_over_when_the_count_stands_still() -> None:
    settle = Settle.begin(1, 100.0).seen(5, 104.0).seen(5, 109.0)
    assert settle.decide_at_ms == 114.0
    assert not settle.is_over(113.9)
    assert settle.is_over(114.0)


def test_it_is_over_at_the_latest_after_50_ms() -> None:
    settle = Settle.begin(1, 100.0)
    for step in range(100):
        settle = settle.seen(step, 100.0 + step)
    assert settle.decide_at_ms == 150.0
