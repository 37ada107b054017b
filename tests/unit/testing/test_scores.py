"""A set with scores keeps the order of a sorted list."""

from hypothesis import given
from hypothesis import strategies as st

from bullpen.testing.scores import ScoredSet

MEMBERS = st.sampled_from("abcdefgh")
SCORES = st.integers(0, 5)
MOVES = st.lists(st.tuples(MEMBERS, st.one_of(SCORES, st.none())))


@given(MOVES, SCORES, SCORES, st.integers(0, 9))
def test_it_does_what_a_sorted_list_does(
    moves: list[tuple[str, int | None]], least: int, most: int, count: int
) -> None:
    scored, model = ScoredSet(), {}
    for member, score in moves:
        if score is None:
            assert scored.remove(member) is (model.pop(member, None) is not None)
        else:
            scored.add(member, score)
            model.pop(member, None)  # who gets another score comes last among its equals
            model[member] = score
    in_order = sorted(model, key=lambda member: model[member])
    assert list(scored) == in_order
    assert len(scored) == len(model)
    assert scored.first_score() == (model[in_order[0]] if model else None)
    assert scored.up_to(most) == [member for member in in_order if model[member] <= most]
    assert scored.highest(least, most) == max((s for s in model.values() if least <= s <= most), default=None)
    assert scored.but_the_last(count) == in_order[: max(len(in_order) - count, 0)]
    assert scored.pop_first() == (in_order[0] if model else None)
    assert list(scored) == in_order[1:]
