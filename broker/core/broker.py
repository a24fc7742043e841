"""The broker: what the fronts may ask of queues and topics. The only room that waits for the store.

The way in: `Broker.publish` checks, the message joins the open group (`journal`), the group is committed, and then the
producer is told and consumers get it. The way out: `supply` pairs messages with consumers that have credit; an ack
settles in memory at once and on disk with the next group.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from broker.core.binding import named_source
from broker.core.browsing import Accepts, Browsing, Page, Seen, State, reasons
from broker.core.burst import Burst, Told, burst, put
from broker.core.clock import Delays
from broker.core.consumers import Line, Subscription
from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind, check_name
from broker.core.directory import Directory
from broker.core.freeing import Freeing
from broker.core.journal import Journal
from broker.core.message import Message
from broker.core.moving import Moving
from broker.core.overview import Overview
from broker.core.policy import BindingPolicy, Policies, Policy, Rule
from broker.core.publishing import Publishing
from broker.core.queue import Queue
from broker.core.replays import Replays
from broker.core.retention import Retention
from broker.core.route import Published
from broker.core.settlement import Settlement
from broker.core.stats import BrokerStats
from broker.core.status import Status
from broker.core.store import IStore
from broker.core.supply import Supply
from broker.core.sweep import Sweep
from broker.core.taking import Taking
from broker.core.topic import Tell, listener
from broker.core.transaction import Transaction
from broker.core.unit import Unit
from broker.core.wall import Wall
from broker.core.watching import Watching
from broker.core.window import Budget
from broker.errors import BadValue, BrokerError

#: Queues that get a new policy in one reactor turn.
_RELOAD_SLICE = 1_000
#: From this many readers on, what a start has made is put out of the garbage collector's sight.
_FREEZE = 10_000


class Broker(Overview):
    """Queues and topics over one store.

    `clock` gives timers, `wall` the seconds since 1970 that stamps and expiry use. `configured` is what an earlier
    `configure` said.
    """

    _log = Logger()

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        *,
        policy: Policy | Policies = Policy(),  # noqa: B008 - frozen
        wall: Callable[[], float] = time.time,
        configured: Mapping[Destination, Mapping[str, Any]] | None = None,
    ) -> None:
        self._policies = policies = policy if isinstance(policy, Policies) else Policies(policy)
        self._said = {destination: dict(keys) for destination, keys in (configured or {}).items()}
        #: What holds for a queue that no rule speaks of.
        self.policy = policies.default
        self.clock = clock
        self.stats = BrokerStats()
        self._store = store
        self._budget = Budget()
        super().__init__(Directory(self.policies_with(self._said), self._budget), Wall(wall, clock.seconds))
        self._journal = Journal(store, clock, self._directory.definitions, self._budget.allowance, self._committed)
        self._supply = Supply(store, clock, self.now, self._directory, self._journal, self.stats)
        self._settlement = Settlement(store, clock, self.now, self._directory, self._journal, self._supply, self.stats)
        self._publishing = Publishing(self._directory, self._journal, self.stats, clock, self.now, self._supply.changed)
        self._delays = Delays(store, clock, self.now, self._directory, self._journal, self._publishing)
        self._moving = Moving(
            clock, self.now, self._directory, self._journal, self._publishing, self.stats, self._supply.changed
        )
        self._supply.move = self._moving.move
        self._directory.woken = self._supply.usage.notice
        self._browsing = Browsing(store, clock, self._directory, self._settlement.message)
        self._taking = Taking(clock, self.now, self._directory, self._supply, self._forget)
        self._retention = Retention(store, self.now, self._directory)
        self._publishing.routing.retained = self._retention.watch
        self._sweep = Sweep(store, clock, self.now, self._directory, self._journal, self._supply, self.stats)
        self._freeing = Freeing(store, clock, self._retention)
        #: What is done at the moment for whoever asks.
        self.status = Status(self._publishing, self._supply)
        #: The queues somebody looks into.
        self.watching = Watching(clock, self._directory, self._supply)
        #: Jobs that put messages in again.
        self.replays = Replays(
            store,
            clock,
            self._directory,
            self._journal,
            self._publishing,
            self._browsing,
            self._retention,
            self.stats,
            self._supply.changed,
            self._settlement.settle,
        )

    # -- life

    async def start(self) -> None:
        """Open the store and become what it holds; nothing else may be asked before."""
        inventory = await self._store.open()
        gc.disable()  # it would look at every queue that is made again and again: twice the time for 100,000
        try:
            self._directory.restore(inventory)
        finally:
            gc.enable()
        if len(inventory.readers) >= _FREEZE:
            gc.freeze()
        self._publishing.restore(inventory)
        self.stats.started = self._time.now()
        await self._settlement.restore(inventory)
        self._warn_of_aliases()
        self._delays.start()
        self._sweep.start()
        await self.replays.restore()
        self._retention.survey()
        if self._retention:
            self._freeing.wake()
        if inventory.unclean_starts >= 2:
            self._log.warn(
                "{starts} starts in a row ended in a crash: going carefully", starts=inventory.unclean_starts
            )
            self._directory.cautious = True
            for queue in self._directory.queues.values():
                queue.cautious = True
        self.replays.start()

    async def reload(self, policies: Policies) -> None:
        """From now on these policies hold, also for queues that are there; a thousand of them a reactor turn."""
        self._policies, self.policy = policies, policies.default
        policies = self.policies_with(self._said)
        self._directory.follow(policies)
        self._warn_of_aliases()
        for number, name in enumerate(self._directory.names(), 1):
            policy = policies.of(name)
            queue = self._directory.find(name) if policy.tended else self._directory.queues.get(name)
            if queue is not None:
                queue.follow(policy)
                if policy.max_idle:
                    self._supply.usage.notice(queue)
                self._supply.changed(queue)
            if number % _RELOAD_SLICE == 0:
                await deferLater(self.clock, 0)
        self._retention.survey()
        self._freeing.wake()

    async def configure(self, said: Mapping[Destination, Mapping[str, Any]]) -> None:
        """From now on these say what holds for single queues and topics, over all other policies, which stay.

        The values must be what the fields of `Policy` and `TopicPolicy` hold.
        """
        self._said = {destination: dict(keys) for destination, keys in said.items()}
        await self.reload(self._policies)

    @property
    def configured(self) -> Mapping[Destination, Mapping[str, Any]]:
        """What `configure` was told last."""
        return self._said

    async def stop(self) -> None:
        """Take no new work, make durable what was accepted, and close the store."""
        self.status.stop()
        self._publishing.waiting.stop()
        self._supply.stop()
        self._settlement.stop()
        self._moving.stop()
        self._delays.stop()
        await self.replays.stop()
        await self._sweep.stop()
        self._directory.wake_reserved()
        for reader in self._directory.readers.values():
            self._journal.unclaim(reader)
        await self._journal.close()
        await self._freeing.stop()
        await self._store.close()

    @property
    def trouble(self) -> str:
        """Why the store does not commit at the moment; empty while it does."""
        return self._journal.trouble

    @property
    def delayed(self) -> int:
        """Messages that wait for their time."""
        return self._delays.waiting

    # -- putting in

    def publish(self, destination: Destination, message: Message) -> Deferred[Published]:
        """Store one message; fires once it is on disk for every queue that reads it.

        With a ``delay`` it is delivered only when that is over, and waits under an id of its own until then.

        Raises at once `MessageTooLarge`, `QueueFull`, `Stopping`; fails with `StoreUnavailable` or `StoreRefused`.
        """
        return self._publishing.publish(destination, message)

    def burst(self, destination: Destination) -> Burst | None:
        """What puts plain messages into a queue together; None if each is to be published by itself."""
        return burst(self._publishing, destination)

    def put(self, bursts: Sequence[Burst], told: Told) -> None:
        """Put them in: `told` is called once all are on disk, or with why none of them is kept. It must not raise."""
        put(bursts, told)

    def publish_to(self, destinations: Iterable[Destination], message: Message) -> Deferred[Published]:
        """The same for several destinations, each once: all of them get it, or none."""
        return self._publishing.publish_to(destinations, message)

    def is_alias(self, destination: Destination) -> bool:
        """True if what is published there goes elsewhere, and nothing can be read."""
        return destination in self._directory.aliases

    def withdraw(self, published: Deferred[Published]) -> None:
        """If what `publish` gave waits for room, it fails now and nothing is kept; else it takes its course."""
        self._publishing.waiting.withdraw(published)

    def full(self, topic: Destination, message: Message) -> list[str]:
        """The queues that read `topic`, would want `message`, and have no room for it."""
        return self._publishing.routing.full(topic, message)

    @property
    def draining(self) -> bool:
        """True while nothing is taken in, so that what is there can be worked off."""
        return self._publishing.stopping

    # -- taking

    def first_use(self, destination: Destination) -> Deferred[None] | None:
        """Somebody is about to read `destination`: a queue that reads others by its name does so from now on.

        Whoever takes, peeks or subscribes need not say it, but does not learn when it is on disk: then the Deferred
        fires. None: it was used before, or its name says nothing.
        """
        if destination.kind is not Kind.QUEUE or named_source(destination.name) is None:
            return None
        if not self._directory.use(self._directory.queue(check_name(destination.name))):
            return None
        return self._journal.durable()

    def subscribe(
        self,
        destination: Destination,
        deliver: Callable[[Delivery], None],
        *,
        prefetch: int,
        priority: int = 0,
        reliable: bool = True,
        exclusive: bool = False,
        accepts: Callable[[Message], bool] | None = None,
        dropped: Callable[[], None] | None = None,
        deleted: Callable[[], None] | None = None,
        tell: Tell | None = None,
    ) -> Subscription:
        """Deliver to `deliver` from now on: what is in a queue, or what a topic gets while this subscription lasts.

        Never more than `prefetch` unsettled at a time, and never before this call has returned. Of several that have
        credit those with the highest `priority` are served first; `reliable` ones ack what they have worked on. While
        `exclusive` ones are there, the oldest of them alone gets what is in a queue. With `accepts`, a selector, it
        gets only what that is true of. A topic's name may be a pattern; `dropped` is called when its subscription is
        over because it was too slow, if the topic's policy says so and it is given. `deleted` is called when the queue
        was deleted: the subscription goes on, at the new queue of that name, unless its owner ends it. `tell` takes a
        topic's messages at once, without a loan, unless it says no or others wait: then they are delivered.
        """
        self.status.check_take()
        if destination.kind is Kind.TOPIC:
            live = listener([destination], deliver, prefetch, self.policy, dropped, tell)
            self._publishing.live.add(live)
            return live.subscription
        if destination in self._directory.aliases:
            raise BadValue(f"{destination.name} is an alias: subscribe to the queues that it stands for")
        if (bound := self.first_use(destination)) is not None:
            _ = bound.addErrback(lambda _: None)  # the journal goes on trying; it fails when we stop
        queue = self._directory.queue(destination.name)
        subscription = Subscription(
            queue,
            destination,
            deliver,
            prefetch,
            priority=priority,
            reliable=reliable,
            exclusive=exclusive,
            line=accepts and Line(accepts),
            deleted=deleted,
        )
        self._supply.usage.use(queue)
        queue.attach(subscription)
        self._supply.pump_soon(queue)
        return subscription

    def pause(self, subscription: Subscription) -> None:
        """Deliver nothing to it until `resume`."""
        subscription.paused = True

    def resume(self, subscription: Subscription) -> None:
        """Deliver to it again."""
        subscription.paused = False
        if not subscription.closed:
            subscription.queue.credited(subscription)
            self._supply.pump(subscription.queue)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Deliver nothing more to it; what it has on loan stays on loan until it is acked, nacked or released."""
        queue = subscription.queue
        queue.detach(subscription)
        self._publishing.live.discard(subscription)
        if queue.wanted and (subscription.exclusive or queue.policy.exclusive):
            self._supply.pump_soon(queue)  # the next one takes over
        self._forget(queue)

    async def take(
        self, queue: str | Sequence[str], *, wait: float = 0.0, leased: bool = False, lease: int = 0
    ) -> Delivery | None:
        """One message of `queue`, or of the first of several that has one, now or within `wait` seconds; None: none.

        `leased`: the loan ends by itself, after `lease` ms or what the message, its binding or the policy say, and a
        restart keeps it. Otherwise it lasts until ack, nack or release. Those who wait are served in order; whoever
        is cancelled while waiting loses no message.
        """
        queues = await self._readable([queue] if isinstance(queue, str) else queue, wait)
        return await self._taking.take(queues, wait, leased, lease)

    def at_hand(self, queue: str, *, leased: bool = False, lease: int = 0) -> Delivery | None:
        """A message of `queue`, if one can be taken without waiting for anything; else `take` may find one."""
        return None if self._supply.held else self._taking.at_hand(queue, leased, lease)

    def several_at_hand(
        self, queue: str, most: int, size: int, *, leased: bool = False, lease: int = 0
    ) -> list[Delivery]:
        """The same for up to `most` of them, and no more once their bodies have `size` bytes: 5 us less for each."""
        return [] if self._supply.held else self._taking.several_at_hand(queue, most, size, leased, lease)

    def with_share(
        self, taken: Delivery, most: int, size: int, *, leased: bool = False, lease: int = 0
    ) -> list[Delivery]:
        """What `take` gave just now, and more of its queue, up to `most` and `size` as in `several_at_hand`.

        If others wait there, no more than each of them may have. What follows is theirs then: see `contended`.
        """
        return self._taking.with_share(taken, most, size, leased, lease)

    async def peek(self, queue: str, *, wait: float = 0.0) -> Delivery | None:
        """The message that would be delivered next, without taking it; waits like `take`."""
        return await self._taking.peek(queue, wait) if await self._readable([queue], wait) else None

    # -- looking

    async def browse(
        self,
        destination: Destination,
        *,
        states: Collection[State] = (State.READY, State.ON_LOAN, State.DELAYED),
        after: int = 0,
        until: int = 0,
        limit: int = 100,
        accepts: Accepts | None = None,
    ) -> Page:
        """What is in a queue, or in a topic's log, behind the stamp `after` and before `until` (0: no end).

        Nothing is taken and nobody is disturbed. At most `limit` messages, those that `accepts`; they come in the
        order in which they were published. A page may hold fewer, or none, and still say where to go on.
        """
        return await self._browsing.browse(
            destination, states=states, after=after, until=until, limit=limit, accepts=accepts
        )

    async def look(self, delivery_id: int) -> tuple[Seen, list[str]]:
        """The message of this id, waiting or on loan, and why it is not being delivered; `NotFound`."""
        seen = await self._browsing.look(delivery_id)
        queue = self._directory.locate(delivery_id)
        return seen, list(reasons(queue[0].queue, seen, self.now())) if queue is not None else []

    def durable(self) -> Deferred[None]:
        """Fires once everything said so far is on disk."""
        return self._journal.durable()

    # -- settling

    def ack(self, deliveries: Iterable[Delivery]) -> Deferred[None]:
        """Settle: done for good. In memory at once; fires when it is on disk. `NotFound` if one is not on loan."""
        return self._settlement.ack(deliveries)

    def nack(self, deliveries: Iterable[Delivery], *, reason: str = "", delay: int | None = None) -> None:
        """Their delivery failed: each is back at its old place, or leaves its queue if that was its last attempt.

        It is hidden for `delay` ms first (None: the policy's ``backoff``). Those no longer on loan are passed over.
        """
        self._settlement.give_back(deliveries, counted=True, reason=reason, delay=delay)

    def reject(self, deliveries: Iterable[Delivery]) -> Deferred[None]:
        """Never deliver these again: they go to ``dead_letter``, or are dropped. Fires when that is on disk.

        `NotFound` if one is not on loan.
        """
        return self._settlement.reject(deliveries)

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Give back without counting as failed, of very many the first now; those no longer on loan are passed over."""
        self._settlement.release(deliveries)

    def lost(self, deliveries: Iterable[Delivery]) -> None:
        """The same for a connection that was lost with them: each delivery counts as failed."""
        self._settlement.release(deliveries, lost=True)

    def settle(self, delivery_id: int) -> Deferred[None]:
        """Settle by id, waiting or on loan to anybody; fires when it is on disk. `NotFound` if there is none."""
        return self._settlement.settle(delivery_id)

    async def touch(self, delivery_id: int, lease: int = 0) -> None:
        """Begin the loan anew, for `lease` ms or its own length; a message that waits is on loan from then on.

        `NotFound` if there is none. A loan that lasts as long as its connection stays as it is.
        """
        await self._settlement.touch(delivery_id, lease)

    def limit(self, delivery: Delivery, lease: int) -> None:
        """A loan that lasts as long as its connection ends after `lease` ms at the latest, unless it is touched."""
        self._settlement.limit(delivery, lease)

    # -- transactions

    def begin(self) -> Transaction:
        """A transaction: publishes and settlements that become true together, or not at all."""
        return Transaction(self._publishing.check, self._commit)

    def _commit(self, transaction: Transaction) -> Deferred[None]:
        try:
            published = self._publishing.transacted(transaction.publishes)
        except BrokerError as error:
            transaction.free()
            return fail(error)
        unit = Unit(published.appends, transaction.size, settles=published.settles)
        self._settlement.add(unit, transaction)

        def ended(committed: bool) -> None:
            published.ended(committed)
            self._settlement.outcome(transaction, committed)

        unit.ended = ended

        def told(numbers: list[int]) -> None:
            transaction.published = published.told(numbers)

        return self._journal.append(unit).addCallback(told)

    # -- queues and topics

    async def purge(self, queue: str, *, on_loan: bool = False) -> int:
        """Settle everything that waits, and what is on loan too if `on_loan`; how many messages, once it is on disk."""
        self.status.check_purge()
        purged = self._reached(queue)
        return await self._settlement.purge(purged, on_loan) if purged is not None else 0

    async def delete(self, queue: str) -> bool:
        """Remove a queue with its messages and its bindings; False if there was none.

        Whoever waits for its messages goes on waiting, at the new queue of that name; subscriptions are told so.
        """
        self.status.check_purge()
        deleted = self._reached(queue)
        if deleted is None or not (deleted.readers or deleted.bindings):
            return False
        await self._settlement.drop(deleted)
        self.stats.queues_deleted += 1
        return True

    async def bind(
        self,
        queue: str,
        source: Destination,
        policy: BindingPolicy = BindingPolicy(),  # noqa: B008 - frozen
        *,
        match: str = "",
        since: int | None = None,
        follows: bool = False,
    ) -> None:
        """`queue` gets what `source` gets, from now on, on these terms; they replace those of an earlier bind.

        With `match`, a filter, only what it is true of. `BadFilter` if it cannot be compiled. With `since`, a stamp, a
        queue that does not read `source` yet begins in its past, as far as that is kept. With `follows` it is a cursor
        on the queue that `source` is: what is settled there is settled here too, unless it is on loan here.
        """
        if self._publishing.stopping:
            raise self._publishing.refusal()
        start: dict[int, int] = {}
        for log in self._directory.bindings.sources(source) if since is not None else ():
            for lane in list(log.lanes.values()):
                start[lane.id] = await self._store.seek(lane.id, since or 0)
        if self._directory.bindings.bind(check_name(queue), source, policy, match, start, follows):
            self.stats.bound += 1
        await self._journal.durable()

    async def unbind(self, queue: str, source: Destination) -> bool:
        """`queue` gets nothing more of `source`; what it has it keeps. False if it was not bound."""
        bound = self._directory.find(queue)
        if bound is None or not self._directory.bindings.unbind(bound, source):
            return False
        self.stats.unbound += 1
        await self._journal.durable()
        return True

    # -- parts

    def policies_with(self, said: Mapping[Destination, Mapping[str, Any]]) -> Policies:
        """All policies, as they would be if `configure` were told this."""
        rules: dict[Kind, list[Rule]] = {kind: [] for kind in Kind}
        for destination, keys in said.items():
            rules[destination.kind].append(Rule(destination.name, dict(keys)))
        return self._policies.with_rules(rules[Kind.QUEUE], rules[Kind.TOPIC]) if said else self._policies

    def _warn_of_aliases(self) -> None:
        for name in self._directory.masked():
            self._log.warn("the alias {name} hides the queue of that name: nobody can read it", name=name)

    async def _readable(self, queues: Sequence[str], wait: float) -> list[str]:
        """Begin to read these; those that can be. In an alias nothing is found, however long one waits."""
        readable = []
        for name in queues:
            destination = Destination(Kind.QUEUE, name)
            if destination not in self._directory.aliases:
                readable.append(name)
                if (bound := self.first_use(destination)) is not None:
                    await bound
        if not readable and wait > 0:
            await deferLater(self.clock, wait)
        self.status.check_take()
        return readable

    def _reached(self, queue: str) -> Queue | None:
        """The queue of this name, unless there is none or an alias hides it."""
        hidden = Destination(Kind.QUEUE, queue) in self._directory.aliases
        return None if hidden else self._directory.find(queue)

    def _committed(self, queues: Iterable[Queue]) -> None:
        for queue in queues:
            self._supply.changed(queue)
        self._publishing.waiting.room()
        self._freeing.wake()

    def _forget(self, queue: Queue) -> None:
        if queue.idle:
            self._directory.forget(queue)
