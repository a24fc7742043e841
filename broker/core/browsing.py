"""Browsing: looking at messages without taking them, from any position, whatever becomes of them meanwhile.

A position is a stamp. Each lane is read from the store from there on, in slices, and the lanes are merged by stamp;
what stands in memory says what state a message is in. Nothing here moves a pointer or fills a window of the queue.
"""

from __future__ import annotations

import enum
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.core.clock import due_of
from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind, named
from broker.core.directory import Directory
from broker.core.message import Message, unpack
from broker.core.queue import Queue
from broker.core.reader import UNLOADED, Lane, Reader
from broker.core.store import Batch, IStore
from broker.errors import NotFound

#: Messages looked at for one page, wanted or not.
MAX_EXAMINED = 10_000
#: Messages looked at before the reactor has a turn: with a filter that parses bodies of a few KiB it takes 5 ms. A turn
#: may see two such slices, one as an answer of the store comes in and one that was planned.
_SLICE = 250
#: Bytes read of the store at a time, of all lanes together; at least `_LEAST` of each. What is read is decoded in the
#: turn in which it comes.
_READ_BYTES, _LEAST = 64 * 1024, 16 * 1024
#: Bytes of bodies on one page.
MAX_PAGE_BYTES = 1024 * 1024
#: Stretches of ten seconds whose delayed messages are looked at, the next ones.
MAX_SLOTS = 256


class State(enum.Enum):
    """Where a message stands in a queue."""

    READY = "ready"
    ON_LOAN = "on_loan"
    #: It waits for its time, or is held back after a failure.
    DELAYED = "delayed"
    #: Settled, or never for this queue; readable while it is stored.
    DONE = "done"


@attrs.frozen(eq=False)
class Seen:
    """A message that was looked at."""

    message: Message
    #: What names it in the queue; 0 in a topic's log.
    id: int
    message_id: str
    source: Destination
    priority: int
    state: State
    #: Failed deliveries.
    attempts: int = 0
    #: When its loan ends, or it may be delivered (us); 0: that is not known, or never.
    due: int = 0
    #: Why, and when (us; 0: not known), its last delivery failed.
    reason: str = ""
    failed_at: int = 0
    #: Who has it on loan, and which loan that is.
    delivery: Delivery | None = None


@attrs.frozen(eq=False)
class Page:
    """Messages in the order of their positions."""

    seen: list[Seen]
    #: The position behind which to go on; None: nothing more is there now.
    after: int | None


@attrs.define(eq=False)
class _Source:
    """One lane, read from some number on."""

    lane: Lane
    #: Who reads it; None: the log itself is looked at.
    reader: Reader | None
    next: int
    #: Of delayed messages: where they go.
    target: str = ""
    #: What is in memory of it, not decoded yet, and decoded.
    stored: deque[Batch] = attrs.field(factory=deque)
    read: deque[tuple[int, Message]] = attrs.field(factory=deque)
    over: bool = False


Accepts = Callable[[Message, Destination], bool]


class Browsing:
    """Looking, at all queues and topics."""

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        directory: Directory,
        message: Callable[[Reader, int], Awaitable[Message | None]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._directory = directory
        self._message = message

    async def browse(
        self,
        destination: Destination,
        *,
        states: Collection[State],
        after: int,
        until: int,
        limit: int,
        accepts: Accepts | None,
        history: bool = False,
    ) -> Page:
        """`Broker.browse`. `history`: of a queue, too, the log; and of a log nothing that a replay put in."""
        sources = self._history(destination) if history else self._sources(destination, states)
        size = max(_READ_BYTES // max(len(sources), 1), _LEAST)
        for source in sources:
            await self._begin(source, after, settled=State.DONE in states)
        found: list[Seen] = []
        ahead: list[tuple[int, int, _Source]] = []
        for number, source in enumerate(sources):
            await self._advance(ahead, number, source, after, size)
        examined = taken = 0
        position = after
        while ahead:
            stamp, number, source = heapq.heappop(ahead)
            if until and stamp >= until:
                return Page(found, None)
            seq, message = source.read.popleft()
            examined += 1
            seen = self._seen(source, seq, message)
            if seen is not None and seen.state in states and (accepts is None or accepts(message, seen.source)):
                if len(found) == limit or (found and taken + len(message.body) > MAX_PAGE_BYTES):
                    return Page(found, position)
                found.append(seen)
                taken += len(message.body)
            position = stamp
            await self._advance(ahead, number, source, after, size)
            if examined == MAX_EXAMINED and ahead:
                return Page(found, position)
            if examined % _SLICE == 0:
                await deferLater(self._clock, 0)
        return Page(found, None)

    async def look(self, delivery_id: int) -> Seen:
        """`Broker.look`."""
        located = self._directory.locate(delivery_id)
        message = None
        if located is not None:
            reader, seq = located
            loan = reader.on_loan.get(seq)
            message = loan.message if loan is not None and loan.message is not UNLOADED else None
            message = message or _in_memory(reader, seq) or await self._message(reader, seq)
        if located is None or message is None:
            raise NotFound("message not found")
        return _standing(reader, seq, message)

    # -- parts

    def _history(self, destination: Destination) -> list[_Source]:
        log = self._directory.find_log(destination)
        return [_Source(lane, None, 0) for lane in log.lanes.values() if not lane.run] if log is not None else []

    def _sources(self, destination: Destination, states: Collection[State]) -> list[_Source]:
        if destination.kind is Kind.TOPIC:
            log = self._directory.find_log(destination)
            return [_Source(lane, None, 0) for lane in log.lanes.values()] if log is not None else []
        queue = self._directory.find(destination.name)
        sources = [_Source(reader.lane, reader, 0) for reader in (queue.readers if queue is not None else ())]
        if State.DELAYED in states:
            target = str(destination)
            slots = sorted(self._directory.slots.values(), key=lambda slot: int(slot.name))
            sources += [
                _Source(reader.lane, reader, 0, target)
                for slot in [slot for slot in slots if slot.waiting][:MAX_SLOTS]
                for reader in slot.readers
            ]
        return sources

    async def _begin(self, source: _Source, after: int, settled: bool) -> None:
        reader, lane = source.reader, source.lane
        if not lane.durable:
            assert reader is not None
            source.read.extend((seq, one) for seq, one in all_in_memory(reader) if one.stamp > after)
            source.over = True
            return
        if after:
            source.next = await self._store.seek(lane.id, after + 1)
        if reader is not None and not settled:
            source.next = max(source.next, reader.bits.cursor)

    async def _advance(
        self, ahead: list[tuple[int, int, _Source]], number: int, source: _Source, after: int, size: int
    ) -> None:
        """Put the source's next message where the lowest stamp is taken from."""
        while not source.read and not source.over:
            end = source.lane.next
            if not source.stored and source.next < end:
                source.stored.extend(await self._store.read(source.lane.id, source.next, size))
            if not source.stored:
                source.over = True
                break
            batch = source.stored.popleft()
            for seq, message in enumerate(unpack(batch.count, batch.data), batch.base):
                if source.next <= seq < end and message.stamp > after:
                    source.read.append((seq, message))
            source.next = max(source.next, batch.base + batch.count)
        if source.read:
            heapq.heappush(ahead, (source.read[0][1].stamp, number, source))

    def _seen(self, source: _Source, seq: int, message: Message) -> Seen | None:
        """A message of one of the lanes, as it is at this moment; None: it is not for whoever is looked at."""
        reader, lane = source.reader, source.lane
        if source.target:
            assert reader is not None
            if message.target != source.target or seq in reader.bits:
                return None
            return _standing(reader, seq, message)
        if reader is None:
            return Seen(message, 0, lane.message_id(seq), lane.destination, lane.priority, State.READY)
        return _standing(reader, seq, message) if reader.terms.reads(seq) else None


def _standing(reader: Reader, seq: int, message: Message) -> Seen:
    """Where a message stands for its reader."""
    loan = reader.on_loan.get(seq)
    reason, failed_at = reader.reasons.get(seq, ("", 0))
    state, due = State.READY, 0
    source = reader.lane.destination
    if seq in reader.bits:
        state = State.DONE
    elif source.kind is Kind.SLOT:
        state, due, source = State.DELAYED, due_of(message), named(message.target)
    elif loan is not None:
        state, due = State.DELAYED if loan.delayed else State.ON_LOAN, loan.due
    attempts = loan.attempts if loan is not None else reader.failed.get(seq, 0)
    return Seen(
        message,
        reader.delivery_id(seq),
        reader.message_id(seq),
        source,
        reader.priority_of(seq),
        state,
        attempts,
        due,
        reason,
        failed_at,
        loan if state is State.ON_LOAN else None,
    )


def all_in_memory(reader: Reader) -> list[tuple[int, Message]]:
    """What is not settled of a lane that lives in memory only, in order."""
    found = {seq: loan.message for seq, loan in reader.on_loan.items()}
    for scan in reader.scans:
        found |= {seq: message for seq, message in scan.known() if seq not in reader.bits}
    return sorted(found.items())


def _in_memory(reader: Reader, seq: int) -> Message | None:
    if reader.lane.durable:
        return None
    return dict(all_in_memory(reader)).get(seq)


def reasons(queue: Queue, seen: Seen, now: int) -> Iterable[str]:
    """Why a message is not being delivered at this moment, for people; none: it is about to be."""
    policy, message = queue.policy, seen.message
    if seen.state is State.DONE:
        yield "it is settled"
        return
    if seen.state is State.ON_LOAN:
        yield _loan(seen)
        return
    if seen.state is State.DELAYED:
        held = "held back after a failed delivery" if seen.attempts else "delayed"
        yield f"it is {held} for {max(seen.due - now, 0) // 1000} ms more"
        return
    if policy.paused:
        yield "the queue is paused"
    if queue.blocked:
        yield f"what should leave the queue cannot: {queue.blocked}"
    if queue.stuck:
        yield queue.stuck
    if policy.max_on_loan and queue.on_loan >= policy.max_on_loan:
        yield f"{queue.on_loan} messages of the queue are on loan, its limit (max_on_loan)"
    if policy.rate and queue.rate.resting_until > now:
        yield f"the queue delivers {policy.rate} messages a second (rate)"
    if message.group and queue.groups is not None and queue.groups.busy(message.group):
        yield f"its group {message.group} is busy: another message of it is on loan"
    consumers = list(queue.subscriptions)
    if not consumers:
        yield "nobody asks for messages of the queue"
    elif all(consumer.credit <= 0 for consumer in consumers):
        yield "its consumers have as many unsettled messages as they take"
    elif all(consumer.line is not None and not consumer.line.accepts(message) for consumer in consumers):
        yield "no consumer's selector matches it"


def _loan(seen: Seen) -> str:
    loan = seen.delivery
    if loan is not None and loan.claimed:
        return "it is part of a transaction, or on its way to another queue"
    return "it is on loan, until its lease ends" if seen.due else "it is on loan, until its connection ends"
