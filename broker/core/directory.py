"""What exists: logs, lanes, queues, readers, bindings; and the definitions of it that are not on disk yet.

A thing exists in memory as soon as it is wanted, and on disk with the first commit after it has something to keep.
Definitions are facts apart from any request: when a commit fails, they ride in the next one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import attrs

from broker.core.binding import Binding
from broker.core.destination import Destination, Kind
from broker.core.filter import compile_filter
from broker.core.message import OVERHEAD, Message
from broker.core.policy import BindingPolicy, Policies
from broker.core.queue import Queue
from broker.core.reader import SEQ_BITS, Lane, Reader
from broker.core.store import (
    DefineBinding,
    DefineDestination,
    DefineLane,
    DefineReader,
    Definition,
    DropQueue,
    EndBinding,
    Inventory,
)
from broker.core.window import Budget
from broker.errors import BadValue

#: Bindings with a filter that one destination may have: each is asked about every message published to it.
MAX_FILTERS = 100
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
    lanes: dict[int, Lane] = attrs.field(factory=dict)
    bound: dict[Queue, Binding] = attrs.field(factory=dict)


class Directory:
    """Everything by its name and by its id."""

    def __init__(self, policies: Policies, budget: Budget) -> None:
        self.logs: dict[Destination, Log] = {}
        self.queues: dict[str, Queue] = {}
        #: The readers of delayed messages, each the queue of its own slot.
        self.slots: dict[str, Queue] = {}
        self.readers: dict[int, Reader] = {}
        self.policies = policies
        self._budget = budget
        #: Lanes in memory only that were made so far; their readers have the highest ids.
        self._volatile = 0
        self._ids = {"destination": 0, "lane": 0, "reader": 0, "binding": 0}
        self._pending: list[Definition | Callable[[], list[Definition]]] = []
        self._ending: list[Callable[[dict[int, int]], list[Definition]]] = []

    # -- finding and making

    def log(self, destination: Destination) -> Log:
        """The log of `destination`, made if it is not there."""
        log = self.logs.get(destination)
        if log is None:
            log = self.logs[destination] = Log(destination)
        return log

    def queue(self, name: str) -> Queue:
        """The queue called `name`, made in memory if it is not there."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, Destination(Kind.QUEUE, name), self.policies.of(name))
            queue.id = self.log(queue.destination).id
        return queue

    def _own(self, destination: Destination) -> Queue:
        """The queue whose own log `destination` is."""
        if destination.kind is Kind.QUEUE:
            return self.queue(destination.name)
        slot = self.slots.get(destination.name)
        if slot is None:
            slot = self.slots[destination.name] = Queue(destination.name, destination, self.policies.default)
            slot.id = self.log(destination).id
        return slot

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

    def lane(self, log: Log, priority: int) -> Lane:
        """The lane of `log` for `priority`, made if it is not there."""
        lane = log.lanes.get(priority)
        if lane is not None:
            return lane
        if len(log.lanes) >= MAX_LANES:
            return log.lanes[_nearest(sorted(log.lanes), priority)]
        self._define(log)
        lane = log.lanes[priority] = Lane(self._next("lane"), log.destination, priority)
        self._pending.append(DefineLane(lane.id, log.id, priority))
        if log.destination.kind is not Kind.TOPIC:
            self._read(self._own(log.destination), lane)
        for binding in log.bound.values():
            self._read(binding.queue, lane).terms.begin(0, binding.policy)
        return lane

    def bind(self, queue: Queue, source: Destination, policy: BindingPolicy, match: str) -> bool:
        """`queue` reads what matches of `source` from the next commit on; False if it does so already.

        `BadFilter` for a `match` that cannot be compiled, `BadValue` when too many queues read `source`.
        """
        filter_ = compile_filter(match) if match else None
        log = self.log(source)
        old = log.bound.get(queue)
        if old is not None and old.same(policy, match):
            return False
        if filter_ is not None and sum(b.filter is not None for b in log.bound.values()) >= MAX_FILTERS:
            raise BadValue(f"{source} has {MAX_FILTERS} bindings with a filter, the most there may be")
        self._define(log)
        self._define(self.log(queue.destination))
        binding = Binding(self._next("binding"), queue, source, policy, filter_)
        log.bound[queue] = queue.bindings[source] = binding

        def begin() -> list[Definition]:
            if self.queues.get(queue.name) is not queue:
                return []  # deleted meanwhile
            start = {}
            for lane in log.lanes.values():
                reader = next((r for r in lane.readers if r.queue is queue), None) or self._read(queue, lane)
                reader.terms.begin(lane.next, policy)
                start[lane.id] = lane.next
            language = "match" if match else ""
            return [DefineBinding(binding.id, queue.id, log.id, start, policy, language, match)]

        self._pending.append(begin)
        return True

    def unbind(self, queue: Queue, source: Destination) -> bool:
        """`queue` reads nothing more of `source` after the next commit; False if it did not.

        What was published before this call, and rides in that commit, it still gets.
        """
        binding = queue.bindings.pop(source, None)
        if binding is None:
            return False
        log = self.log(source)
        del log.bound[queue]

        def end(ends: dict[int, int]) -> list[Definition]:
            if queue in log.bound or self.queues.get(queue.name) is not queue:
                return []  # bound again, or deleted, before this was committed
            until = {}
            for lane in log.lanes.values():
                for reader in lane.readers:
                    if reader.queue is queue:
                        until[lane.id] = ends.get(lane.id, lane.next)
                        reader.terms.end(until[lane.id])
            return [EndBinding(binding.id, until)]

        self._ending.append(end)
        return True

    def drop(self, queue: Queue) -> None:
        """`queue` is gone, with its log unless others read it, and its bindings."""
        for source in list(queue.bindings):
            del self.log(source).bound[queue], queue.bindings[source]
        for reader in queue.readers:
            reader.window.clear(0)
            reader.lane.readers.remove(reader)
            del self.readers[reader.id]
        queue.readers = []
        del (self.slots if queue.destination.kind is Kind.SLOT else self.queues)[queue.name]
        log = self.log(queue.destination)
        if not log.bound:
            for lane in log.lanes.values():
                lane.gone = True
            del self.logs[queue.destination]
        if log.id:
            self._pending.append(DropQueue(log.id))

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

    # -- the disk's side

    @property
    def pending(self) -> bool:
        """True while there is something to define."""
        return bool(self._pending or self._ending)

    @property
    def ending(self) -> bool:
        """True while a binding is to end."""
        return bool(self._ending)

    def take_definitions(self) -> list[Definition]:
        """What the group that closes now defines; numbers of lanes are those before the group's own messages."""
        taken: list[Definition] = []
        pending, self._pending = self._pending, []
        for entry in pending:
            if callable(entry):
                last = entry()  # it may have made readers, which are pending now
                made, self._pending = self._pending, []
                taken += [definition for definition in made if not callable(definition)]
                taken += last
            else:
                taken.append(entry)
        return taken

    def take_ends(self, ends: dict[int, int]) -> list[Definition]:
        """What the group that closes now ends; `ends` are its lanes' numbers after its own messages."""
        ending, self._ending = self._ending, []
        return [definition for end in ending for definition in end(ends)]

    def put_back(self, definitions: list[Definition]) -> None:
        """The group was not committed: they ride in the next one."""
        self._pending[:0] = definitions

    def restore(self, inventory: Inventory) -> None:
        """Become what the store holds."""
        self._ids |= inventory.last_ids
        by_id: dict[int, Log] = {}
        lanes: dict[int, Lane] = {}
        for known in inventory.destinations:
            log = by_id[known.id] = self.log(Destination(known.kind, known.name))
            log.id = known.id
            if known.kind is not Kind.TOPIC:
                self._own(log.destination).id = known.id
        for stored in inventory.lanes:
            log = by_id[stored.destination]
            lane = lanes[stored.id] = Lane(stored.id, log.destination, stored.priority, stored.next)
            if stored.run == 0:
                log.lanes[stored.priority] = lane
        for state in inventory.readers:
            queue = self._own(by_id[state.queue].destination)
            reader = self._attach(state.id, queue, lanes[state.lane], state.cursor)
            for low, high in state.settled:
                reader.bits.add_range(low, high)
            reader.reserved = reader.claiming = state.reserved
            reader.crashed_below = reader.delivered = min(state.reserved, reader.lane.next)
            reader.failed = {seq: failure.attempts for seq, failure in state.failures.items()}
            reader.bytes = reader.waiting * OVERHEAD
        for stored_binding in inventory.bindings:
            define, until = stored_binding.define, stored_binding.until
            queue, log = self.queue(by_id[define.queue].destination.name), by_id[define.source]
            if until is None:
                log.bound[queue] = queue.bindings[log.destination] = Binding(
                    define.id,
                    queue,
                    log.destination,
                    define.policy,
                    compile_filter(define.filter_text) if define.filter_text else None,
                )
            for lane in log.lanes.values():
                for reader in lane.readers:
                    if reader.queue is queue:
                        reader.terms.begin(define.start.get(lane.id, 0), define.policy)
                        if until is not None:
                            reader.terms.end(until.get(lane.id, 0))

    # -- parts

    def _next(self, sort: str) -> int:
        self._ids[sort] += 1
        return self._ids[sort]

    def _define(self, log: Log) -> None:
        if not log.id:
            log.id = self._next("destination")
            self._pending.append(DefineDestination(log.id, log.destination.kind, log.destination.name))
            if log.destination.kind is not Kind.TOPIC:
                self._own(log.destination).id = log.id

    def _read(self, queue: Queue, lane: Lane) -> Reader:
        """A new reader, from what comes next on."""
        self._define(self.log(queue.destination))
        reader = self._attach(self._next("reader"), queue, lane, lane.next)
        self._pending.append(DefineReader(reader.id, queue.id, lane.id, lane.next))
        return reader

    def _attach(self, id: int, queue: Queue, lane: Lane, cursor: int) -> Reader:
        """The one place where a reader comes to be; two of one queue on one lane would deliver everything twice."""
        if any(reader.queue is queue for reader in lane.readers):
            raise AssertionError(f"queue {queue.name!r} reads lane {lane.id} already")
        reader = self.readers[id] = Reader(id, queue, lane, self._budget, cursor)
        lane.readers.append(reader)
        queue.readers.append(reader)
        return reader

    def locate(self, delivery_id: int) -> tuple[Reader, int] | None:
        """The reader and the number a delivery id names; None if no such message is waiting or on loan."""
        reader, seq = self.readers.get(delivery_id >> SEQ_BITS), (delivery_id & ((1 << SEQ_BITS) - 1)) - 1
        if reader is None or not 0 <= seq < reader.lane.next or seq in reader.bits:
            return None
        return reader, seq


def _nearest(priorities: list[int], wanted: int) -> int:
    place = bisect_left(priorities, wanted)
    return min(priorities[max(place - 1, 0) : place + 1], key=lambda priority: abs(priority - wanted))
