"""What a scan has passed over: how much is looked at to find the next of it."""

from __future__ import annotations

from broker.core.aside import Aside
from broker.core.bits import Bits
from broker.core.message import Message
from broker.core.window import Budget


class Counting(Bits):
    """Settled numbers that count how often they are asked."""

    asked = 0

    def next_open(self, seq: int) -> int:
        self.asked += 1
        return super().next_open(seq)


def passed_over(count: int, group: str = "busy", first: int = 0) -> Aside:
    aside = Aside(Budget(), keep=True)
    for seq in range(first, first + count):
        aside.add(seq, group, Message(stamp=1 + seq))
    return aside


def test_a_group_that_is_stirred_with_every_ack_is_looked_at_once() -> None:
    aside, bits = passed_over(1_000), Counting()
    for _ in range(1_000):
        aside.stir("busy")
    taken = []
    while (seq := aside.head(bits, ())) is not None:
        taken.append(seq)
        aside.take(seq)
        aside.stir("busy")
    assert taken == list(range(1_000))
    assert bits.asked <= 2 * 1_000


def test_the_lowest_of_several_groups_comes_first_also_when_it_was_put_back() -> None:
    aside, bits = passed_over(3, first=10), Bits()
    aside.add(13, "other", Message(stamp=14))
    aside.stir("busy")
    aside.stir("other")
    aside.add(2, "other", Message(stamp=3))
    aside.stir("other")
    taken = []
    while (seq := aside.head(bits, ())) is not None:
        taken.append(seq)
        aside.take(seq)
    assert taken == [2, 10, 11, 12, 13]


def test_what_is_settled_or_on_loan_meanwhile_is_no_head() -> None:
    aside, bits = passed_over(4), Bits()
    aside.stir("busy")
    bits.add(0)
    assert aside.head(bits, {1}) == 2
    aside.settle_down()
    assert aside.head(bits, ()) is None
    aside.stir("busy")
    assert aside.head(bits, ()) == 2


def test_what_is_cut_off_is_no_head_any_more() -> None:
    aside, bits = passed_over(4), Bits()
    aside.add(9, "other", Message(stamp=10))
    aside.stir("other")
    aside.stir("busy")
    aside.cut(2)
    assert aside.count == 2
    assert aside.head(bits, ()) == 0
    aside.take(0)
    aside.take(1)
    assert aside.head(bits, ()) is None
