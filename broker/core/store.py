"""The contract between the core and what keeps its messages: plain data, and `IStore`.

Numbers (`seq`) count the messages of a lane from 0 without holes. Ranges are half-open: ``(lo, hi)`` means
``lo <= seq < hi``. All ids are small integers given by the core and never used twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import Interface

from broker.core.destination import Kind
from broker.core.message import Message
from broker.core.policy import BindingPolicy

Range: TypeAlias = tuple[int, int]


class DefineDestination(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="destination"):
    """A destination exists from this commit on. A queue's id is that of the destination which is its own log."""

    id: int
    kind: Kind
    name: str


class DefineLane(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="lane"):
    """The part of a destination with one priority. ``run`` 0 is the live lane, any other a replay's."""

    id: int
    destination: int
    priority: int
    run: int = 0


class DefineReader(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="reader"):
    """A queue reads a lane from `cursor` on."""

    id: int
    queue: int
    lane: int
    cursor: int


class DefineBinding(msgspec.Struct, frozen=True, array_like=True, tag="binding"):
    """A queue reads a source destination. It replaces the binding of the same queue and source, if there is one.

    ``start`` maps a lane to the first number these parameters hold for; a lane that is not in it: 0.
    ``filter_name`` and ``filter_text`` name a filter language and what is written in it (empty: no filter).
    """

    id: int
    queue: int
    source: int
    start: dict[int, int] = {}
    policy: BindingPolicy = BindingPolicy()
    filter_name: str = ""
    filter_text: str = ""
    #: Siberite's cursors: what the source queue settles, this one settles too.
    follows: bool = False
    #: The binding to a pattern of topics that this one follows from; 0: none.
    of: int = 0
    #: Per lane that it reads from the past on: up to which number, and which filter, messages are looked at as they are
    #: delivered; later ones were when they were published.
    past: dict[int, tuple[int, str]] = {}


class EndBinding(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """The queue of this binding gets no further message by it; what it has already, it keeps."""

    id: int
    until: dict[int, int] = {}


class DropQueue(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    """A queue is gone: its readers, its bindings, and its own log when no other queue reads it."""

    id: int


Definition: TypeAlias = DefineDestination | DefineLane | DefineReader | DefineBinding | EndBinding | DropQueue


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What a message has behind it in one queue."""

    #: Deliveries that failed: nack, lease over, connection lost. Never a restart.
    attempts: int = 0
    #: Until when nobody else may have it (us of the wall clock); 0 = free. Positive: a lease, whose end is a further
    #: failure. Negative: it is held back until ``-due`` after a failure that is counted already.
    due: int = 0
    #: Why the last delivery failed; of a lease: the token that tells it from others of the same message.
    reason: str = ""


class PublishKey(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A publish named itself by `key`: sent again before `until`, it is answered, not repeated."""

    lane: int
    #: The message it became; -1: not known.
    seq: int
    #: Of two of a lane that are the same, the one with the later `until` holds.
    key: str
    #: When it may be forgotten (us).
    until: int


class Group(msgspec.Struct):
    """What one commit holds: all of it becomes durable, or nothing."""

    #: Messages to append, per lane, in order.
    parts: dict[int, list[Message]] = {}
    #: Settled for good, per reader. They may name numbers of this very group's parts.
    settled: dict[int, list[Range]] = {}
    #: Per reader: everything below is settled (purge, and a replay's seek).
    jumps: dict[int, int] = {}
    #: Per reader: nothing at or above this number has been delivered to anybody.
    reserved: dict[int, int] = {}
    #: Per (reader, seq): the newest failure; None when it no longer matters (released before it was ever counted).
    failures: dict[tuple[int, int], Failure | None] = {}
    #: In order; they hold for the parts and settlements of this same group.
    definitions: list[Definition] = []
    #: What publishers called the messages of this group's parts.
    keys: list[PublishKey] = []
    #: Per retained lane: nothing at or above this number may go, whatever is settled. It holds until another is said,
    #: here or to `IStore.trim`; of a lane that none was said of, nothing is retained.
    keep: dict[int, int] = {}
    #: The highest stamp given so far.
    last_stamp: int = 0


class Committed(msgspec.Struct, frozen=True):
    """The outcome of a commit."""

    #: Per lane of the group's parts: the number of its first message.
    bases: dict[int, int]


class Batch(msgspec.Struct, frozen=True):
    """A stored run of a lane's messages: numbers ``base`` to ``base + count - 1``, packed (`message.unpack`)."""

    lane: int
    base: int
    count: int
    data: bytes


class Expired(msgspec.Struct, frozen=True):
    """What has expired of a lane by its messages' own moments, as far as was looked."""

    #: In order. Whether a reader has settled them does not matter.
    ranges: list[Range] = []
    #: Everything below was looked at; the lane's next number: all of it.
    upto: int = 0
    #: The earliest moment later than now at which something of what was looked at expires; 0: nothing does.
    next_expiry: int = 0
    #: The stamp of the first message at or after the number it began with; 0: there is none.
    stamp: int = 0


class LaneState(msgspec.Struct, gc=False):
    """A lane as committed. Below `low` nothing is kept."""

    id: int
    destination: int
    priority: int
    run: int
    next: int = 0
    low: int = 0
    #: All bytes ever appended to it, as stored.
    bytes: int = 0


class ReaderState(msgspec.Struct, gc=False):
    """A reader as committed: everything below `cursor`, and every range in `settled`, is settled."""

    id: int
    queue: int
    lane: int
    cursor: int = 0
    reserved: int = 0
    settled: Sequence[Range] = ()
    failures: Mapping[int, Failure] = MappingProxyType({})


class BindingState(msgspec.Struct):
    """A binding as committed. `until` is None while it is in force, else where it ended, per lane."""

    define: DefineBinding
    until: dict[int, int] | None = None


class Inventory(msgspec.Struct):
    """Everything a broker must know to start: definitions and readers, never messages. All of it is durable."""

    destinations: list[DefineDestination] = []
    lanes: list[LaneState] = []
    readers: list[ReaderState] = []
    bindings: list[BindingState] = []
    #: Those of lanes that exist whose `until` is later than `last_stamp`.
    keys: list[PublishKey] = []
    last_stamp: int = 0
    #: The highest id of each sort ever given, dropped ones included.
    last_ids: dict[str, int] = {}
    #: How many starts in a row were not followed by a clean `IStore.close`, this one not counted.
    unclean_starts: int = 0


class Sizes(msgspec.Struct, frozen=True):
    """Bytes on disk, and work not yet done; as of one moment, but not of one commit."""

    #: The data file, the room in it that is free for further messages included.
    data: int = 0
    #: The write-ahead log beside it. It is bounded, whatever is committed and read (docs/storage-format.rst).
    wal: int = 0
    #: Room in the data file that freeing has left; the file itself does not become smaller.
    free: int = 0
    #: Records that no fold has moved yet, and their bytes, directories included.
    unfolded_records: int = 0
    unfolded_bytes: int = 0
    #: Room that the file system has for the broker's user; 0 if it keeps nothing in files.
    disk_free: int = 0
    #: Groups made durable since the store was opened, and the milliseconds that took, together.
    commits: int = 0
    commit_ms: float = 0.0


class IStore(Interface):
    """What keeps messages. One core uses it at a time. Every method may fail with `StoreUnavailable`."""

    def open() -> Deferred[Inventory]:
        """Take the store into use. Costs definitions, readers and unfolded records; never messages.

        Everything in the inventory is durable.
        """

    def commit(group: Group) -> Deferred[Committed]:
        """Make all of `group` durable, or nothing of it; fires when it is durable.

        Never called while another commit is under way. On failure the numbers are not used.
        `StoreRefused`: something in the group can never be stored; `StoreUnavailable`: not now.
        """

    def read(lane: int, seq: int, max_bytes: int) -> Deferred[list[Batch]]:
        """The stored batches of `lane` from the one that holds `seq` on, in order, about `max_bytes` of them.

        At least one if there is any at or after `seq`. Where a number is missing between `seq` and the first batch, or
        between two, every reader has settled it and it is not retained, or it cannot be read any more. A snapshot of
        its own: whether a message was folded meanwhile does not show. Never waits for a commit; shows every commit
        that has fired.
        """

    def seek(lane: int, stamp: int) -> Deferred[int]:
        """The first number of `lane` whose message has this stamp or a later one; the lane's next number if none."""

    def seek_bytes(lane: int, size: int) -> Deferred[int]:
        """The first number of `lane` such that its last `size` bytes, as stored, are at or after it.

        Exact to a batch: it may be one that leaves up to a batch more. The lane's next number for a `size` of 0.
        """

    def expired(lane: int, seq: int, now: int, max_bytes: int) -> Deferred[Expired]:
        """What has expired at `now` of the stored messages of `lane` from `seq` on, until about `max_bytes` were read.

        What is read is only the runs of which some have expired and others have not, and the one that holds `seq`. Of
        the others the store knows it; it looks at no more than about 1,000 of them. Each call looks at one at least.
        The earliest moment may be that of a message before `seq`, stored together with those behind it.
        """

    def trim(budget: int, keep: Mapping[int, int] = {}) -> Deferred[int]:
        """Free batches that every reader has settled, about `budget` bytes of them; the bytes freed (0: nothing left).

        Nothing at or above ``keep[lane]`` goes; of a lane not in `keep` nothing is retained any more. A lane that
        nobody reads is freed up to there. Uses committed marks only, and raises `LaneState.low` to them.
        """

    def measure() -> Deferred[Sizes]:
        """How much there is, for statistics. Costs the same however much that is."""

    def close() -> Deferred[None]:
        """After the commit under way: fold, checkpoint, give the file back. Being killed instead is always safe."""
