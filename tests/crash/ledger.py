"""What the clients know of every message, from before the first kill to after the last, and what that implies.

Client threads write into one `Ledger`: *before* they send, and *after* they have read an answer. So whatever it says
was confirmed was confirmed, and whatever may have been asked for is in it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import attrs

Event = Literal["confirmed", "delivered", "answered"]


class Name(NamedTuple):
    """A message. `number` goes up by one with each message of this producer to this queue."""

    producer: str
    queue: str
    number: int

    def body(self) -> bytes:
        """The body, which names the message: some 20 to 300 bytes, and 20 kB in every fiftieth."""
        filling = b"%d," % self.number
        return f"{self.producer} {self.queue} {self.number}\n".encode() + filling * (
            4000 if self.number % 50 == 49 else self.number % 7 * 10
        )

    @classmethod
    def of(cls, body: bytes) -> Name:
        """The name in a body; `ValueError` if the body is not the one that was sent."""
        producer, queue, number = body.partition(b"\n")[0].decode().split(" ")
        name = cls(producer, queue, int(number))
        if body != name.body():
            raise ValueError(f"the body of {name} is damaged")
        return name


@attrs.define
class Fate:
    """What is known of one message."""

    #: The producer was told that it is stored.
    confirmed: bool = False
    #: A settlement was sent; it was answered.
    asked: bool = False
    answered: bool = False
    #: A check found it settled, or not there: it must not be seen any more.
    over: bool = False
    deliveries: int = 0
    #: It was lent over HTTP, and (at this tick) the loan was known to be on disk.
    leased: bool = False
    kept: int = 0


@attrs.define
class Sight:
    """One consumer's connection: what it saw last of each producer and queue."""

    #: Nobody else consumes: everything comes in order, not only what was never delivered.
    alone: bool = False
    #: Messages that may come late: lent over HTTP to a client that never read the answer.
    late: int = 0
    last: dict[tuple[str, str], int] = attrs.field(factory=dict)


class Ledger:
    """The one truth of all clients. Its methods may be called by any thread."""

    def __init__(self) -> None:
        self.fates: dict[Name, Fate] = {}
        #: Transactions whose outcome no check has looked at: the message they sent, the one they acked.
        self.moves: dict[Name, Name] = {}
        #: Per queue: HTTP requests for a message that are not answered.
        self.unread: Counter[str] = Counter()
        self.lost: set[Name] = set()
        self.came_back: set[Name] = set()
        #: Everything else that must not be.
        self.wrong: list[str] = []
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._ticks = 0
        self._lock = threading.Lock()
        self._event: Event | None = None
        self._left = 0
        self._spring: Callable[[], None] = lambda: None

    # -- when to strike

    def arm(self, event: Event, count: int, spring: Callable[[], None]) -> None:
        """Call `spring` when `count` such events are over, on the thread of the client that saw the last one."""
        with self._lock:
            self._event, self._left, self._spring = event, count, spring

    def _count(self, event: Event) -> None:
        if event == self._event:
            self._left -= 1
            if not self._left:
                self._event = None
                self._spring()

    # -- producers

    def sending(self, producer: str, queue: str) -> Name:
        """The next message of this producer to this queue; it is about to be sent."""
        with self._lock:
            name = Name(producer, queue, self._numbers[producer, queue])
            self._numbers[producer, queue] += 1
            self.fates[name] = Fate()
            return name

    def confirmed(self, name: Name) -> None:
        """The producer read that it is stored."""
        with self._lock:
            self.fates[name].confirmed = True
            self._count("confirmed")

    # -- consumers

    def tick(self) -> int:
        """A moment; later ones are larger."""
        with self._lock:
            self._ticks += 1
            return self._ticks

    def delivered(self, body: bytes, to: Sight) -> Name:
        """A consumer read a message; by memcache, which cannot say if it was delivered before."""
        with self._lock:
            return self._delivered(body, to)[0]

    def delivered_by_stomp(self, body: bytes, to: Sight, *, redelivered: bool, delivered: int) -> Name:
        """A consumer read a MESSAGE: it must be marked if anybody read it before.

        `delivered` is delivery-count, which counts as X-Linger-Delivered does.
        """
        with self._lock:
            name, fate = self._delivered(body, to)
            if fate.deliveries > 1 and not redelivered:
                self.wrong.append(f"{name} is not marked as redelivered")
            if fate.kept and delivered < 2:
                self.wrong.append(f"{name} has lost count of its loan over HTTP")
            return name

    def delivered_by_http(self, body: bytes, to: Sight, *, asked_at: int, delivered: int) -> Name:
        """A client read the answer to a GET sent at tick `asked_at`: an earlier loan that was on disk is counted.

        `delivered` is X-Linger-Delivered. A restart counts no delivery, so loans over connections do not show in it.
        """
        with self._lock:
            name, fate = self._delivered(body, to)
            fate.leased = True
            if 0 < fate.kept < asked_at and delivered < 2:
                self.wrong.append(f"{name} has lost count of its loan over HTTP")
            return name

    def kept(self, names: Iterable[Name]) -> None:
        """Their loans over HTTP are on disk: something later is."""
        tick = self.tick()
        with self._lock:
            for name in names:
                self.fates[name].kept = tick

    def asking(self, *names: Name) -> None:
        """Their settlement is about to be sent."""
        with self._lock:
            for name in names:
                self.fates[name].asked = True

    def answered(self, *names: Name) -> None:
        """Their settlement was answered."""
        with self._lock:
            for name in names:
                self.fates[name].answered = True
                self._count("answered")

    def _delivered(self, body: bytes, to: Sight) -> tuple[Name, Fate]:
        name = Name.of(body)
        fate = self.fates[name]
        if fate.answered or fate.over:
            self.came_back.add(name)
        if not fate.deliveries or (to.alone and not fate.leased):
            if name.number > to.last.get(name[:2], -1):
                to.last[name[:2]] = name.number
            elif to.late:
                to.late -= 1
            else:
                self.wrong.append(f"{name} comes after number {to.last[name[:2]]}")
        fate.deliveries += 1
        self._count("delivered")
        return name, fate

    # -- after a restart: no client is at work

    def due(self, queue: str) -> tuple[set[Name], set[Name]]:
        """What of `queue` must be there, and what may be there beside."""
        here = {name: fate for name, fate in self.fates.items() if name.queue == queue and not fate.over}
        # What was delivered was stored before, whether or not its producer was told in time.
        must = {name for name, fate in here.items() if (fate.confirmed or fate.deliveries) and not fate.asked}
        return must, {name for name, fate in here.items() if not fate.answered} - must

    def emptied(self, queue: str, seen: set[Name]) -> None:
        """`queue` was emptied, and held what was `seen`: nothing that was ever sent to it may come any more."""
        self.lost |= self.due(queue)[0] - seen
        for name, fate in self.fates.items():
            if name.queue == queue:
                fate.over = True

    def judge_moves(self, seen: set[Name]) -> None:
        """Every transaction happened whole or not at all; `seen` is what was there after the restart."""
        for sent, acked in self.moves.items():
            if (self.fates[sent].deliveries > 0) is (acked in seen):
                self.wrong.append(f"the move of {acked} to {sent} happened in part")
        self.moves.clear()

    def counts(self) -> Counter[str]:
        """What the table shows."""
        fates = self.fates.values()
        return Counter(
            confirmed=sum(fate.confirmed for fate in fates),
            acked=sum(fate.answered for fate in fates),
            lost=len(self.lost),
            returned=len(self.came_back),
            duplicated=sum(fate.deliveries > 1 for fate in fates),
        )
