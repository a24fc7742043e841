"""Bindings: a queue reads a destination, from a number on, on certain terms."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import attrs

from broker.core.destination import Destination, Kind
from broker.core.filter import Filter
from broker.core.patterns import is_pattern
from broker.core.policy import BindingPolicy

if TYPE_CHECKING:
    from broker.core.queue import Queue

_NO_TERMS = BindingPolicy()
#: What a virtual topic's name begins with, and what follows ``Consumer.`` and a group in the names of its queues.
_VIRTUAL = "VirtualTopic."


def named_source(queue: str) -> Destination | None:
    """What a queue of this name reads from its first use on, beside its own log; None: nothing.

    Queue ``orders+audit`` reads queue ``orders`` (Kestrel), ``Consumer.audit.VirtualTopic.orders`` reads topic
    ``VirtualTopic.orders`` (ActiveMQ).
    """
    parent, plus, _ = queue.partition("+")
    if plus and parent:
        return Destination(Kind.QUEUE, parent)
    if queue.startswith("Consumer."):
        _, _, topic = queue.removeprefix("Consumer.").partition(".")
        if topic.startswith(_VIRTUAL) and not is_pattern(topic):
            return Destination(Kind.TOPIC, topic)
    return None


@attrs.define(eq=False)
class Binding:
    """One queue's reading of one source, as it is now. A changed binding is a new one with a new id."""

    id: int
    queue: Queue
    source: Destination
    policy: BindingPolicy = _NO_TERMS
    #: Which messages it brings; None: all.
    filter: Filter | None = None
    #: The id of the binding to a pattern of topics that this one follows from; 0: somebody asked for it.
    of: int = 0
    #: What the source queue settles, this queue settles too (Siberite's cursors).
    follows: bool = False

    def same(self, policy: BindingPolicy, text: str, follows: bool) -> bool:
        """True if it has these terms already."""
        return not self.of and (self.policy, self.match, self.follows) == (policy, text, follows)

    @property
    def match(self) -> str:
        """The filter as it is written; empty: none."""
        return self.filter.text if self.filter else ""


class Terms:
    """Which binding's parameters hold for which numbers of one reader.

    A queue that was bound, unbound and bound again reads three stretches of a lane: the middle one is not for it.
    """

    __slots__ = ("_policies", "_starts")

    def __init__(self) -> None:
        self._starts: tuple[int, ...] = ()
        self._policies: tuple[BindingPolicy | None, ...] = ()

    def begin(self, seq: int, policy: BindingPolicy) -> None:
        """From `seq` on these parameters hold."""
        self._change(seq, policy)

    def end(self, seq: int) -> None:
        """From `seq` on the queue does not read."""
        self._change(seq, None)

    @property
    def open(self) -> bool:
        """True while what is published next is for this reader."""
        return not self._policies or self._policies[-1] is not None

    @property
    def trivial(self) -> bool:
        """True if no binding ever spoke of it."""
        return not self._starts

    def at(self, seq: int) -> BindingPolicy:
        """The parameters for number `seq`; none where no binding speaks of it (a queue's own log)."""
        if not self._starts:
            return _NO_TERMS
        return self._policies[max(bisect_right(self._starts, seq) - 1, 0)] or _NO_TERMS

    def reads(self, seq: int) -> bool:
        """True if number `seq` is for this reader."""
        if not self._starts:
            return True
        return self._policies[max(bisect_right(self._starts, seq) - 1, 0)] is not None

    def until(self, seq: int) -> int:
        """The number up to which what holds for `seq` holds."""
        place = bisect_right(self._starts, seq)
        return self._starts[place] if place < len(self._starts) else 1 << 62

    def _change(self, seq: int, policy: BindingPolicy | None) -> None:
        if self._starts and self._starts[-1] == seq:
            self._policies = (*self._policies[:-1], policy)
        else:
            self._starts, self._policies = (*self._starts, seq), (*self._policies, policy)
