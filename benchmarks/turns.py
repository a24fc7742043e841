"""How many messages one reactor turn handles while a million expire, are purged, freed, browsed and dead-lettered.

    .venv/bin/python -m benchmarks.turns [MESSAGES]

Goal: never more than 1,000 messages or 256 KiB of them (one message if that is larger), whatever happens to them: what
is decoded, looked at, lent, settled one by one, moved or committed in a turn is counted where it happens. A range that
is purged or has expired is one step, however long. Every case is run with bodies of 100 bytes, and with a tenth of the
messages and bodies of 2,000 and of 10. The time of the longest turn is printed beside; it depends on the machine.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import task
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from benchmarks.measuring import Folder, Row, report
from benchmarks.prepare import Make, fill
from broker.core import message as messages
from broker.core.broker import Broker
from broker.core.browsing import Browsing
from broker.core.delivery import Delivery
from broker.core.destination import queue
from broker.core.journal import Journal
from broker.core.message import OVERHEAD, Message
from broker.core.moving import Moving
from broker.core.policy import Policy
from broker.core.publishing import Publishing
from broker.core.queue import Queue
from broker.core.reader import Reader
from broker.core.replay import Plan
from broker.storage.sqlite import SQLiteStore

#: What a turn may handle.
MOST_MESSAGES = 1_000
MOST_BYTES = 256 * 1024
#: Seconds a case may take.
LIMIT = 600.0
#: How long the messages of a case that expires live (s).
_TTL = 3_600


@attrs.define
class Turns:
    """What the turns of a case handled, by what was done with it."""

    turns: int = 0
    longest: float = 0.0
    #: Messages and bytes of this turn.
    now: dict[str, list[int]] = attrs.field(factory=lambda: defaultdict(lambda: [0, 0]))
    #: The most of any turn.
    most: dict[str, list[int]] = attrs.field(factory=lambda: defaultdict(lambda: [0, 0]))
    #: The largest message.
    largest: int = 0

    def handled(self, what: str, count: int, size: int) -> None:
        """So many messages, in this turn."""
        if count == 1:
            self.largest = max(self.largest, size)
        now = self.now[what]
        now[0] += count
        now[1] += size

    def over(self, took: float) -> None:
        """A turn is over."""
        self.longest = max(self.longest, took)
        self.turns += bool(self.now)
        for what, (count, size) in self.now.items():
            most = self.most[what]
            most[0] = max(most[0], count)
            most[1] = max(most[1], size)
        self.now.clear()

    @property
    def messages(self) -> tuple[int, str]:
        """The most messages a turn handled, and what was done with them."""
        return max(((most[0], what) for what, most in self.most.items()), default=(0, ""))

    @property
    def bytes(self) -> tuple[int, str]:
        """The most bytes, likewise."""
        return max(((most[1], what) for what, most in self.most.items()), default=(0, ""))

    @property
    def misses(self) -> list[str]:
        """What was too much."""
        said = []
        for what, (count, size) in self.most.items():
            if count > MOST_MESSAGES:
                said.append(f"{count:,} messages were {what} in one turn")
            if size > max(MOST_BYTES, self.largest):
                said.append(f"{size:,} bytes were {what} in one turn")
        return said


def _size(message: Message) -> int:
    return message.size - OVERHEAD


@contextlib.contextmanager
def counting(reactor: ReactorBase) -> Iterator[Turns]:
    """Count from now on, in the broker of this process; only what the reactor's thread does."""
    turns = Turns()
    undo: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, count: Callable[..., tuple[int, int]], what: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            returned = original(*args, **kwargs)
            number, size = count(returned, *args, **kwargs)
            if number:
                turns.handled(what, number, size)
            return returned

        undo.append((owner, name, original))
        setattr(owner, name, counted)

    unpack = messages.unpack
    for name, module in list(sys.modules.items()):
        if name.startswith("broker.core.") and getattr(module, "unpack", None) is unpack:
            patch(module, "unpack", lambda _, count, data: (count, len(data)), "decoded")
    patch(Queue, "examine", lambda may, _, message: (int(may), _size(message)), "passed over")
    patch(Queue, "expire", lambda _, self, reader, seq, message: (1, _size(message)), "expired one by one")
    patch(Reader, "lend", lambda delivery, *_: (1, _size(delivery.message)), "lent")
    patch(Reader, "settle", lambda settled, *_: (int(settled), 0), "settled one by one")
    patch(Browsing, "_seen", lambda _, self, source, seq, message: (1, _size(message)), "browsed")
    patch(Moving, "_begun", lambda _, self, move: (1, _size(move.delivery.message)), "moved")
    patch(Journal, "_take_units", lambda units, _: _of_units(units), "put into a commit")
    patch(Journal, "_apply", lambda _, self, sealed: _of_units(sealed.units), "committed")
    patch(Publishing, "told", lambda _, self, route, *rest: (1, _size(route.message)), "told of")

    original = reactor.runUntilCurrent

    def turn() -> None:
        turns.over(0.0)  # what was done for sockets belongs to the turn that ends
        begun = time.perf_counter()
        original()
        turns.longest = max(turns.longest, time.perf_counter() - begun)

    reactor.runUntilCurrent = turn  # type: ignore[method-assign]
    try:
        yield turns
    finally:
        del reactor.runUntilCurrent
        for owner, name, value in undo:
            setattr(owner, name, value)


def _of_units(units: list[Any]) -> tuple[int, int]:
    appended = [append.message for unit in units for append in unit.appends]
    return len(appended), sum(map(_size, appended))


class Stand:
    """A broker over a file that holds one queue of so many messages, and the hands that move its clock."""

    def __init__(self, reactor: Any, path: Path, policy: Policy) -> None:
        self.reactor = reactor
        self.store = SQLiteStore(str(path), sync="normal", reserve=0)
        self.later = 0.0
        self.broker = Broker(self.store, reactor, policy=policy, wall=lambda: time.time() + self.later)

    def waiting(self, name: str = "q0") -> int:
        """Messages of a queue, on loan or not."""
        stats = self.broker.queue_stats(name)
        return stats.ready + stats.on_loan

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = self.reactor.seconds() + LIMIT
        while not done():
            if self.reactor.seconds() > deadline:
                raise RuntimeError(f"not done in {LIMIT:.0f} s")
            await task.deferLater(self.reactor, 0.005)


def expiring(size: int) -> Make:
    """Messages of so many bytes, which expire in an hour."""
    body = bytes(size)
    expires = int((time.time() + _TTL) * 1e6)
    return lambda stamp, n: Message(stamp, body, expires=expires)


# -- the cases


async def expire(stand: Stand) -> None:
    """Nobody is there: the sweep settles them."""
    stand.later = 2.0 * _TTL
    await stand.until(lambda: not stand.waiting())


async def expire_before_a_consumer(stand: Stand) -> None:
    """Somebody waits for a message that has not expired."""
    got: list[Delivery] = []
    stand.later = 2.0 * _TTL
    stand.broker.subscribe(queue("q0"), got.append, prefetch=10)
    await stand.until(lambda: not stand.waiting())
    assert not got


async def move_expired(stand: Stand) -> None:
    """They go to another queue."""
    count = stand.waiting()
    stand.later = 2.0 * _TTL
    await stand.until(lambda: stand.waiting("late") == count)
    assert not stand.waiting()


async def dead_letter(stand: Stand) -> None:
    """A consumer fails on each of them."""
    count = stand.waiting()
    got: list[Delivery] = []

    def fail() -> None:
        failed = got.copy()
        got.clear()
        stand.broker.nack(failed, reason="cannot be used")

    def deliver(delivery: Delivery) -> None:
        if not got:
            stand.reactor.callLater(0, fail)
        got.append(delivery)

    stand.broker.subscribe(queue("q0"), deliver, prefetch=1_000)
    await stand.until(lambda: stand.waiting("dead") == count)
    assert not stand.waiting()


async def browse(stand: Stand) -> None:
    """Somebody looks at all of them, page by page."""
    count, seen, after = stand.waiting(), 0, 0
    while True:
        page = await stand.broker.browse(queue("q0"), after=after, limit=1_000)
        seen += len(page.seen)
        if page.after is None:
            break
        after = page.after
    assert seen == count == stand.waiting()


async def purge(stand: Stand) -> None:
    """They are purged."""
    await stand.broker.purge("q0")
    assert not stand.waiting()


async def free(stand: Stand) -> None:
    """They are purged, and the store lets go of them."""
    count, trim = stand.waiting(), stand.store.trim
    freed: list[int] = []

    def noted(*args: Any) -> Any:
        def note(size: int) -> int:
            freed.append(size)
            return size

        return trim(*args).addCallback(note)

    stand.store.trim = noted  # type: ignore[assignment,method-assign]
    await stand.broker.purge("q0")
    await stand.until(lambda: sum(freed) > 20 * count and not freed[-1])


async def replay(stand: Stand) -> None:
    """A replay moves them to another queue."""
    count = stand.waiting()
    await stand.broker.replays.create(Plan(queue("q0"), waiting=True, target=queue("again"), move=True))
    await stand.until(lambda: stand.waiting("again") == count)
    assert not stand.waiting()


Case = Callable[[Stand], Awaitable[None]]
CASES: dict[str, tuple[Case, Policy]] = {
    "expire, nobody there": (expire, Policy()),
    "expire before a consumer": (expire_before_a_consumer, Policy()),
    "expire to a queue": (move_expired, Policy(expire_to="late")),
    "dead-letter": (dead_letter, Policy(max_attempts=1, dead_letter="dead")),
    "browse": (browse, Policy()),
    "replay": (replay, Policy()),
    "purge": (purge, Policy()),
    "purge and free": (free, Policy()),
}


async def run(reactor: Any, name: str, count: int, size: int) -> tuple[Row, Turns]:
    """One case."""
    case, policy = CASES[name]
    with Folder() as folder:
        await fill(folder / "turns.sqlite", 1, count, expiring(size))
        stand = Stand(reactor, folder / "turns.sqlite", policy)
        await stand.broker.start()
        try:
            assert stand.waiting() == count
            begun = time.perf_counter()
            with counting(reactor) as turns:
                await case(stand)
            took = time.perf_counter() - begun
        finally:
            await stand.broker.stop()
    (most, what), (most_bytes, what_bytes) = turns.messages, turns.bytes
    row = {
        "case": name,
        "messages": count,
        "body": size,
        "seconds": round(took, 2),
        "turns": turns.turns,
        "most a turn": most,
        "of them": what,
        "KiB a turn": round(most_bytes / 1024, 1),
        "of it": what_bytes,
        "longest ms": round(turns.longest * 1e3, 1),
    }
    return row, turns


async def run_all(reactor: Any, count: int, names: list[str]) -> None:
    rows, misses = [], []
    for number, size in ((count, 100), (count // 10, 2_000), (count // 10, 10)):
        for name in names:
            row, turns = await run(reactor, name, number, size)
            rows.append(row)
            misses += [f"{name}: {miss}" for miss in turns.misses]
    if report("turns", rows, misses):
        raise SystemExit(1)


def main(reactor: IReactorCore, count: str = "1000000", *names: str) -> Deferred[None]:
    return Deferred.fromCoroutine(run_all(reactor, int(count), list(names) or list(CASES)))


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
