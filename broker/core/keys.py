"""Publishers' keys: the same publish, sent again within ``dedup_window``, is answered as the first was, not repeated.

Keys are in memory, bounded in number, and stored with their messages, so that a restart remembers them. A key counts
for its destination. Two of the same in one group share one answer, also if that is a failure: then neither is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from broker.core.destination import Destination
from broker.core.route import Published

#: Keys remembered, of all destinations together, at about 350 bytes each. Beyond it the oldest are forgotten early.
MAX_KEYS = 200_000


@attrs.define(eq=False)
class _Entry:
    until: int
    #: Makes what the first was told; None while it is on its way.
    told: Callable[[], Published] | None
    waiting: list[Deferred[Published]] = attrs.field(factory=list)


class Keys:
    """What was published lately, by destination and key."""

    def __init__(self, limit: int = MAX_KEYS) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[Destination, str], _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def seen(self, destination: Destination, key: str, now: int) -> Deferred[Published] | None:
        """What the first publish with this key was told, or will be; None: this is the first."""
        entry = self._entries.get((destination, key))
        if entry is None:
            return None
        answer: Deferred[Published] = Deferred()
        if entry.told is None:
            entry.waiting.append(answer)
        elif entry.until <= now:
            del self._entries[destination, key]
            return None
        else:
            answer.callback(attrs.evolve(entry.told(), duplicate=True))
        return answer

    def begin(self, destination: Destination, key: str, until: int) -> None:
        """A publish with this key is on its way."""
        self._entries[destination, key] = _Entry(until, None)

    def remember(self, destination: Destination, key: str, until: int, told: Callable[[], Published]) -> None:
        """It is stored; `told` makes its answer again."""
        old = self._entries.pop((destination, key), None)
        self._entries[destination, key] = _Entry(until, told)
        for answer in old.waiting if old is not None else ():
            answer.callback(attrs.evolve(told(), duplicate=True))
        while len(self._entries) > self._limit:
            place, entry = next(iter(self._entries.items()))
            if entry.told is None:
                break  # not yet answered: everything behind it is newer still
            del self._entries[place]

    def failed(self, destination: Destination, key: str, failure: Failure) -> None:
        """It is not stored: the next one with this key is the first."""
        entry = self._entries.pop((destination, key), None)
        for answer in entry.waiting if entry is not None else ():
            answer.errback(failure)

    def expire(self, now: int) -> None:
        """Forget what is over, from the oldest on."""
        while self._entries:
            place, entry = next(iter(self._entries.items()))
            if entry.told is None or entry.until > now:
                return
            del self._entries[place]
