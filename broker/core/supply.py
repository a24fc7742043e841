"""Supply: keeps consumers supplied. It pumps queues, and fetches what they lack: messages from the store, reservations.

Also here: what a queue forgets when nobody uses it, and loans that end by themselves.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python import failure

from broker.core.deadlines import LONGEST, Deadlines
from broker.core.delivery import Delivery, Move
from broker.core.directory import Directory
from broker.core.journal import RETRY_AFTER, Journal
from broker.core.queue import Queue
from broker.core.reader import Reader
from broker.core.scan import Scan
from broker.core.stats import BrokerStats
from broker.core.store import Failure, IStore
from broker.errors import BrokerError, Stopping, StoreUnavailable

#: Deliveries of one queue in one reactor turn: 10,000 took 44 ms, in which nobody else is served.
MAX_PER_TURN = 500
#: Bytes asked of the store at a time, or less where memory is short.
READ_BYTES = 256 * 1024
#: Seconds after its last use until a queue comes to rest.
KEEP = 60.0
#: Queues used lately, at most; those beyond come to rest sooner, the one used longest ago first. One that was read
#: takes 2 to 3 KB beside its window, so that these take 30 MB, however many are used in a minute.
MOST_USED = 10_000
_KEEP_BEYOND = 1.0
#: Queues looked at in one reactor turn: 10 us for each that comes to rest.
_MAX_EVICTED = 1_000
#: Loans ended in one reactor turn.
_MAX_LAPSES = 500


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
        #: Called with loans that ended by themselves.
        self.lapsed: Callable[[list[Delivery]], None] = lambda deliveries: None
        #: Called with a queue that was empty and unused for its ``max_idle``.
        self.unused: Callable[[Queue], None] = lambda queue: None
        #: Called with what is to leave its queue.
        self.move: Callable[[list[Move]], None] = lambda moves: None
        self._deadlines: Deadlines[Delivery] = Deadlines()
        self._alarm: IDelayedCall | None = None
        self._alarm_at = 0
        self._later: dict[Queue, IDelayedCall] = {}
        self._lookers: dict[Queue, list[Deferred[None]]] = {}
        #: Queues used lately with the time of their last use (us), the one longest ago first.
        self._used: OrderedDict[Queue, int] = OrderedDict()
        #: Those of the others that wait for the end of their ``max_idle``.
        self._idle: Deadlines[Queue] = Deadlines()
        self._sweep: IDelayedCall | None = None
        #: Queues for which something was loaded, the one longest ago first.
        self._held: OrderedDict[Queue, None] = OrderedDict()
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
        #: The last token given to a loan. Two runs of the broker begin 2**40 apart at random: none comes twice.
        self._tokens = random.randrange(1 << 40, 1 << 52)

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
            self.lease(delivery)

    def lease(self, delivery: Delivery) -> None:
        """A loan that ends by itself begins, or begins anew: its token stays, and the store knows both."""
        if not delivery.token:
            self._tokens += 1
            delivery.token = f"{self._tokens:x}"
        self._journal.fail(delivery.reader, delivery.seq, Failure(delivery.attempts, delivery.due, delivery.token))
        self.ends(delivery)

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
                self._held[queue] = None
                self._held.move_to_end(queue)
        scan.loading = False
        if error is None:
            if self._fetching:
                self.pump_soon(queue)  # a store that answers at once must not make one turn of a whole backlog
            else:
                self.pump(queue)
            self._relieve()
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

    # -- loans with an end

    def ends(self, delivery: Delivery) -> None:
        """The loan ends by itself at `delivery.due`."""
        self._deadlines.set(delivery, delivery.due)
        self._set_alarm()

    def ended(self, delivery: Delivery) -> None:
        """The loan is over, one way or the other."""
        if delivery.due:
            self._deadlines.discard(delivery)

    def _set_alarm(self) -> None:
        next_end = self._deadlines.next()
        if next_end is None or self._stopped:
            return
        if self._alarm is not None and self._alarm.active():
            if self._alarm_at <= next_end:
                return
            self._alarm.cancel()
        self._alarm_at = next_end
        self._alarm = self._clock.callLater(min(max(next_end - self._now(), 0) / 1e6, LONGEST), self._ring)

    def _ring(self) -> None:
        lapsed = [d for d in self._deadlines.due(self._now(), _MAX_LAPSES) if d.on_loan]
        self._alarm = None
        self._set_alarm()
        if lapsed:
            self.lapsed(lapsed)

    # -- memory

    def use(self, queue: Queue) -> None:
        """The queue is used: it keeps messages in memory and reserves ahead, until it was idle for a while."""
        self.notice(queue)
        queue.used = self._used[queue]

    def notice(self, queue: Queue) -> None:
        """Somebody speaks of the queue: it stays in memory for a while."""
        self._used[queue] = self._now()
        self._used.move_to_end(queue)
        self._idle.discard(queue)
        if self._stopped:
            return
        if self._sweep is None:
            self._sweep = self._clock.callLater(KEEP, self._evict)
        if len(self._used) > MOST_USED and self._sweep.getTime() > self._clock.seconds() + _KEEP_BEYOND:
            self._sweep.reset(_KEEP_BEYOND)

    def rest(self, queue: Queue) -> bool:
        """Keep no more of the queue in memory than must be; False if it is not at rest."""
        if not self._directory.rest(queue):
            return False
        self._used.pop(queue, None)
        self._held.pop(queue, None)
        return True

    def _relieve(self) -> None:
        """While windows hold more than they may together, queues that nobody uses now let theirs go."""
        while self._held and self._directory.budget.exceeded:
            queue, _nothing = self._held.popitem(last=False)
            if queue.idle and queue not in self._lookers:
                for reader in queue.readers:
                    reader.evict()

    def _evict(self) -> None:
        """Let queues that nobody uses come to rest, and those that are empty go if their policy says so."""
        self._sweep = None
        now = self._now()
        left = _MAX_EVICTED
        while self._used and left:
            queue, used = next(iter(self._used.items()))
            if now - used < (KEEP if len(self._used) <= MOST_USED else _KEEP_BEYOND) * 1e6:
                break
            left -= 1
            if not queue.idle or queue in self._later or queue in self._lookers or queue in self._resting:
                self._used[queue] = now
                self._used.move_to_end(queue)
            else:
                del self._used[queue]
                self._let_go(queue, used)
        for queue in self._idle.due(now, _MAX_EVICTED):
            if not queue.policy.max_idle:
                self.notice(queue)
            elif queue.waiting or not queue.idle or self._directory.connected(queue):
                self._idle.set(queue, now + int(KEEP / 4 * 1e6))
            else:
                self.unused(queue)
        if self._used or self._idle:
            pause = KEEP if len(self._used) <= MOST_USED else _KEEP_BEYOND
            self._sweep = self._clock.callLater(pause / 4 if left else 0, self._evict)

    def _let_go(self, queue: Queue, used: int) -> None:
        """A queue was not used since `used`, and there is nothing that it waits for."""
        if queue.used:
            queue.used = 0
            for reader in queue.readers:
                reader.evict()
        if queue.policy.max_idle:
            self._idle.set(queue, used + queue.policy.max_idle * 1000)
            return
        self._directory.forget(queue)
        if not self.rest(queue):
            self._used[queue] = self._now()

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
        for call in (*self._later.values(), self._alarm, self._sweep, self._renewal):
            if call is not None and call.active():
                call.cancel()
        self._later.clear()
        stopping = Stopping("the broker is stopping")
        for queue in self._directory.queues.values():
            queue.miss(stopping)
        for queue in list(self._lookers):
            self.looked(queue, stopping)
