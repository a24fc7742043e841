"""Freeing: how often the store is asked to let go of what is settled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from broker.core.freeing import Freeing
from broker.core.retention import Retention
from broker.core.store import IStore


class Trimmed:
    """A store that frees these bytes, one call after the other, and then nothing."""

    def __init__(self, clock: Clock, *freed: int) -> None:
        self.asked: list[float] = []
        self._clock = clock
        self._freed = list(freed)

    def trim(self, budget: int, keep: Mapping[int, int]) -> Deferred[int]:
        self.asked.append(self._clock.seconds())
        return succeed(self._freed.pop(0) if self._freed else 0)


class NothingRetained:
    def __bool__(self) -> bool:
        return False

    async def marks(self) -> dict[int, int]:
        return {}


@pytest.mark.parametrize(
    ("freed", "asked"),
    [
        ([], [1.0]),
        ([1024 * 1024, 1024 * 1024, 200_000], [1.0, 1.04, 1.08, 1.12]),
        ([80_000, 80_000], [1.0, 2.0, 3.0]),
        ([1024 * 1024, 80_000], [1.0, 1.04, 2.04]),
    ],
)
def test_little_is_freed_once_a_second_and_much_in_quick_slices(freed: list[int], asked: list[float]) -> None:
    clock = Clock()
    store = Trimmed(clock, *freed)
    freeing = Freeing(cast(IStore, store), clock, cast(Retention, NothingRetained()))
    freeing.wake()
    clock.pump([0.01] * 1_000)
    assert store.asked == pytest.approx(asked, abs=0.03)
    assert not clock.getDelayedCalls()
