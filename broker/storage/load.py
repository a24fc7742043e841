"""Lines of a dump into a data file, new or not: in groups of bounded size, with new ids and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs
import msgspec

from broker.core import destination as destinations
from broker.core.destination import Kind
from broker.core.policy import BindingPolicy
from broker.core.store import (
    DefineBinding,
    DefineDestination,
    DefineLane,
    DefineReader,
    EndBinding,
    Failure,
    Group,
    PublishKey,
)
from broker.errors import BrokerError
from broker.storage.dump import FORMAT, Begin, Binding, Destination, End, Entry, Key, Line, Log, Place, from_entry
from broker.storage.offline import Offline

#: What a group holds before it is committed, as counted in memory.
GROUP_BYTES: Final = 4 * 1024 * 1024
GROUP_DEFINITIONS: Final = 4096
#: Bytes of a line: SQLite holds no larger value.
MAX_LINE: Final = 1_000_000_000

_decode = msgspec.json.Decoder(Line).decode


class BadDump(BrokerError):
    """What is read is not a dump; the line is named."""


@attrs.define(eq=False)
class _Log:
    """A lane while it is loaded."""

    id: int
    next: int
    #: Its readers by the queue's name, and those that the dump does not know.
    readers: dict[str, int]
    others: list[int]
    #: Places in it that are asked for, by their stamp, and what was found.
    wanted: list[int]
    found: dict[int, int]
    #: Nothing from there on may go; None: nothing is retained.
    keep: int | None
    #: The last message's.
    stamp: int = 0


class Load:
    """Takes the lines of one dump."""

    def __init__(self, store: Offline, told: Callable[[int], None] = lambda messages: None) -> None:
        self._store = store
        self._ledger = store.ledger
        self._told = told
        self._ids = dict(store.ledger.last_ids)
        self._by_name = {f"/{one.kind.value}/{one.name}": one.id for one in store.ledger.destinations.values()}
        self._bindings: list[Binding] = []
        self._logs: dict[tuple[str, int, int], _Log] = {}
        self._log: _Log | None = None
        self._slot = False
        #: The destinations that were there before, and whether what is loaded is what a replay has done elsewhere.
        self._there = set(self._by_name)
        self._elsewhere = False
        self._group = Group()
        self._size = 0
        self._shift = 0
        self._begun = self._ended = False
        self.messages = 0

    def take(self, lines: Iterable[bytes]) -> None:
        """Load everything; raises `BadDump`, after which the file holds a part of it."""
        number = 0
        for number, text in enumerate(lines, 1):
            if len(text) > MAX_LINE:
                raise BadDump(f"line {number}: it is too long")
            try:
                self._take(_decode(text))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise BadDump(f"line {number}: {error}") from error
            except BrokerError as error:
                raise BadDump(f"line {number}: {error.reason}") from error
        if not self._ended:
            raise BadDump(f"line {number + 1}: the last line is missing; the dump is not whole")
        self._define_bindings()

    def _take(self, line: Line) -> None:
        if self._ended or self._begun is isinstance(line, Begin):
            raise BadDump("a dump starts with one line of type begin and stops with one of type end")
        match line:
            case Begin():
                self._begin(line)
            case Destination():
                self._define(destinations.Destination(_kind(line.kind), destinations.check_name(line.name)))
            case Binding():
                for name in (line.queue, line.source):
                    self._known(name)
                self._bindings.append(line)
            case Log():
                self._begin_log(line)
            case Entry():
                self._message(line)
            case Key(key=key, until=until):
                if self._log is None:
                    raise BadDump("a key comes before the line of its log")
                self._group.keys.append(PublishKey(self._log.id, -1, key, until))
                self._size += len(key)
                self._commit_if_full()
            case End(messages=messages):
                self._ended = True
                if messages != self.messages:
                    raise BadDump(f"there were {self.messages} messages, not {messages} as it says")

    def _begin(self, line: Begin) -> None:
        if line.format != FORMAT:
            raise BadDump(f"it is of format {line.format}, this broker reads {FORMAT}")
        self._begun = True
        # What is loaded comes after what is there: the stamps of a log only increase.
        if line.first_stamp and line.first_stamp <= self._ledger.last_stamp:
            self._shift = self._ledger.last_stamp + 1 - line.first_stamp
        self._group.last_stamp = max(self._ledger.last_stamp, line.last_stamp + self._shift)

    # -- definitions

    def _new(self, sort: str) -> int:
        self._ids[sort] += 1
        return self._ids[sort]

    def _define(self, destination: destinations.Destination) -> None:
        if str(destination) not in self._by_name:
            id = self._by_name[str(destination)] = self._new("destination")
            self._group.definitions.append(DefineDestination(id, destination.kind, destination.name))
            self._commit_if_full()

    def _known(self, name: str) -> int:
        if name not in self._by_name:
            raise BadDump(f"there is no line before it for destination {name}")
        return self._by_name[name]

    def _begin_log(self, line: Log) -> None:
        key = line.destination, line.priority, line.run
        if key in self._logs:
            raise BadDump("this log was there before")
        destination = self._known(line.destination)
        self._slot = line.destination.startswith(f"/{Kind.SLOT.value}/")
        replay = line.destination.startswith(f"/{Kind.REPLAY.value}/")
        self._elsewhere = replay and (bool(self._shift) or line.destination in self._there)
        lanes = self._ledger.lanes_of(destination)
        lane = next((lane for lane in lanes if (lane.priority, lane.run) == key[1:]), None)
        if lane is None:
            id, next_number = self._new("lane"), 0
            self._group.definitions.append(DefineLane(id, destination, line.priority, line.run))
            there: dict[int, int] = {}
            keep = 0 if line.retained else None
        else:
            id, next_number = lane.id, lane.next
            there = {reader.queue: reader.id for reader in lane.readers}
            keep = lane.next if lane.keep is None and line.retained else lane.keep
        readers: dict[str, int] = {}
        for name in line.readers:
            queue = self._known(name)
            reader = there.pop(queue, 0)
            if not reader:
                reader = self._new("reader")
                self._group.definitions.append(DefineReader(reader, queue, id, next_number))
            readers[name] = reader
        wanted = [
            place.stamp + self._shift
            for binding in self._bindings
            if binding.source == line.destination
            for place in (*binding.start, *(binding.until or ()), *binding.past)
            if (place.priority, place.run) == key[1:] and place.stamp
        ]
        self._log = self._logs[key] = _Log(
            id, next_number, readers, list(there.values()), sorted(set(wanted)), {}, keep
        )
        if keep is not None:
            self._group.keep[id] = keep

    def _define_bindings(self) -> None:
        known = {(one.define.queue, one.define.source): one.define.id for one in self._ledger.bindings.values()}
        # What follows from a pattern comes after it.
        for line in sorted(self._bindings, key=lambda line: bool(line.of)):
            queue, source = self._known(line.queue), self._known(line.source)
            if (queue, source) in known:
                continue  # it is in force on the terms it has here
            id = known[queue, source] = self._new("binding")
            start = self._numbers(line.source, line.start)
            past: dict[int, tuple[int, str]] = {}
            for place in line.past:
                past |= {lane: (end, place.filter_text) for lane, end in self._numbers(line.source, [place]).items()}
            self._group.definitions.append(
                DefineBinding(
                    id,
                    queue,
                    source,
                    start,
                    line.policy or BindingPolicy(),
                    line.filter_name,
                    line.filter_text,
                    line.follows,
                    known[queue, self._known(line.of)] if line.of else 0,
                    past,
                )
            )
            if line.until is not None:
                self._group.definitions.append(EndBinding(id, self._numbers(line.source, line.until)))
        self._commit()

    def _numbers(self, source: str, places: list[Place]) -> dict[int, int]:
        numbers = {}
        for place in places:
            log = self._logs.get((source, place.priority, place.run))
            if log is not None:
                numbers[log.id] = log.found.get(place.stamp + self._shift, log.next) if place.stamp else log.next
        return numbers

    # -- messages

    def _message(self, line: Entry) -> None:
        log = self._log
        if log is None:
            raise BadDump("a message comes before the line of its log")
        if self._elsewhere:  # positions in logs that are not these
            self.messages += 1
            return
        message = from_entry(line)
        if self._shift:
            message = msgspec.structs.replace(message, stamp=message.stamp + self._shift)
            if self._slot:  # it is due when it was
                message = msgspec.structs.replace(message, delay=max(message.delay - self._shift // 1000, 0))
        seq = log.next
        while log.wanted and log.wanted[0] <= message.stamp:
            log.found[log.wanted.pop(0)] = seq
        for name in line.queues:
            if name not in log.readers:
                raise BadDump(f"{name} does not read this log")
        group = self._group
        part = group.parts.setdefault(log.id, [])
        if message.stamp <= log.stamp or message.stamp > 2**53:
            raise BadDump("the stamps of a log must increase, and stay below 2^53")
        for name, reader in log.readers.items():
            standing = line.queues.get(name)
            if standing is None:
                self._settle(reader, seq)
                continue
            if standing.delivered:
                group.reserved[reader] = seq + 1
            if standing.attempts or standing.due:
                group.failures[reader, seq] = Failure(standing.attempts, standing.due, standing.reason)
        for reader in log.others:
            self._settle(reader, seq)
        part.append(message)
        group.keys += [PublishKey(log.id, seq, key, until) for key, until in line.keys.items()]
        log.stamp = message.stamp
        group.last_stamp = max(group.last_stamp, message.stamp)
        log.next += 1
        self.messages += 1
        self._size += message.size
        self._commit_if_full()

    def _settle(self, reader: int, seq: int) -> None:
        ranges = self._group.settled.setdefault(reader, [])
        if ranges and ranges[-1][1] == seq:
            ranges[-1] = (ranges[-1][0], seq + 1)
        else:
            ranges.append((seq, seq + 1))

    def _commit_if_full(self) -> None:
        if self._size >= GROUP_BYTES or len(self._group.definitions) >= GROUP_DEFINITIONS:
            self._commit()
            self._told(self.messages)

    def _commit(self) -> None:
        group, self._group = self._group, Group(last_stamp=self._group.last_stamp)
        self._size = 0
        self._store.commit(group)


def _kind(text: str) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        raise BadDump(f"no destination is a {text!r}") from None
