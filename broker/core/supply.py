"""Supply: keeps consumers supplied. It pumps queues, and fetches what they lack: messages, reservations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python import failure

from broker.core.delivery import Delivery, Move
from broker.core.directory import Directory
from broker.core.journal import RETRY_AFTER, Journal
from broker.core.leases import Leases
from broker.core.queue import Queue
from broker.core.reader import Reader
from broker.core.scan import Scan
from broker.core.stats import BrokerStats
from broker.core.store import IStore
from broker.core.usage import Usage
from broker.errors import BrokerError, Stopping, StoreUnavailable

#: Deliveries of one queue in one reactor turn: 10,000 took 44 ms, in which nobody else is served.
MAX_PER_TURN = 500
#: Bytes asked of the store at a time, or less where memory is short.
READ_BYTES = 256 * 1024


class Supply:
    """Brings messages and consumers together, whatever has to be fetched for it."""

    _log = Logger()

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        now: Callable[[], int],
        directory: Directory,
        journal: Journal,
        stats: BrokerStats,
    ) -> None:
        self._store = store
        self._clock = clock
        self._now = now
        self._directory = directory
        self._journal = journal
        self._stats = stats
        #: Called with what is to leave its queue.
        self.move: Callable[[list[Move]], None] = lambda moves: None
        self._later: dict[Queue, IDelayedCall] = {}
        self._lookers: dict[Queue, list[Deferred[None]]] = {}
        #: Queues that have more to look at than the ration of this reactor turn allows, in the order of their turns.
        self._resting: OrderedDict[Queue, None] = OrderedDict()
        self._ration = directory.ration
        self._ration.exhausted = self._renew_soon
        self._renewal: IDelayedCall | None = None
        #: True while a read of the store is being asked for.
        self._fetching = False
        self._stopped = False
        #: True: nothing is delivered for the time being.
        self.held = False
        #: Queues that are being pumped at this moment; True: once more.
        self._pumping: dict[Queue, bool] = {}
        #: Loans that end by themselves.
        self.leases = Leases(clock, now, journal)
        #: What is kept in memory of queues, and for how long.
        self.usage = Usage(clock, now, directory, self._lookers, (self._later, self._lookers, self._resting))

    # -- pumping

    def pump(self, queue: Queue) -> None:
        """Deliver what can be delivered now, and fetch what is lacking for more.

        A consumer that wants the next message at once asks from within: then the pump under way goes round again. Were
        it to pump itself, fifty connections that wait for the same commit would be too deep for the stack.
        """
        pumping = self._pumping
        if queue in pumping:
            pumping[queue] = True
            return
        pumping[queue] = True
        try:
            while pumping[queue]:
                pumping[queue] = False
                if not self._round(queue):
                    return
        finally:
            del pumping[queue]

    def _round(self, queue: Queue) -> bool:
        """One round of `pump`; False: the next has to wait."""
        if self._stopped or self.held or queue in self._resting:
            return False
        queue.lacks.clear()
        for _ in range(MAX_PER_TURN):
            delivery = queue.pair(self._now())
            if delivery is None:
                break
            self.lent(delivery)
            subscription = delivery.subscription
            assert subscription is not None
            try:
                subscription.deliver(delivery)
            except Exception:
                self._log.failure("a consumer of {queue} failed", queue=queue.name)
        else:
            self.pump_soon(queue)
            return False
        self.fetch(queue)
        if queue.unfinished:
            return True
        if queue.rate.resting_until > self._now():
            self.pump_soon(queue, (queue.rate.resting_until - self._now()) / 1e6)
        if not queue.lacks:
            queue.miss(None)
        elif self._journal.stuck and not any(scan.loading for scan in queue.lacks):
            queue.miss(StoreUnavailable(self._journal.stuck))
        self.looked(queue)
        return True

    def pump_soon(self, queue: Queue, seconds: float = 0.0) -> None:
        """Pump in a later reactor turn."""
        if self._stopped:
            return
        planned = self._later.get(queue)
        if planned is None:
            self._later[queue] = self._clock.callLater(seconds, self._pump_now, queue)
        elif planned.getTime() > self._clock.seconds() + seconds:
            planned.reset(seconds)

    def _pump_now(self, queue: Queue) -> None:
        del self._later[queue]
        self.pump(queue)

    def _renew_soon(self) -> None:
        """The ration is used up; there is a new one in the next reactor turn."""
        if self._renewal is None and not self._stopped:
            # In two steps: what is called for while a thread's answer is handled still belongs to this turn.
            self._renewal = self._clock.callLater(0, self._renew_later)

    def _renew_later(self) -> None:
        self._renewal = self._clock.callLater(0, self._renew)

    def _renew(self) -> None:
        self._renewal = None
        self._ration.renew()
        for _ in range(len(self._resting)):
            if self._ration.over:
                break
            queue, _nothing = self._resting.popitem(last=False)
            if queue.ration is not self._ration:
                queue.ration.renew()
            queue.rest()
            self.pump(queue)

    def lent(self, delivery: Delivery) -> None:
        """A loan begins: keep account of it, and of its end if it has one."""
        self._stats.delivered += 1
        self._stats.delivered_bytes += len(delivery.message.body)
        if delivery.seq == delivery.reader.ahead:
            self._read_ahead(delivery.reader)
        if delivery.due:
            self.leases.begin(delivery)

    def flush(self, queue: Queue) -> None:
        """Tell the store what the queue settled by itself, and let go what is to leave it."""
        settled, queue.settled = queue.settled, []
        for reader, seq, reason in settled:
            self._count(reason)
            self._journal.settle(reader, seq, seq + 1)
        if queue.moves:
            moves, queue.moves = queue.moves, []
            for move in moves:
                self._count(move.reason)
            self.move(moves)

    def _count(self, reason: str) -> None:
        self._stats.expired += reason == "expired"
        self._stats.discarded += reason not in ("expired", "unwanted")

    def fetch(self, queue: Queue) -> None:
        """Tell the store what the queue settled by itself, and fetch what it lacks."""
        self.flush(queue)
        if queue.unfinished:
            self._resting[queue] = None
            self._renew_soon()
        for scan in queue.lacks:
            if scan.lacks:
                if not scan.loading:
                    self._begin_to_load(scan)
            elif (found := scan.head()) is not None and found[0] >= scan.reader.reserved:
                self._journal.claim(scan.reader, found[0])

    def changed(self, queue: Queue) -> None:
        """Something in the queue may have become deliverable."""
        if queue.wanted or queue in self._lookers or queue in self._resting:
            self.pump(queue)

    def look(self, queue: Queue) -> Deferred[None]:
        """Fires when the queue may have changed; fails if a read for it failed."""
        looker: Deferred[None] = Deferred()
        self._lookers.setdefault(queue, []).append(looker)
        return looker

    def looked(self, queue: Queue, error: BrokerError | None = None) -> None:
        """Wake those who look."""
        for looker in self._lookers.pop(queue, ()):
            if not looker.called:  # else whoever waited was cancelled
                looker.errback(error) if error else looker.callback(None)

    def _read_ahead(self, reader: Reader) -> None:
        """The last batch in memory is begun: read what follows, so that nobody will wait for it; where memory allows.

        Of 40 `get` under way nearly all come to wait when it has to be read first, 23 of each 1,000 messages: with it a
        message out of a backlog takes as many calls of functions as one of a queue that is drained, else 1.3 % more.
        """
        reader.ahead = -1
        scan = reader.scan
        more = scan.window.end < reader.lane.next
        if more and not scan.loading and scan.window.bytes + READ_BYTES <= scan.appetite:
            self._begin_to_load(scan)

    def _begin_to_load(self, scan: Scan) -> None:
        scan.loading = self._fetching = True
        _ = Deferred.fromCoroutine(self._load(scan)).addErrback(self._not_loaded, scan)
        self._fetching = False

    async def _load(self, scan: Scan) -> None:
        reader = scan.reader
        queue = reader.queue
        window, start = wanted = scan.wanted
        error: BrokerError | None = None
        try:
            batches = await self._store.read(reader.lane.id, start, min(READ_BYTES, scan.appetite))
        except BrokerError as failed:
            self._log.error("cannot read {queue}: {reason}", queue=queue.name, reason=failed.reason)
            error = failed
        else:
            if scan.wanted == wanted and scan in reader.scans:  # else it was rewound meanwhile, or nobody is there
                window.end = start
                for batch in batches:
                    self._lost(reader, window.end, batch.base)
                    window.load(batch.base, batch.count, batch.data)
                if batches and window is reader.window:
                    reader.ahead = max(batches[-1].base, start)
                if not batches:
                    self._lost(reader, start, reader.lane.next)
                    window.end = reader.lane.next
                self.usage.loaded(queue)
        scan.loading = False
        if error is None:
            if self._fetching:
                self.pump_soon(queue)  # a store that answers at once must not make one turn of a whole backlog
            else:
                self.pump(queue)
            self.usage.relieve()
            return
        queue.miss(error)
        self.looked(queue, error)
        if queue.wanted:
            self.pump_soon(queue, RETRY_AFTER)

    def _not_loaded(self, reason: failure.Failure, scan: Scan) -> None:
        """Nobody expected that; whoever waits for the messages must not wait for ever."""
        self._log.failure("while loading messages", reason)
        scan.loading = False
        self.pump_soon(scan.reader.queue, RETRY_AFTER)

    def _lost(self, reader: Reader, low: int, high: int) -> None:
        """What is not in the store: settled by every reader, or it could not be read and was set aside there."""
        if reader.bits.next_open(low) >= high:
            return
        self._log.error("{queue}: messages {low} to {high} cannot be read", queue=reader.queue.name, low=low, high=high)
        for first, end in reader.settle_range(low, high):
            self._journal.settle(reader, first, end)

    # -- standing still

    def hold(self, why: BrokerError) -> None:
        """Deliver nothing for the time being: who does not wait is told `why`, who waits goes on waiting."""
        self.held = True
        for queue in self._directory.queues.values():
            queue.miss(why)
        for queue in list(self._lookers):
            self.looked(queue, why)

    def go_on(self) -> None:
        """Deliver again."""
        self.held = False
        for queue in self._directory.queues.values():
            if queue.wanted:
                self.pump_soon(queue)

    def stop(self) -> None:
        """Deliver nothing more, and leave no timer behind."""
        self._stopped = True
        for call in (*self._later.values(), self._renewal):
            if call is not None and call.active():
                call.cancel()
        self._later.clear()
        self.leases.stop()
        self.usage.stop()
        stopping = Stopping("the broker is stopping")
        for queue in self._directory.queues.values():
            queue.miss(stopping)
        for queue in list(self._lookers):
            self.looked(queue, stopping)
