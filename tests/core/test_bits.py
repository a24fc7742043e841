"""The settled set against a plain Python set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.bits import CHUNK, Bits

_edges = st.sampled_from([0, 1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 3 * CHUNK])
_numbers = st.integers(0, 3 * CHUNK + 5) | st.integers(0, 40) | _edges


@given(st.lists(st.tuples(_numbers, st.integers(1, 40) | st.just(CHUNK) | st.just(2 * CHUNK + 1))), _numbers)
def test_it_agrees_with_a_set(steps: list[tuple[int, int]], probe: int) -> None:
    bits, model = Bits(), set[int]()
    for low, width in steps:
        new = set(range(low, low + width)) - model
        if width == 1:
            assert bits.add(low) is bool(new)
        else:
            assert bits.add_range(low, low + width) == len(new)
        model |= new
        assert bits.cursor == next(n for n in range(len(model) + 1) if n not in model)
        assert bits.count == sum(n > bits.cursor for n in model)
    assert (probe in bits) is (probe in model)
    assert bits.next_open(probe) == next(n for n in range(probe, probe + len(model) + 1) if n not in model)
    listed = {n for low, high in bits.ranges() for n in range(low, high)}
    assert listed == {n for n in model if n > bits.cursor}
    assert bits.copy().ranges() == bits.ranges()


def test_a_run_in_order_keeps_no_bits() -> None:
    bits = Bits()
    for seq in range(10_000):
        bits.add(seq)
    assert (bits.cursor, bits.count, bits.ranges()) == (10_000, 0, [])


def test_filling_the_last_hole_drops_everything() -> None:
    bits = Bits()
    bits.add_range(1, 1_000_000)
    assert bits.count == 999_999
    bits.add(0)
    assert (bits.cursor, bits.count, bits._chunks) == (1_000_000, 0, None)
