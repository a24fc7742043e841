"""Group commit: whatever arrives while one commit is on its way is the next.

No timer: the first change starts a commit, everything that comes until it is done joins the group after it. A group
gets its numbers when it closes, after the outcome of the one before is known, so a commit that fails leaves no hole.
What is told by a commit is told after the next one has been started.

- A *unit* (a publish, a transaction) is stored whole or fails; when the store refuses a group for what is in it, each
  unit is tried alone.
- Settlements, failures, reservations and definitions are facts: those of a failed group ride in the next, and whoever
  waits for them goes on waiting. While the store is in trouble they go alone: a full disk has room for acks when it has
  none for messages. Where not even they can be stored, the units that came meanwhile fail too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.definitions import Definitions
from broker.core.queue import Queue
from broker.core.reader import CLAIM, Reader
from broker.core.sealed import Facts, Sealed, merged
from broker.core.store import Failure, Group, IStore
from broker.core.unit import Unit
from broker.errors import BrokerError, Stopping, StoreRefused, StoreUnavailable

#: A group takes no further unit once it holds this much; a larger unit is a group of its own.
MAX_GROUP_BYTES = 8 * 1024 * 1024
#: Seconds until what is left of a failed group is tried again, if nothing new comes before.
RETRY_AFTER = 1.0
#: Seconds without a failed unit after which a store that takes facts alone is no longer in trouble: with steady
#: publishers on a full disk it must not be well between any two of them.
QUIET = 2.0


class Journal:
    """The one door to the store's commits.

    `committed` is called with the queues that have something new, after each commit.
    """

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        definitions: Definitions,
        allowance: Callable[[bool], int],
        committed: Callable[[Iterable[Queue]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._definitions = definitions
        self._allowance = allowance
        self._committed = committed
        self._units: deque[Unit] = deque()
        #: Units of a refused group, to be tried one by one.
        self._alone: deque[Unit] = deque()
        self._facts = Facts()
        self._under_way: Sealed | None = None
        self._starting = False
        self._telling = False
        self._retry: IDelayedCall | None = None
        self._closed = False
        #: Fires after the next commit, however it ends.
        self._outcome: Deferred[None] | None = None
        self.last_stamp = 0
        #: Commits made so far.
        self.commits = 0
        #: Why units cannot be stored at the moment; "" while all is well.
        self.trouble = ""
        #: Why not even facts can be stored; "" while they can.
        self.stuck = ""
        #: Runs since a unit failed.
        self._quiet: IDelayedCall | None = None

    _log = Logger()

    # -- in

    def append(self, unit: Unit) -> Deferred[list[int]]:
        """Store a unit; fires with its numbers once it is on disk. Fails: nothing of it is kept."""
        done = unit.done = Deferred()
        self.put(unit)
        return done

    def put(self, unit: Unit) -> None:
        """Store a unit that says itself who is told of it."""
        self._units.append(unit)
        self._start()

    def settle(self, reader: Reader, low: int, high: int) -> None:
        """Everything in ``low <= seq < high`` is settled; nothing to do where nothing is stored."""
        self.note(reader, low, high)
        self._start()

    def note(self, reader: Reader, low: int, high: int) -> None:
        """The same for one of several: no commit begins before all of them are said, and something else is."""
        if not reader.lane.durable:
            return
        ranges = self._facts.settled.setdefault(reader.id, [])
        if ranges and ranges[-1][1] == low:
            ranges[-1] = (ranges[-1][0], high)
        else:
            ranges.append((low, high))
        for follower in reader.followers:
            for first, end in follower.follow(low, high):
                self.note(follower, first, end)

    def fail(self, reader: Reader, seq: int, failure: Failure | None) -> None:
        """Remember what a message has behind it; nothing to do where nothing is stored."""
        if not reader.lane.durable:
            return
        self._facts.failures[reader.id, seq] = failure
        self._start()

    def claim(self, reader: Reader, seq: int) -> None:
        """Reserve from `seq` on; the reader's `reserved` mark moves when that is on disk."""
        mark = seq + CLAIM
        if mark > reader.claiming:
            reader.claiming = self._facts.claims[reader] = mark
            self._start()

    def unclaim(self, reader: Reader) -> None:
        """Reserve no more than was delivered, so that after a clean stop nothing is falsely called redelivered."""
        mark = max(reader.delivered, reader.bits.cursor, 1)
        if mark < reader.claiming:
            reader.claiming = self._facts.claims[reader] = mark

    def durable(self) -> Deferred[None]:
        """Fires once everything said so far is on disk."""
        done: Deferred[None] = Deferred()
        if self._facts or self._units or self._alone or self._definitions.pending:
            self._facts.waiters.append(done)
            self._start()
        elif self._under_way is not None:
            self._under_way.facts.waiters.append(done)
        else:
            done.callback(None)
        return done

    # -- the one commit under way

    def _start(self) -> None:
        """Commit what there is, unless a commit is under way, or one is being told of: then right after."""
        if self._under_way or self._telling or self._starting or self._closed:
            return
        if self._retry is not None:
            if not self._units:
                return
            self._cancel_retry()
        self._starting = True
        while not self._under_way and self._retry is None and (sealed := self._seal()) is not None:
            self._under_way = sealed
            _ = Deferred.fromCoroutine(self._commit(sealed)).addErrback(
                lambda failure: self._log.failure("the journal stopped", failure)
            )
        self._starting = False

    async def _commit(self, sealed: Sealed) -> None:
        try:
            await self._store.commit(sealed.group)
        except StoreRefused as error:
            tell = self._refused(sealed, error)
        except StoreUnavailable as error:
            tell = self._failed(sealed, error)
        except Exception:
            self._log.failure("the store failed in a way it does not tell of")
            tell = self._failed(sealed, StoreUnavailable("the store failed; see the log"))
        else:
            tell = self._apply(sealed)
        self._under_way = None
        self._start()  # the disk works on the next group while this one's answers are written
        self._telling = True
        try:
            tell()
        except Exception:
            self._log.failure("while telling of a commit")
        finally:
            self._telling = False
        self._start()
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            outcome.callback(None)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _try_again(self) -> None:
        self._retry = None
        self._start()

    def _seal(self) -> Sealed | None:
        """Close the open group and give it its numbers; None if there is nothing in it."""
        if not (self._units or self._alone or self._facts or self._definitions.pending):
            return None
        # A binding that ends must not overtake what was published before: its end rides with the units.
        facts_only = bool(self.trouble and self._facts and not self._definitions.ending)
        group = Group(last_stamp=self.last_stamp, definitions=self._definitions.take())
        facts, self._facts = self._facts, Facts()
        sealed = Sealed(group, [] if facts_only else self._take_units(), facts)
        group.settled = {reader: merged(ranges) for reader, ranges in facts.settled.items()}
        group.failures = dict(facts.failures)
        group.reserved = {reader.id: mark for reader, mark in facts.claims.items()}
        group.definitions += self._definitions.take_ends(sealed.number())
        return sealed

    def _take_units(self) -> list[Unit]:
        """The units of the next group: what fits, at least one, and one alone after a refusal."""
        if self._alone:
            return [self._alone.popleft()]
        units, size = self._units, 0
        taken: list[Unit] = []
        while units and (not taken or size + units[0].size <= MAX_GROUP_BYTES):
            unit = units.popleft()
            size += unit.size
            taken.append(unit)
        return taken

    # -- outcomes: what is true in memory at once, and what is told afterwards

    def _apply(self, sealed: Sealed) -> Callable[[], None]:
        self.commits += 1
        self.stuck = ""
        if sealed.units or self._quiet is None:
            self._well()
        for reader, mark in sealed.facts.claims.items():
            reader.reserved = mark
        # Queues are served in the order in which they had something to commit, not in that of their addresses.
        queues = dict.fromkeys(reader.queue for reader in sealed.facts.claims)
        unseen = sealed.unseen
        for lane, size in sealed.lanes:
            messages = sealed.group.parts[lane.id]
            base, lane.next = lane.next, lane.next + len(messages)
            for reader in lane.readers:
                reader.bytes += size
                if reader.waiting == len(messages):
                    reader.since = messages[0].stamp
                if reader.queue.used:
                    # Who works on some will ask for more: for ten that take batches over HTTP half of the commits were
                    # read again, 6 % of the processor time.
                    wanted = reader.queue.wanted or bool(reader.on_loan)
                    reader.appended(base, messages, size, self._allowance(wanted))
                for low, high in unseen.get(reader.id, ()):
                    reader.bits.add_range(low, high)
                    reader.bytes -= sum(message.size for message in messages[low - base : high - base])
                queues[reader.queue] = None
        for follower, low, high in sealed.followed:
            follower.follow(low, high)
        self._end(sealed.units, True)

        def tell() -> None:
            for unit in sealed.units:
                self._tell(unit)
            for waiter in sealed.facts.waiters:
                waiter.callback(None)
            self._committed(queues)

        return tell

    def _failed(self, sealed: Sealed, error: BrokerError) -> Callable[[], None]:
        if not self.trouble:
            self._log.error("the store does not commit: {reason}", reason=error.reason)
        self.trouble = error.reason
        self._put_back(sealed)
        units = sealed.units
        if self._facts or self._definitions.pending:
            self._retry = self._clock.callLater(0 if units else RETRY_AFTER, self._try_again)
        if not units:
            self.stuck = error.reason
            units = [*self._alone, *self._units]
            self._alone.clear()
            self._units.clear()
        if units:
            self._stop_quiet()
            self._quiet = self._clock.callLater(QUIET, self._was_quiet)
        self._end(units, False)

        def tell() -> None:
            for unit in units:
                self._tell(unit, error)
            self._committed(dict.fromkeys(reader.queue for reader in sealed.facts.claims))

        return tell

    def _well(self) -> None:
        self._stop_quiet()
        if self.trouble:
            self._log.info("the store commits again")
            self.trouble = ""

    def _was_quiet(self) -> None:
        """No unit came for a while: nothing is known to be wrong, unless facts wait for their next try."""
        self._quiet = None
        if self._retry is None and self._under_way is None:
            self._well()

    def _stop_quiet(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None

    def _refused(self, sealed: Sealed, error: BrokerError) -> Callable[[], None]:
        if not sealed.units:
            return self._failed(sealed, error)
        self._put_back(sealed)
        if len(sealed.units) > 1:
            for unit in sealed.units:
                unit.numbers.clear()
            self._alone.extend(sealed.units)
            return lambda: None
        (unit,) = sealed.units
        self._end([unit], False)
        return lambda: self._tell(unit, error)

    def _end(self, units: list[Unit], committed: bool) -> None:
        for unit in units:
            if unit.ended is not None:
                try:
                    unit.ended(committed)
                except Exception:  # one unit's mistake must not stop all commits
                    self._log.failure("while ending a unit")

    def _tell(self, unit: Unit, error: BrokerError | None = None) -> None:
        try:
            unit.tell(error)
        except Exception:  # nor one waiter's mistake the others
            self._log.failure("while telling of a unit")

    def _put_back(self, sealed: Sealed) -> None:
        self._facts.join(sealed.facts)
        self._definitions.put_back(sealed.group.definitions)

    # -- the end

    async def close(self) -> None:
        """Commit what there is, once; what the store does not take now is what a crash would lose."""
        self._cancel_retry()
        while self._retry is None and (self._units or self._alone or self._facts or self._under_way):
            outcome = self._outcome = Deferred()
            self._start()
            await outcome  # not `durable`, which waits for a disk that may never come back
        self._closed = True
        self._cancel_retry()
        self._stop_quiet()
        left, self._facts = self._facts, Facts()
        for waiter in left.waiters:
            waiter.errback(Stopping("the broker is stopping and could not store this"))
