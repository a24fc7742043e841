"""Moments at which things end, against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.deadlines import Deadlines

_things = st.integers(0, 5)
_steps = st.lists(
    st.tuples(st.just("set"), _things, st.integers(0, 50))
    | st.tuples(st.just("discard"), _things, st.just(0))
    | st.tuples(st.just("due"), st.integers(1, 4), st.integers(0, 50)),
)


@given(_steps)
def test_it_agrees_with_a_dict(steps: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, int] = {}
    for step, thing, moment in steps:
        match step:
            case "set":
                deadlines.set(thing, moment)
                model[thing] = moment
            case "discard":
                deadlines.discard(thing)
                model.pop(thing, None)
            case _:
                ended = deadlines.due(moment, limit=thing)
                ripe = sorted(when for when in model.values() if when <= moment)
                assert [model.pop(one) for one in ended] == ripe[:thing]
        assert deadlines.next() == min(model.values(), default=None)
        assert len(deadlines) == len(model)


def test_what_was_settled_does_not_pile_up() -> None:
    """A million loans that are acked long before their lease ends leave a heap of a few entries, not of a million."""
    deadlines: Deadlines[int] = Deadlines()
    for number in range(100_000):
        deadlines.set(number, 10**9 + number)
        deadlines.discard(number - 10)
    assert len(deadlines) == 10
    assert len(deadlines._heap) <= 64
