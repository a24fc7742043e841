"""What there is in a broker: names, rules, bindings and numbers, for those who ask and change nothing."""

from __future__ import annotations

from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind
from broker.core.directory import Directory
from broker.core.policy import BindingPolicy, Policy, TopicPolicy
from broker.core.stats import QueueStats, stats_at_rest, stats_of
from broker.core.wall import Wall


class Overview:
    """The questions a `Broker` answers at once."""

    def __init__(self, directory: Directory, time: Wall) -> None:
        self._directory = directory
        self._time = time

    def now(self) -> int:
        """Microseconds of the wall clock; never less than they were."""
        return int(self._time.now() * 1_000_000)

    def rules_of(self, destination: Destination) -> Policy | TopicPolicy:
        """What holds for a queue or a topic, be it there or not."""
        if destination.kind is Kind.QUEUE:
            return self.policy_of(destination.name)
        return self._directory.policies.of_topic(destination.name)

    def find(self, delivery_id: int) -> Delivery | None:
        """What is on loan under this id."""
        located = self._directory.locate(delivery_id)
        return located[0].on_loan.get(located[1]) if located else None

    def queue_of(self, delivery_id: int) -> Destination | None:
        """The destination of the queue this id is a message of, waiting or on loan; None if there is none."""
        located = self._directory.locate(delivery_id)
        return located[0].queue.destination if located else None

    def queues(self) -> list[str]:
        """The queues that hold messages, are bound, or have somebody waiting; sorted."""
        used = [q.name for q in self._directory.queues.values() if q.waiting or q.bindings or q.subscriptions]
        return sorted([*used, *self._directory.dormant.waiting()])

    def exists(self, queue: str) -> bool:
        """True if there is such a queue, be it empty, or an alias."""
        return self._directory.exists(queue) or Destination(Kind.QUEUE, queue) in self._directory.aliases

    def nothing_ready(self, queue: str) -> bool:
        """True if the queue is there, in use, and all it holds is on loan: nothing would be found by a longer look."""
        found = self._directory.queues.get(queue)
        return found is not None and bool(found.id) and not found.ready

    def contended(self, queue: str) -> bool:
        """True while consumers wait for the messages of a queue."""
        found = self._directory.queues.get(queue)
        return found is not None and found.wanted

    def policy_of(self, queue: str) -> Policy:
        """The rules of a queue, whether it is there or not."""
        return self._directory.policies.of(queue)

    def topics(self) -> list[str]:
        """The topics a queue is bound to, sorted."""
        return sorted(d.name for d, log in self._directory.logs.items() if log.bound and d.kind is Kind.TOPIC)

    def sources(self, queue: str) -> list[Destination]:
        """What a queue is bound to, sorted by name; the topics that follow from a pattern are not named beside it."""
        bound = self._directory.queues.get(queue)
        bindings = bound.bindings.values() if bound else ()
        return sorted((one.source for one in bindings if not one.of), key=lambda source: source.name)

    def bindings(self) -> list[tuple[str, Destination]]:
        """Every binding that somebody asked for: the queue and what it reads."""
        found = [
            (queue.name, source)
            for source, log in self._directory.logs.items()
            for queue, binding in log.bound.items()
            if not binding.of
        ]
        return sorted(found, key=lambda one: (one[0], str(one[1])))

    def terms(self, queue: str, source: Destination) -> tuple[BindingPolicy, str] | None:
        """What a queue's binding to `source` says, and its filter; None: it is not bound to it."""
        bound = self._directory.find(queue)
        binding = bound.bindings.get(source) if bound is not None else None
        return (binding.policy, binding.match) if binding is not None else None

    def follows(self, queue: str, source: Destination) -> bool:
        """True if a queue is a cursor on another, and settles what that settles."""
        bound = self._directory.find(queue)
        binding = bound.bindings.get(source) if bound is not None else None
        return binding is not None and binding.follows

    def bound(self, source: Destination) -> list[str]:
        """The queues bound to a destination, sorted."""
        log = self._directory.logs.get(source)
        return sorted(queue.name for queue in log.bound) if log else []

    def queue_stats(self, queue: str) -> QueueStats:
        """A queue's numbers; zeros for one that is not there."""
        found = self._directory.queues.get(queue)
        if found is None and (resting := self._directory.dormant.get(queue)) is not None:
            return stats_at_rest(*resting, self._directory.policies.of(queue), self.now())
        return stats_of(found, self.now()) if found is not None else QueueStats()
