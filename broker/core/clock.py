"""The clock: delayed messages, as a log per time slot.

A delayed message is appended to the log of the ten seconds it is due in, like any other message: durable, dense, freed
in whole batches. Shortly before its time a slot's log is read; each message is published to where it was sent, and
settled in its slot, in one unit. Until then its id is the slot's, under which it can be settled: cancelled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.deadlines import LONGEST
from broker.core.destination import named
from broker.core.directory import Directory
from broker.core.journal import Journal
from broker.core.message import Message, unpack
from broker.core.publishing import Publishing
from broker.core.reader import Reader
from broker.core.routing import SLOT_SECONDS
from broker.core.store import IStore
from broker.core.unit import Unit
from broker.errors import BrokerError

#: Seconds before its first due time at which a slot is read.
_AHEAD = 1.0
#: Bytes of delayed messages kept in memory; those beyond are read again, one by one, when they are due.
_MEMORY = 16 * 1024 * 1024
#: How exact it is (us): no message is early, and none later than this for want of trying.
_STEP = 10_000
#: Messages released in one reactor turn.
_MAX_PER_TURN = 500
#: Seconds until what could not be released is tried again.
_RETRY_AFTER = 1.0
_READ_BYTES = 256 * 1024


@attrs.define(eq=False)
class _Slot:
    """A slot that was opened: everything below `loaded` is in the heap, or was settled."""

    reader: Reader
    loaded: int
    loading: bool = False


class Delays:
    """Publishes delayed messages when they are due, to 100 ms or better."""

    _log = Logger()

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        now: Callable[[], int],
        directory: Directory,
        journal: Journal,
        publishing: Publishing,
    ) -> None:
        self._store = store
        self._clock = clock
        self._now = now
        self._directory = directory
        self._journal = journal
        self._publishing = publishing
        self._open: dict[Reader, _Slot] = {}
        #: Slots not opened yet, by their first due time (us).
        self._ahead: list[tuple[int, int, Reader]] = []
        self._known: set[Reader] = set()
        #: What is due when: (us, a number that tells equals apart, reader, number, message or None: not in memory).
        self._heap: list[tuple[int, int, Reader, int, Message | None]] = []
        self._pushed = 0
        self._bytes = 0
        self._alarm: IDelayedCall | None = None
        self._stopped = False
        publishing.delayed = self._stored

    @property
    def waiting(self) -> int:
        """Delayed messages that are not due yet."""
        return sum(reader.waiting for reader in self._known)

    def start(self) -> None:
        """Take up what waits since an earlier run."""
        for slot in self._directory.slots.values():
            for reader in slot.readers:
                self._see(reader)
        self._set_alarm()

    def stop(self) -> None:
        """Release nothing more."""
        self._stopped = True
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()

    def _see(self, reader: Reader) -> None:
        if reader not in self._known:
            self._known.add(reader)
            first = int(reader.lane.destination.name) * SLOT_SECONDS * 1_000_000
            heapq.heappush(self._ahead, (first - int(_AHEAD * 1e6), reader.id, reader))

    def _stored(self, reader: Reader, seq: int, message: Message) -> None:
        """A delayed message is on disk."""
        self._see(reader)
        slot = self._open.get(reader)
        if slot is not None and not slot.loading and slot.loaded == seq:
            slot.loaded = seq + 1
            self._add(reader, seq, message)
        self._set_alarm()

    def _add(self, reader: Reader, seq: int, message: Message) -> None:
        due = due_of(message)
        kept = message if self._bytes + message.size <= _MEMORY else None
        self._bytes += message.size if kept is not None else 0
        self._push(due, reader, seq, kept)

    def _push(self, due: int, reader: Reader, seq: int, message: Message | None) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (due, self._pushed, reader, seq, message))

    def _set_alarm(self) -> None:
        moments = [heap[0][0] for heap in (self._ahead, self._heap) if heap]
        now = self._now()
        moments += [max(_end(reader), now + int(_RETRY_AFTER * 1e6)) for reader in self._open]
        if not moments or self._stopped:
            return
        # Rounded up, so that messages due within one step are released together.
        wait = min(max(-((now - min(moments)) // _STEP) * _STEP, 0) / 1e6, LONGEST)
        if self._alarm is not None and self._alarm.active():
            self._alarm.reset(wait)
        else:
            self._alarm = self._clock.callLater(wait, self._ring)

    def _ring(self) -> None:
        now = self._now()
        while self._ahead and self._ahead[0][0] <= now:
            reader = heapq.heappop(self._ahead)[2]
            slot = self._open[reader] = _Slot(reader, reader.bits.cursor, loading=True)
            _ = Deferred.fromCoroutine(self._load(slot)).addErrback(
                lambda failure: self._log.failure("while reading delayed messages", failure)
            )
        for _ in range(_MAX_PER_TURN):
            if not self._heap or self._heap[0][0] > now:
                break
            _due, _number, reader, seq, message = heapq.heappop(self._heap)
            if seq in reader.bits:
                self._settled(reader, message)
            elif message is None:
                _ = Deferred.fromCoroutine(self._fetch(reader, seq)).addErrback(
                    lambda failure: self._log.failure("while reading a delayed message", failure)
                )
            else:
                self._release(reader, seq, message)
        for reader in [reader for reader in self._open if _end(reader) <= now]:
            self._drop_if_over(reader)
        self._set_alarm()

    async def _load(self, slot: _Slot) -> None:
        """Read what is in a slot's log; what is published to it meanwhile comes at the end."""
        reader, lane = slot.reader, slot.reader.lane
        while slot.loaded < lane.next and not self._stopped:
            try:
                batches = await self._store.read(lane.id, slot.loaded, _READ_BYTES)
            except BrokerError as error:
                self._log.error("cannot read delayed messages: {reason}", reason=error.reason)
                del self._open[reader]
                heapq.heappush(self._ahead, (self._now() + int(_RETRY_AFTER * 1e6), reader.id, reader))
                break
            for batch in batches:
                for seq, message in enumerate(unpack(batch.count, batch.data), batch.base):
                    if seq >= slot.loaded and seq not in reader.bits:
                        self._add(reader, seq, message)
                slot.loaded = max(slot.loaded, batch.base + batch.count)
            if not batches:
                slot.loaded = lane.next
        slot.loading = False
        self._drop_if_over(reader)
        self._set_alarm()

    async def _fetch(self, reader: Reader, seq: int) -> None:
        try:
            batches = await self._store.read(reader.lane.id, seq, 1)
        except BrokerError:
            self._again(reader, seq, None)
            return
        if batches and batches[0].base <= seq and seq not in reader.bits:
            self._release(reader, seq, unpack(batches[0].count, batches[0].data)[seq - batches[0].base])

    def _release(self, reader: Reader, seq: int, message: Message) -> None:
        """Publish a message that is due, and settle it in its slot, in one unit."""
        destination = named(message.target)
        due = self._publishing.accept(destination, msgspec.structs.replace(message, delay=0, target=""))
        route = self._publishing.routing.route(destination, due, taken=message.stamp)
        appends = [route.append] if route.append is not None else []
        unit = Unit(appends, due.size, settles=[(reader, seq), *route.settles])

        def ended(committed: bool) -> None:
            self._publishing.ended(route, committed)
            if committed:
                reader.settle(seq)
                self._settled(reader, message)
            else:
                self._again(reader, seq, message)

        unit.ended = ended
        _ = self._journal.append(unit).addCallbacks(
            lambda numbers: self._publishing.told(route, *numbers[:1]),
            lambda _: None,  # `ended` sees to a failure
        )

    def _again(self, reader: Reader, seq: int, message: Message | None) -> None:
        self._push(self._now() + int(_RETRY_AFTER * 1e6), reader, seq, message)
        self._set_alarm()

    def _settled(self, reader: Reader, message: Message | None) -> None:
        if message is not None:
            self._bytes -= message.size
        self._drop_if_over(reader)

    def _drop_if_over(self, reader: Reader) -> None:
        """Forget a slot whose time is over and whose messages are all settled."""
        slot = self._open.get(reader)
        if slot is None or slot.loading or self._now() < _end(reader):
            return
        if not reader.waiting and not reader.queue.room.incoming:
            del self._open[reader]
            self._known.discard(reader)
            self._directory.drop(reader.queue)
            _ = self._journal.durable().addErrback(lambda _: None)  # if not now, a later run drops it


def due_of(message: Message) -> int:
    """When a delayed message may be delivered (us)."""
    return message.stamp + message.delay * 1000


def _end(reader: Reader) -> int:
    """When a slot's time is over (us). A second later, so that what is on its way to it has come."""
    return ((int(reader.lane.destination.name) + 1) * SLOT_SECONDS + 1) * 1_000_000
