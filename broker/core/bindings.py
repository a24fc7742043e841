"""Which queue reads what beside its own log: because somebody asked for it, or because of its name.

A binding to a pattern of topics brings forth a binding to each topic that matches: to those that there are at once, to
others in the commit of their first message. They end with it. One that somebody asked for comes before one that follows
from a pattern, and of two patterns the one that was bound first; a queue reads a topic once, however many match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from broker.core.binding import Binding, named_source
from broker.core.destination import Destination, Kind
from broker.core.filter import Filter, compile_filter
from broker.core.patterns import Patterns, is_pattern, words_of
from broker.core.policy import BindingPolicy
from broker.core.store import BindingState, DefineBinding, Definition, EndBinding
from broker.errors import BadValue

if TYPE_CHECKING:
    from broker.core.directory import Directory, Log
    from broker.core.queue import Queue

#: Bindings with a filter that one destination may have, and all patterns together: each is asked about every message.
MAX_FILTERS = 100


class Bindings:
    """The bindings of all queues. What is said here is true in memory at once, and on disk with the next commit."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        #: Those to patterns of topics.
        self.patterns: Patterns[Binding] = Patterns()
        self._filtered = 0

    # -- asked for

    def bind(
        self,
        name: str,
        source: Destination,
        policy: BindingPolicy,
        match: str,
        start: Mapping[int, int] | None = None,
        follows: bool = False,
    ) -> bool:
        """Queue `name` reads what matches of `source` from the next commit on; False if it does so already.

        `start`: from which number on it reads which lane, if it does not read it yet. `follows`: what the source queue
        settles, this one settles too. `BadFilter` for a `match` that cannot be compiled, `BadName` for a bad pattern,
        `BadValue` for an alias, for too many filters, and where there is nothing to follow.
        """
        for destination in (Destination(Kind.QUEUE, name), source):
            if destination in self._directory.aliases:
                raise BadValue(f"{destination.name} is an alias: bind the queues that it stands for")
        if follows and source.kind is not Kind.QUEUE:
            raise BadValue(f"{source.name} is a topic and settles nothing: only a queue can be followed")
        pattern = source.kind is Kind.TOPIC and is_pattern(source.name)
        if pattern:
            words_of(source.name)
        filter_ = compile_filter(match) if match else None
        known = self._directory.queues.get(name)
        old = known.bindings.get(source) if known is not None else None
        if old is not None and old.same(policy, match, follows):
            return False
        if filter_ is not None:
            self._check_filters(source, old, pattern)
        queue, log = self._directory.queue(name), self._directory.log(source)
        if old is not None and not old.of:
            self._forget_pattern(old)
        binding = self._bind(queue, log, policy, filter_, start=start, follows=follows)
        if pattern:
            self._add_pattern(binding)
            for topic in self.sources(source):
                self._follow(topic, self.of_patterns(topic.destination)[queue], start)
        return True

    def sources(self, source: Destination) -> list[Log]:
        """The logs that a binding to `source` reads; several if it is a pattern."""
        if source.kind is not Kind.TOPIC or not is_pattern(source.name):
            log = self._directory.find_log(source)
            return [log] if log is not None else []
        matching: Patterns[None] = Patterns()
        matching.add(source.name, None)
        return [topic for topic in self._directory.topics() if matching.matching(topic.destination.name)]

    def unbind(self, queue: Queue, source: Destination) -> bool:
        """`queue` reads nothing more of `source` after the next commit; False if nobody had asked for that.

        What was published before this call, and rides in that commit, it still gets.
        """
        binding = queue.bindings.get(source)
        if binding is None or binding.of:
            return False
        if not self._forget_pattern(binding):
            self._release(binding)
            return True
        self._end(binding)
        for derived in [one for one in queue.bindings.values() if one.of == binding.id]:
            self._release(derived)
        return True

    def drop(self, queue: Queue) -> None:
        """`queue` is gone, and its bindings with it."""
        for source, binding in list(queue.bindings.items()):
            self._forget_pattern(binding)
            del self._directory.log(source).bound[queue], queue.bindings[source]

    # -- following from names

    def of_patterns(self, topic: Destination) -> dict[Queue, Binding]:
        """What reads `topic` because of a pattern, where nobody asked for more."""
        found: dict[Queue, Binding] = {}
        for binding in sorted(self.patterns.matching(topic.name), key=lambda binding: binding.id):
            found.setdefault(binding.queue, binding)
        return found

    def defined(self, log: Log) -> None:
        """A destination comes to be: what it reads by its name, and who reads it by its own, do so from now on."""
        destination = log.destination
        if destination.kind is Kind.TOPIC and not is_pattern(destination.name):
            for pattern in self.of_patterns(destination).values():
                self._follow(log, pattern)
        elif destination.kind is Kind.QUEUE:
            source = named_source(destination.name)
            if source is not None and source not in self._directory.aliases:
                self._bind(self._directory.queue(destination.name), self._directory.log(source))

    def _follow(self, log: Log, pattern: Binding, start: Mapping[int, int] | None = None) -> None:
        """Have the queue of `pattern` read `log` too, unless somebody has asked for that on terms of its own."""
        old = log.bound.get(pattern.queue)
        if old is None or (old.of and old.of != pattern.id):
            self._bind(pattern.queue, log, pattern.policy, pattern.filter, of=pattern.id, start=start)

    # -- parts

    def _check_filters(self, source: Destination, old: Binding | None, pattern: bool) -> None:
        log = self._directory.logs.get(source)
        others = sum(binding.filter is not None for binding in log.bound.values() if binding is not old) if log else 0
        if others >= MAX_FILTERS:
            raise BadValue(f"{source} has {MAX_FILTERS} bindings with a filter, the most there may be")
        if pattern and self._filtered - (old is not None and old.filter is not None) >= MAX_FILTERS:
            raise BadValue(f"all patterns together have {MAX_FILTERS} bindings with a filter, the most there may be")

    def _bind(
        self,
        queue: Queue,
        log: Log,
        policy: BindingPolicy = BindingPolicy(),  # noqa: B008 - frozen
        filter_: Filter | None = None,
        *,
        of: int = 0,
        start: Mapping[int, int] | None = None,
        follows: bool = False,
    ) -> Binding:
        directory = self._directory
        directory.define(log)
        directory.define(directory.log(queue.destination))
        id = directory.definitions.next_id("binding")
        binding = Binding(id, queue, log.destination, policy, filter_, of, follows)
        log.bound[queue] = queue.bindings[log.destination] = binding

        def begin() -> list[Definition]:
            if directory.queues.get(queue.name) is not queue or log.bound.get(queue, binding) is not binding:
                return []  # deleted, or bound otherwise, meanwhile
            first = {}
            past = {}
            for lane in log.lanes.values():
                reader = next((reader for reader in lane.readers if reader.queue is queue), None)
                first[lane.id] = lane.next
                if reader is None:
                    first[lane.id] = min((start or {}).get(lane.id, lane.next), lane.next)
                    reader = directory.read(queue, lane, first[lane.id])
                    if filter_ is not None and first[lane.id] < lane.next:
                        reader.past = lane.next, filter_
                if reader.past is not None:
                    past[lane.id] = reader.past[0], reader.past[1].text
                reader.terms.begin(first[lane.id], policy)
                reader.follows = follows
                lane.link()
            language = "match" if binding.match else ""
            owner = directory.log(queue.destination).id
            return [DefineBinding(binding.id, owner, log.id, first, policy, language, binding.match, follows, of, past)]

        directory.definitions.add_later(begin)
        return binding

    def _release(self, binding: Binding) -> None:
        """End a binding, unless a pattern says that its queue goes on reading the topic."""
        log = self._directory.log(binding.source)
        pattern = self.of_patterns(binding.source).get(binding.queue) if binding.source.kind is Kind.TOPIC else None
        if pattern is None or is_pattern(binding.source.name):
            self._end(binding)
        else:
            self._bind(binding.queue, log, pattern.policy, pattern.filter, of=pattern.id)

    def _end(self, binding: Binding) -> None:
        queue, log = binding.queue, self._directory.log(binding.source)
        del log.bound[queue], queue.bindings[binding.source]

        def end(ends: dict[int, int]) -> list[Definition]:
            if queue in log.bound or self._directory.queues.get(queue.name) is not queue:
                return []  # bound again, or deleted, before this was committed
            until = {}
            for lane in log.lanes.values():
                for reader in lane.readers:
                    if reader.queue is queue:
                        until[lane.id] = ends.get(lane.id, lane.next)
                        reader.terms.end(until[lane.id])
            return [EndBinding(binding.id, until)]

        self._directory.definitions.end_later(end)

    def _add_pattern(self, binding: Binding) -> None:
        self.patterns.add(binding.source.name, binding)
        self._filtered += binding.filter is not None

    def _forget_pattern(self, binding: Binding) -> bool:
        """Let no topic follow from this binding any more; False if none does, because it names no pattern."""
        if binding.source.kind is not Kind.TOPIC or not is_pattern(binding.source.name):
            return False
        self.patterns.discard(binding.source.name, binding)
        self._filtered -= binding.filter is not None
        return True

    # -- the disk's side

    def restore(self, stored: Iterable[BindingState], logs: Mapping[int, Log]) -> None:
        """Become what the store holds; `logs` by their ids, with their lanes and readers."""
        for state in stored:
            define, until = state.define, state.until
            queue, log = self._directory.queue(logs[define.queue].destination.name), logs[define.source]
            if until is None:
                filter_ = compile_filter(define.filter_text) if define.filter_text else None
                binding = Binding(define.id, queue, log.destination, define.policy, filter_, define.of, define.follows)
                log.bound[queue] = queue.bindings[log.destination] = binding
                if log.destination.kind is Kind.TOPIC and is_pattern(log.destination.name):
                    self._add_pattern(binding)
            for lane in log.lanes.values():
                for reader in lane.readers:
                    if reader.queue is queue:
                        reader.terms.begin(define.start.get(lane.id, 0), define.policy)
                        reader.follows = define.follows
                        if lane.id in define.past:
                            end, text = define.past[lane.id]
                            reader.past = end, compile_filter(text)
                        if until is not None:
                            reader.terms.end(until.get(lane.id, 0))
                if define.follows:
                    lane.link()
