"""What exists: logs, lanes, queues, readers, bindings; those in memory, and those at rest.

A thing exists in memory as soon as it is wanted, and on disk with the first commit after it has something to keep.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache

import attrs

from broker.core.aliases import Aliases
from broker.core.binding import Binding, named_source
from broker.core.bindings import Bindings
from broker.core.definitions import Definitions
from broker.core.destination import Destination, Kind
from broker.core.dormant import AtRest, Dormant, at_rest, bytes_of, size_of, state_of
from broker.core.message import OVERHEAD, Message
from broker.core.patterns import is_pattern
from broker.core.policy import Policies
from broker.core.queue import Queue
from broker.core.ration import Ration
from broker.core.reader import SEQ_BITS, Lane, Reader
from broker.core.store import DefineDestination, DefineLane, DefineReader, DropQueue, Inventory
from broker.core.window import Budget

#: Reader ids below it fit in a delivery id that JSON carries.
MAX_READERS = 1 << 20
#: A mark no number reaches: nothing needs to be reserved where nothing is stored.
_UNRESERVED = 1 << 62
#: Distinct priorities of a destination; a further one takes the nearest that is there.
MAX_LANES = 256


@attrs.define(eq=False)
class Log:
    """A destination's log: its lanes, and the queues that read them."""

    destination: Destination
    #: 0 until it is defined.
    id: int = 0
    #: By priority and run.
    lanes: dict[tuple[int, int], Lane] = attrs.field(factory=dict)
    bound: dict[Queue, Binding] = attrs.field(factory=dict)
    #: Its queue was deleted while others read it: used again, that queue reads it from then on.
    ownerless: bool = False


class Directory:
    """Everything by its name and by its id."""

    def __init__(self, policies: Policies, budget: Budget) -> None:
        self.logs: dict[Destination, Log] = {}
        #: Those in memory; `find` knows those at rest, too.
        self.queues: dict[str, Queue] = {}
        self.dormant = Dormant()
        self.definitions = Definitions()
        #: Called with a queue that is in memory from now on, and with one that somebody speaks of by an id.
        self.woken: Callable[[Queue], None] = lambda queue: None
        #: Called with a reader that has come to be, if anybody wants to know.
        self.attached: Callable[[Reader], None] | None = None
        #: True after two crashes in a row: see `Queue.cautious`.
        self.cautious = False
        #: The readers of delayed messages, each the queue of its own slot.
        self.slots: dict[str, Queue] = {}
        #: The readers of what replays have done, each the queue of its own record.
        self.replays: dict[str, Queue] = {}
        #: Those of the queues in memory.
        self.readers: dict[int, Reader] = {}
        self.follow(policies)
        self.bindings = Bindings(self)
        #: The memory that all windows share.
        self.budget = budget
        #: What all queues together may look at in vain in one reactor turn.
        self.ration = Ration()
        #: Lanes in memory only that were made so far; their readers have the highest ids.
        self._volatile = 0

    def follow(self, policies: Policies) -> None:
        """From now on these policies hold for whatever comes to be, and these aliases."""
        self.policies = policies
        self.topic_policy = lru_cache(maxsize=1_000)(policies.of_topic)
        self.aliases = Aliases(policies.aliases)

    # -- finding and making

    def masked(self) -> list[str]:
        """The queues that nobody can reach, because an alias has their name."""
        return sorted(name for name in self.aliases.names if (queue := self.find(name)) is not None and queue.id)

    def names(self) -> list[str]:
        """The names of all queues."""
        return [*self.queues, *self.dormant.names()]

    def exists(self, name: str) -> bool:
        """True if there is such a queue."""
        return name in self.queues or name in self.dormant

    def find(self, name: str) -> Queue | None:
        """The queue called `name`; None if there is none."""
        queue = self.queues.get(name)
        return queue if queue is not None else self._wake(name)

    def find_log(self, destination: Destination) -> Log | None:
        """The log of `destination`; None if it has none."""
        if destination.kind is Kind.QUEUE:
            self._wake(destination.name)
        return self.logs.get(destination)

    def log(self, destination: Destination) -> Log:
        """The log of `destination`, made if it is not there."""
        log = self.logs.get(destination)
        if log is None:
            log = self.find_log(destination)
        if log is None:
            log = self.logs[destination] = Log(destination)
        return log

    def queue(self, name: str) -> Queue:
        """The queue called `name`, made in memory if it is not there."""
        queue = self.find(name)
        if queue is None:
            queue = self.queues[name] = Queue(
                name, Destination(Kind.QUEUE, name), self.policies.of(name), ration=self.ration
            )
            log = self.logs.get(queue.destination)
            queue.id = log.id if log is not None else 0
            self.woken(queue)
        return queue

    def _own(self, destination: Destination) -> Queue:
        """The queue whose own log `destination` is."""
        if destination.kind is Kind.QUEUE:
            return self.queue(destination.name)
        own = self._of_kind(destination.kind)
        queue = own.get(destination.name)
        if queue is None:
            queue = own[destination.name] = Queue(
                destination.name, destination, self.policies.default, ration=self.ration
            )
            queue.id = self.log(destination).id
        return queue

    def _of_kind(self, kind: Kind) -> dict[str, Queue]:
        """The queues whose own logs are of this kind."""
        return self.slots if kind is Kind.SLOT else self.replays if kind is Kind.REPLAY else self.queues

    def keep(self, queue: Queue, message: Message) -> tuple[Reader, int]:
        """Put a message at the end of what `queue` keeps in memory only; the reader there, and its number."""
        reader = next((r for r in queue.readers if not r.lane.durable and r.lane.priority == message.priority), None)
        if reader is None:
            self._volatile += 1
            lane = Lane(self._volatile, queue.destination, message.priority, durable=False)
            reader = self._attach(MAX_READERS - self._volatile, queue, lane, 0)
            reader.reserved = reader.claiming = _UNRESERVED
        lane, seq = reader.lane, reader.lane.next
        lane.next += 1
        reader.bytes += message.size
        reader.appended(seq, [message], message.size, 0)
        queue.counts.published += 1
        return reader, seq

    def volatile(self) -> list[Queue]:
        """The queues that keep something in memory only."""
        ids = range(MAX_READERS - self._volatile, MAX_READERS)
        return [reader.queue for reader in map(self.readers.get, ids) if reader is not None and reader.waiting]

    def lane(self, log: Log, priority: int, run: int = 0) -> Lane:
        """The lane of `log` for `priority` and `run`, made if it is not there."""
        if log.ownerless:
            self._own_again(log)
        lane = log.lanes.get((priority, run))
        if lane is not None:
            return lane
        if len(log.lanes) >= MAX_LANES:
            there = sorted(known for known, its in log.lanes if its == run)
            if len(there) >= MAX_LANES:
                return log.lanes[_nearest(there, priority), run]
        self.define(log)
        lane = Lane(self.definitions.next_id("lane"), log.destination, priority, run=run)
        log.lanes[priority, run] = lane
        self.definitions.add(DefineLane(lane.id, log.id, priority, run))
        if log.destination.kind is not Kind.TOPIC:
            self.read(self._own(log.destination), lane, 0)
        for binding in log.bound.values():
            reader = self.read(binding.queue, lane, 0)
            reader.terms.begin(0, binding.policy)
            reader.follows = binding.follows
        lane.link()
        return lane

    def topics(self) -> list[Log]:
        """The topics that have a log, or are bound to; not their patterns."""
        return [
            log
            for destination, log in self.logs.items()
            if log.id and destination.kind is Kind.TOPIC and not is_pattern(destination.name)
        ]

    def drop(self, queue: Queue) -> None:
        """`queue` is gone, with its log unless others read it, and its bindings."""
        self.bindings.drop(queue)
        for reader in queue.readers:
            reader.window.clear(0)
            reader.lane.readers.remove(reader)
            reader.lane.link()
            del self.readers[reader.id]
        queue.readers = []
        del self._of_kind(queue.destination.kind)[queue.name]
        log = self.log(queue.destination)
        log.ownerless = True
        if not log.bound:
            for lane in log.lanes.values():
                lane.gone = True
            del self.logs[queue.destination]
        if log.id:
            self.definitions.add(DropQueue(log.id))

    def connected(self, queue: Queue) -> bool:
        """True if it is bound to something, or something to it."""
        log = self.logs.get(queue.destination)
        return bool(queue.bindings or (log is not None and log.bound))

    def forget(self, queue: Queue) -> None:
        """Drop what is only in memory, if there is nothing to keep of it."""
        if self.queues.get(queue.name) is not queue:
            return  # forgotten already, and made anew since
        log = self.logs.get(queue.destination)
        if not queue.id and not queue.readers and not queue.bindings and (log is None or not log.id):
            self.queues.pop(queue.name, None)
            if log is not None and not log.bound:
                del self.logs[queue.destination]

    # -- defining

    def define(self, log: Log) -> None:
        """`log` is there from now on, also when the broker starts anew."""
        if log.id:
            return
        log.id = self.definitions.next_id("destination")
        self.definitions.add(DefineDestination(log.id, log.destination.kind, log.destination.name))
        if log.destination.kind is not Kind.TOPIC:
            self._own(log.destination).id = log.id
        self.bindings.defined(log)

    def use(self, queue: Queue) -> bool:
        """A queue is read or looked into; True if that is what makes it one that reads more than its own log."""
        if queue.id or named_source(queue.name) is None:
            return False
        self.define(self.log(queue.destination))
        return True

    def read(self, queue: Queue, lane: Lane, cursor: int) -> Reader:
        """A new reader, from number `cursor` on."""
        self.define(self.log(queue.destination))
        reader = self._attach(self.definitions.next_id("reader"), queue, lane, cursor)
        reader.bytes = reader.waiting * OVERHEAD
        self.definitions.add(DefineReader(reader.id, queue.id, lane.id, cursor))
        return reader

    # -- the disk's side

    def restore(self, inventory: Inventory) -> None:
        """Become what the store holds."""
        self.definitions.restore(inventory.last_ids)
        by_id: dict[int, Log] = {}
        lanes: dict[int, Lane] = {}
        sizes: dict[int, int] = {}
        resting = self._restore_resting(inventory)
        for known in inventory.destinations:
            if resting[known.id]:
                continue
            log = by_id[known.id] = self.log(Destination(known.kind, known.name))
            log.id = known.id
            if known.kind is not Kind.TOPIC:
                self._own(log.destination).id = known.id
        for stored in inventory.lanes:
            if resting[stored.destination]:
                continue
            log = by_id[stored.destination]
            lane = lanes[stored.id] = Lane(
                stored.id, log.destination, stored.priority, stored.next, stored.run, expiring=-1
            )
            sizes[stored.id] = size_of(stored)
            log.lanes[stored.priority, stored.run] = lane
        for state in inventory.readers:
            if resting[state.queue]:
                continue
            queue = self._own(by_id[state.queue].destination)
            reader = self._attach(state.id, queue, lanes[state.lane], state.cursor)
            for low, high in state.settled:
                reader.bits.add_range(low, high)
            reader.reserved = reader.claiming = state.reserved
            reader.crashed_below = reader.delivered = min(state.reserved, reader.lane.next)
            reader.failed = {seq: failure.attempts for seq, failure in state.failures.items()}
            reader.bytes = bytes_of(reader.waiting, sizes.get(state.lane, 0))
        self.bindings.restore(inventory.bindings, by_id)
        for log in by_id.values():
            if log.destination.kind is Kind.QUEUE:
                own = self._own(log.destination)
                log.ownerless = bool(log.lanes) and not any(
                    reader.queue is own for lane in log.lanes.values() for reader in lane.readers
                )

    # -- queues at rest

    def _restore_resting(self, inventory: Inventory) -> bytearray:
        """Take up what may be at rest; by the id of a destination, whether it is."""
        tended = self.policies.speaks_of("max_idle", "retain", "retain_bytes")
        resting = bytearray(1 + max((one.id for one in inventory.destinations), default=0))
        for name, state in at_rest(inventory):
            if not (tended and self.policies.of(name).tended):
                self.dormant.add(name, state)
                resting[state.queue] = True
        return resting

    def rest(self, queue: Queue) -> bool:
        """Keep no more of a queue in memory than must be, if it is at rest; False if it is not."""
        if self.queues.get(queue.name) is not queue:
            return True
        state = self._state_of(queue)
        if state is None:
            return False
        (reader,) = queue.readers
        del self.queues[queue.name], self.logs[queue.destination], self.readers[reader.id]
        queue.readers, reader.lane.readers = [], []
        self.dormant.add(queue.name, state, queue.counts)
        return True

    def wake_reserved(self) -> None:
        """Wake those that have more reserved than was delivered."""
        for name in self.dormant.reserved():
            self._wake(name)

    def _state_of(self, queue: Queue) -> AtRest | None:
        log = self.logs.get(queue.destination)
        if log is None or not log.id or log.ownerless or log.bound or len(log.lanes) != 1 or not queue.at_rest:
            return None
        reader = queue.readers[0]
        lane = reader.lane
        if log.lanes.get((lane.priority, 0)) is not lane or len(lane.readers) != 1:
            return None
        if lane.keep >= 0 or not reader.at_rest:
            return None
        return state_of(reader)

    def _wake(self, name: str) -> Queue | None:
        found = self.dormant.pop(name)
        if found is None:
            return None
        state, counts = found
        destination = Destination(Kind.QUEUE, name)
        lane = Lane(state.lane, destination, state.priority, state.next, expiring=state.expiring)
        self.logs[destination] = Log(destination, state.queue, {(state.priority, 0): lane})
        queue = self.queues[name] = Queue(name, destination, self.policies.of(name), state.queue, ration=self.ration)
        queue.counts, queue.last_age, queue.cautious = counts, state.last_age, self.cautious
        reader = self._attach(state.reader, queue, lane, state.cursor)
        reader.reserved = reader.claiming = state.reserved
        reader.delivered, reader.crashed_below = state.delivered, state.crashed_below
        reader.bytes, reader.since = state.bytes, state.since
        self.woken(queue)
        return queue

    # -- parts

    def _own_again(self, log: Log) -> None:
        """A queue that was deleted is used again: it reads what is published to it from now on."""
        log.ownerless = False
        for lane in log.lanes.values():
            self.read(self._own(log.destination), lane, lane.next)
            lane.link()

    def _attach(self, id: int, queue: Queue, lane: Lane, cursor: int) -> Reader:
        """The one place where a reader comes to be; two of one queue on one lane would deliver everything twice."""
        if any(reader.queue is queue for reader in lane.readers):
            raise AssertionError(f"queue {queue.name!r} reads lane {lane.id} already")
        reader = self.readers[id] = Reader(id, queue, lane, self.budget, cursor)
        lane.readers.append(reader)
        queue.readers.append(reader)
        if self.attached is not None:
            self.attached(reader)
        return reader

    def locate(self, delivery_id: int) -> tuple[Reader, int] | None:
        """The reader and the number a delivery id names; None if no such message is waiting or on loan."""
        id, seq = delivery_id >> SEQ_BITS, (delivery_id & ((1 << SEQ_BITS) - 1)) - 1
        if (name := self.dormant.name_of(id)) is not None:
            self._wake(name)
        reader = self.readers.get(id)
        if reader is not None:
            self.woken(reader.queue)
        if reader is None or not 0 <= seq < reader.lane.next or seq in reader.bits:
            return None
        return reader, seq


def _nearest(priorities: list[int], wanted: int) -> int:
    place = bisect_left(priorities, wanted)
    return min(priorities[max(place - 1, 0) : place + 1], key=lambda priority: abs(priority - wanted))
