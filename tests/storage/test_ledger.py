"""The ledger: what commits amount to, with and without keeping account of what changed."""

from __future__ import annotations

import pytest

from broker.core.store import Failure, Group, Range
from broker.storage import record
from broker.storage.ledger import Ledger
from tests.storage.support import messages, queue_of


def apply(ledger: Ledger, group: Group) -> None:
    """Commit `group`."""
    ledger.apply(record.build(group, ledger.allot(group), ledger.before(group)).directory)


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("settled", [[(1, 3)], [(0, 1), (1, 3)], [(1, 3), (0, 1)]])
def test_what_the_cursor_comes_to_keeps_its_failure(track: bool, settled: list[Range]) -> None:
    ledger = Ledger(track=track)
    apply(ledger, Group(parts={1: messages(0, 6)}, definitions=queue_of(1), failures={(1, 3): Failure(1, 99)}))
    for some in (*settled, (0, 1)):
        apply(ledger, Group(settled={1: [some]}))
    (reader,) = ledger.inventory(0).readers
    assert reader.cursor == 3
    assert reader.failures == {3: Failure(1, 99)}
