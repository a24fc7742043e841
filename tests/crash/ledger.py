"""What the clients know of every message, from before the first kill to after the last, and what that implies.

Client threads write into one `Ledger`: *before* they send, and *after* they have read an answer. So whatever it says
was confirmed was confirmed, and whatever may have been asked for is in it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

import attrs

from tests.crash.places import DELAY, OF_QUEUE, ON_LOAN, PLACES, Copy, Place, Post

Event = Literal["confirmed", "delivered", "answered"]


@attrs.define
class Fate:
    """What is known of one copy."""

    #: When it was sent at the earliest (ms since 1970).
    sent: int
    #: The producer was told that it is stored, or a live subscriber got it.
    confirmed: bool = False
    #: The producer was told that it is not, or its transaction was never committed.
    refused: bool = False
    #: A settlement was sent; it was answered.
    asked: bool = False
    answered: bool = False
    deliveries: int = 0
    #: It may come late: it was lent over HTTP, or hidden after a failure.
    displaced: bool = False
    #: At this tick its loan over HTTP was known to be on disk.
    kept: int = 0
    #: It was delivered from its home's exit.
    moved: bool = False


@attrs.define(eq=False)
class Sight:
    """One consumer's connection: what it saw last of each producer, target, rank and group."""

    #: Nobody else consumes: everything comes in order, not only what was never delivered, and once.
    alone: bool = False
    seen: set[Copy] = attrs.field(factory=set)
    #: Messages that may come late: lent over HTTP to a client that never read the answer.
    late: int = 0
    last: dict[tuple[str, str, int, str], int] = attrs.field(factory=dict)
    rank: int = 0


@attrs.frozen
class Transaction:
    """What was sent and acked together."""

    sent: list[Post]
    acked: list[Copy]


class Ledger:
    """The one truth of all clients. Its methods may be called by any thread."""

    def __init__(self) -> None:
        #: Of each home: what may come.
        self.fates: dict[str, dict[Post, Fate]] = {home: {} for home in PLACES}
        #: Of each home: what a check found settled, or not there, and whether it was ever delivered.
        self.over: dict[str, dict[Post, bool]] = {home: {} for home in PLACES}
        #: Transactions whose outcome no check has looked at.
        self.transactions: list[Transaction] = []
        #: Per queue: HTTP requests for a message that are not answered.
        self.unread: Counter[str] = Counter()
        #: What was sent with a key and is not known to be stored.
        self.unsure: dict[Post, None] = {}
        self.lost: set[Copy] = set()
        self.came_back: set[Copy] = set()
        #: Everything else that must not be.
        self.wrong: list[str] = []
        #: Connections may end before the broker does: what is in whose hands is not known.
        self.disturbed = False
        self.tally: Counter[str] = Counter()
        #: Deliveries from each queue.
        self.given: Counter[str] = Counter()
        #: Of homes where it matters: who has what on loan.
        self._hands: dict[str, dict[Post, Sight]] = {}
        self._in_group: dict[str, int] = {}
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

    def sending(self, producer: str, target: str, *, refused: bool = False) -> Post:
        """The next message of this producer to this target; it is about to be sent.

        `refused`: in a transaction, which may never be committed.
        """
        with self._lock:
            post = Post(producer, target, self._numbers[producer, target])
            self._numbers[producer, target] += 1
            for home in post.homes:
                self.fates[home][post] = Fate(int(time.time() * 1000), refused=refused)
            if post.key:
                self.unsure[post] = None
            return post

    def sending_again(self, post: Post) -> None:
        """The same is about to be sent once more, with its key: if it is stored, it is stored once."""
        with self._lock:
            if self.over["keyed"].get(post) is False:  # it was not there
                del self.over["keyed"][post]
                self.fates["keyed"][post] = Fate(int(time.time() * 1000))

    def confirmed(self, *posts: Post) -> None:
        """The producer read that they are stored."""
        with self._lock:
            for post in posts:
                self.unsure.pop(post, None)
                for fate in self._of(post):
                    fate.confirmed = True
                self.tally["confirmed"] += 1
                self._count("confirmed")

    def refused(self, *posts: Post) -> None:
        """The producer read that nothing of them is stored."""
        with self._lock:
            self.tally["refused"] += len(posts)
            for post in posts:
                for fate in self._of(post):
                    fate.refused = True

    def committing(self, transaction: Transaction) -> None:
        """COMMIT is about to be sent: all of it becomes true, or nothing."""
        self.asking(*transaction.acked)
        with self._lock:
            for post in transaction.sent:
                for fate in self._of(post):
                    fate.refused = False
            self.transactions.append(transaction)

    def rolled_back(self, transaction: Transaction) -> None:
        """COMMIT was refused: nothing of it happened, and what it acked may have gone to others meanwhile."""
        self.transactions.remove(transaction)
        self.refused(*transaction.sent)

    def heard(self, body: bytes, target: str, to: Sight) -> None:
        """A live subscriber of a topic read a message: it is on disk for the queues that read the topic."""
        with self._lock:
            post = Post.of(body)
            if post.target != target:
                self.wrong.append(f"{post} came from {target}")
            self._in_order(Copy(post, target), to)
            for fate in self._of(post):
                if fate.refused:
                    self.wrong.append(f"{post} was never committed, and was delivered live")
                fate.confirmed = True

    def _of(self, post: Post) -> list[Fate]:
        found = [self.fates[home].get(post) for home in post.homes]
        return [fate for fate in found if fate is not None]

    # -- consumers

    def tick(self) -> int:
        """A moment; later ones are larger."""
        with self._lock:
            self._ticks += 1
            return self._ticks

    def delivered(
        self,
        body: bytes,
        queue: str,
        to: Sight,
        *,
        redelivered: bool | None = None,
        count: int = 2,
        asked_at: int | None = None,
    ) -> Copy:
        """A consumer read a message of `queue`.

        `redelivered`: the protocol's mark, which must be there if anybody read it before; None: it has none. `count`:
        which delivery it is, by the protocol; loans over HTTP that are on disk count, those over connections that a
        restart ended do not. `asked_at`: the tick before which this loan over HTTP was asked for.
        """
        with self._lock:
            post = Post.of(body)
            place = OF_QUEUE[queue]
            copy = Copy(post, place.name)
            fate = self.fates[place.name].get(post)
            self.given[queue] += 1
            self._count("delivered")
            is_double = to.alone and copy in to.seen
            to.seen.add(copy)
            if fate is None or fate.answered or is_double:
                if post in self.over[place.name] or fate is not None:
                    self.came_back.add(copy)
                else:
                    self.wrong.append(f"{queue} had {post}, which is not for it")
                return copy
            if fate.refused:
                self.wrong.append(f"{copy} was refused or never committed, and was delivered")
            self._through(place, queue, copy, fate)
            if not fate.deliveries or (to.alone and not fate.displaced):
                if not (place.unordered or fate.moved):
                    self._in_order(copy, to)
                if time.time() * 1000 < fate.sent + post_delay(post):
                    self.wrong.append(f"{copy} came too early")
            self._in_hand(place, post, fate, to)
            fate.deliveries += 1
            self.tally["duplicates"] += fate.deliveries == 2
            if fate.deliveries > 1 and redelivered is False:
                self.wrong.append(f"{copy} is not marked as redelivered")
            if asked_at is not None:
                fate.displaced = True
            if 0 < fate.kept < (asked_at or self._ticks + 1) and count < 2:
                self.wrong.append(f"{copy} has lost count of its loan over HTTP")
            return copy

    def _through(self, place: Place, queue: str, copy: Copy, fate: Fate) -> None:
        """It came from its home, or from there by way of its exit, where it begins a new life."""
        if queue == place.exit and not fate.moved:
            fate.moved, fate.deliveries, fate.kept = True, 0, 0
        elif queue != place.exit and fate.moved:
            self.wrong.append(f"{copy} was moved to {place.exit}, and is back")

    def _in_order(self, copy: Copy, to: Sight) -> None:
        post = copy.post
        row = (post.producer, post.target, post.rank, post.group)
        if post.number > to.last.get(row, -1):
            to.last[row] = post.number
        elif to.late:
            to.late -= 1
        else:
            self.wrong.append(f"{copy} comes after number {to.last[row]}")
        if to.alone and post.rank < to.rank:
            self.wrong.append(f"{copy} comes after one of rank {to.rank}")
        to.rank = post.rank

    def _in_hand(self, place: Place, post: Post, fate: Fate, to: Sight) -> None:
        """It is on loan now: perhaps more is than may be, or to somebody who may not have it."""
        if self.disturbed or to.alone or not (place.grouped or place.says.get("exclusive")):
            return
        hands = self._hands.setdefault(place.name, {})
        hands[post] = to
        if place.says.get("exclusive") and len(set(map(id, hands.values()))) > 1:
            self.wrong.append(f"{post} went to a second consumer of an exclusive queue")
        if not place.grouped:
            return
        if len(hands) > ON_LOAN:
            self.wrong.append(f"{post} is on loan as number {len(hands)} at a time")
        if any(holder is not to for other, holder in hands.items() if other.group == post.group):
            self.wrong.append(f"{post} is on loan while another consumer has its group")
        if not fate.deliveries:
            if post.number <= self._in_group.get(post.group, -1):
                self.wrong.append(f"{post} comes after {self._in_group[post.group]} of its group")
            self._in_group[post.group] = post.number

    def kept(self, copies: Iterable[Copy]) -> None:
        """Their loans over HTTP are on disk: something later is."""
        tick = self.tick()
        with self._lock:
            for post, home in copies:
                if post in self.fates[home]:
                    self.fates[home][post].kept = tick

    def failed(self, copy: Copy) -> None:
        """It is about to be given back as failed: it comes again later, or goes to the exit."""
        with self._lock:
            fate = self.fates[copy.home].get(copy.post)
            if fate is not None:
                fate.displaced = True
            self._hands.get(copy.home, {}).pop(copy.post, None)

    def asking(self, *copies: Copy) -> None:
        """Their settlement is about to be sent."""
        with self._lock:
            for post, home in copies:
                fate = self.fates[home].get(post)
                if fate is not None:  # else it came back, and that is known
                    fate.asked = True
                if not PLACES[home].says.get("exclusive"):
                    self._hands.get(home, {}).pop(post, None)

    def answered(self, *copies: Copy) -> None:
        """Their settlement was answered."""
        with self._lock:
            for post, home in copies:
                fate = self.fates[home].get(post)
                if fate is not None:
                    fate.answered = True
                self.tally["acked"] += 1
                self._count("answered")

    # -- after a restart: no client is at work

    def died(self) -> None:
        """The broker is gone, with whatever it had in memory only."""
        self._hands.clear()
        for home, place in PLACES.items():
            if place.keeps == "nothing":
                self._end(home)

    def due(self, home: str) -> tuple[set[Post], set[Post]]:
        """What must be there, and what may be there beside."""
        fates = self.fates[home]
        # What was delivered was stored before, whether or not its producer was told in time.
        must = {post for post, fate in fates.items() if (fate.confirmed or fate.deliveries) and not fate.asked}
        may = {post for post, fate in fates.items() if not (fate.answered or fate.refused)}
        return must, may - must

    def emptied(self, place: Place, seen: set[Post]) -> None:
        """`place` was emptied, and held what was `seen`: nothing that was ever sent to it may come any more."""
        must, may = self.due(place.name)
        # Seen ones were settled on the way.
        must |= {post for post in seen if post in self.fates[place.name]}
        if place.keeps == "all":
            missing = must - seen
        else:
            missing = _dropped_wrongly(place, must, may, seen)
        self.lost |= {Copy(post, place.name) for post in missing}
        self._end(place.name)

    def _end(self, home: str) -> None:
        self.over[home] |= {post: fate.deliveries > 0 for post, fate in self.fates[home].items()}
        self.fates[home].clear()

    def judge_transactions(self, seen: set[Copy]) -> None:
        """Every transaction happened whole or not at all; `seen` is what was there after the restart."""
        self.tally["transactions"] += len(self.transactions)
        for transaction in self.transactions:
            sent = {self.over[home].get(post, False) for post in transaction.sent for home in post.homes}
            acked = {copy not in seen for copy in transaction.acked}
            if len(sent | acked) > 1:
                self.wrong.append(f"a transaction happened in part: {transaction}")
        self.transactions.clear()


def post_delay(post: Post) -> int:
    """For how long it is not to be delivered at least (ms): its sender's wish, or the policy's."""
    return 0 if post.target != "later" else DELAY // 2 if post.number % 2 else DELAY


def _dropped_wrongly(place: Place, must: set[Post], may: set[Post], seen: set[Post]) -> set[Post]:
    """What a queue that drops messages should still have: of each producer the last ones, or the first ones.

    As many as it takes; some of them may be those whose producer was not told in time.
    """
    if place.keeps == "nothing":
        return set()
    newest = place.keeps == "newest"
    limit = int(place.says["max_messages"])
    missing = set()
    for producer in {post.producer for post in must}:
        sent = sorted(post.number for post in must if post.producer == producer)
        found = [post.number for post in seen if post.producer == producer]
        edge = (min if newest else max)(found, default=None)
        if edge is not None:
            gone = {number for number in sent if (number > edge if newest else number < edge)} - set(found)
            missing |= {Post(producer, place.name, number) for number in gone}
    # What fills the oldest was perhaps on its way when others were dropped for it, and never came.
    if len(seen) < min(limit, len(must)) - (0 if newest else len(may)):
        missing |= must - seen
    return missing
