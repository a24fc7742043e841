"""Message groups: messages with the same key go to one consumer at a time, in order.

Whoever holds a group may get more of it while it holds some; everybody else waits until the last one is settled or
given back. A message that failed and is held back for a while keeps its group busy, or the next one would overtake it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from broker.core.consumers import Subscription


@attrs.define(eq=False)
class _Hold:
    #: Who may get more of the group; None: nobody.
    holder: Subscription | None
    #: Its messages on loan or held back.
    count: int = 0


class Groups:
    """The busy groups of one queue."""

    __slots__ = ("_holds", "_starved")

    def __init__(self) -> None:
        self._holds: dict[str, _Hold] = {}
        #: Groups passed over because their holder had no credit.
        self._starved: dict[Subscription, dict[str, None]] = {}

    def allows(self, group: str, line: object) -> bool:
        """True if somebody in `line` may get a message of this group now."""
        hold = self._holds.get(group)
        if hold is None:
            return True
        holder = hold.holder
        if holder is None or holder.closed or holder.line is not line:
            return False
        if holder.credit <= 0:
            self._starved.setdefault(holder, {})[group] = None
            return False
        return True

    def busy(self, group: str) -> bool:
        """True if a message of it is on loan, or held back."""
        return group in self._holds

    def holder(self, group: str) -> Subscription | None:
        """Who alone may get a message of it; None: anybody, as it is free."""
        hold = self._holds.get(group)
        return hold.holder if hold is not None else None

    def take(self, group: str, holder: Subscription | None) -> None:
        """A message of it is on loan to `holder`, or held back."""
        hold = self._holds.get(group)
        if hold is None:
            hold = self._holds[group] = _Hold(holder)
        elif hold.holder is not holder:
            hold.holder = None
        hold.count += 1

    def give(self, group: str) -> None:
        """A message of it is settled or free again."""
        hold = self._holds[group]
        hold.count -= 1
        if not hold.count:
            del self._holds[group]

    def credited(self, subscription: Subscription) -> Iterable[str]:
        """The groups that waited for this consumer's credit."""
        return self._starved.pop(subscription, ())
