"""Definitions: what is there from now on, or no more, and not on disk yet.

They are facts apart from any request: they ride in the next group that is committed, and when that fails, in the one
after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from broker.core.store import DefineDestination, DefineLane, Definition


def _rank(definition: Definition) -> int:
    """What others refer to comes first."""
    return 0 if isinstance(definition, DefineDestination) else 1 if isinstance(definition, DefineLane) else 2


class Definitions:
    """The definitions that no commit has taken yet, in order, and the ids they are made with."""

    def __init__(self) -> None:
        self._ids = {"destination": 0, "lane": 0, "reader": 0, "binding": 0}
        self._pending: list[Definition | Callable[[], list[Definition]]] = []
        self._ending: list[Callable[[dict[int, int]], list[Definition]]] = []

    def restore(self, last_ids: Mapping[str, int]) -> None:
        """No id up to these is given again."""
        self._ids |= last_ids

    def next_id(self, sort: str) -> int:
        """An id that was never used."""
        self._ids[sort] += 1
        return self._ids[sort]

    def add(self, definition: Definition) -> None:
        """It rides in the next group."""
        self._pending.append(definition)

    def add_later(self, define: Callable[[], list[Definition]]) -> None:
        """Call `define` for what it defines, with the numbers of lanes as they are when the next group closes."""
        self._pending.append(define)

    def end_later(self, end: Callable[[dict[int, int]], list[Definition]]) -> None:
        """The same, with the numbers of lanes behind what that group appends."""
        self._ending.append(end)

    @property
    def pending(self) -> bool:
        """True while there is something to define."""
        return bool(self._pending or self._ending)

    @property
    def ending(self) -> bool:
        """True while a binding is to end."""
        return bool(self._ending)

    def take(self) -> list[Definition]:
        """What the group that closes now defines; numbers of lanes are those before the group's own messages."""
        taken: list[Definition] = []
        ahead, self._pending = deque(self._pending), []
        while ahead:
            entry = ahead.popleft()
            if callable(entry):
                last = entry()  # it may have made readers, which come before it
                ahead.extendleft(reversed([*self._pending, *last]))
                self._pending = []
            else:
                taken.append(entry)
        # Whoever began to read a topic before it had a lane was asked first.
        taken.sort(key=_rank)
        return taken

    def take_ends(self, ends: dict[int, int]) -> list[Definition]:
        """What the group that closes now ends; `ends` are its lanes' numbers after its own messages."""
        ending, self._ending = self._ending, []
        return [definition for end in ending for definition in end(ends)]

    def put_back(self, definitions: list[Definition]) -> None:
        """The group was not committed: they ride in the next one."""
        self._pending[:0] = definitions
