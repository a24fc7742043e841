"""The numbers of ``stats``, under the names that Starling, Kestrel and memcached give them.

What has no name there has its own: whatever `broker.core.stats` defines is shown. What these servers tell of and we do
not have (a journal of each queue) is 0, because dashboards ask for it.
"""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

from broker import __version__
from broker.core.destination import Destination, Kind
from broker.core.stats import OF_QUEUE, values
from broker.core.survey import Surveyor

if TYPE_CHECKING:
    from broker.memcache.server import MemcacheFactory

#: What the general clients and dashboards know: our name, theirs.
NAMES = {
    "uptime": "uptime",
    "ready": "curr_items",
    "published": "total_items",
    "queues_created": "queue_creates",
    "queues_deleted": "queue_deletes",
    "queues_expired": "queue_expires",
    "delayed": "delayed_items",
    "moved": "moved_items",
}
#: The same, behind ``queue_NAME_``.
QUEUE_NAMES = {
    "ready": "items",
    "published": "total_items",
    "expired": "expired_items",
    "age_ms": "age",
    "on_loan": "open_transactions",
}
#: Kestrel's numbers of a queue's journal, which here is a part of the store.
_NO_JOURNAL = dict.fromkeys(("logsize", "journal_rewrites", "journal_rotations"), 0)
#: Queues whose flushes are counted; the least flushed of more are forgotten.
_MAX_FLUSHED = 10_000


@attrs.define(eq=False)
class Counters:
    """What one listener has seen since it started, or since ``stats reset``."""

    curr_connections: int = 0
    total_connections: int = 0
    #: Keys read, blocking ones included; peeks and misses too.
    cmd_get: int = 0
    cmd_set: int = 0
    cmd_peek: int = 0
    cmd_flush: int = 0
    cmd_touch: int = 0
    get_hits: int = 0
    get_misses: int = 0
    delete_hits: int = 0
    delete_misses: int = 0
    touch_hits: int = 0
    touch_misses: int = 0
    cas_hits: int = 0
    cas_misses: int = 0
    auth_cmds: int = 0
    auth_errors: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    #: Flushes of each queue.
    flushes: Counter[str] = attrs.field(factory=Counter, repr=False)

    def flushed(self, queue: str) -> None:
        """A queue was flushed."""
        if queue not in self.flushes and len(self.flushes) >= _MAX_FLUSHED:
            self.flushes = Counter(dict(self.flushes.most_common(_MAX_FLUSHED // 2)))
        self.flushes[queue] += 1

    def shown(self) -> dict[str, int]:
        """Those that are of no queue."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(Counters) if field.name != "flushes"}

    def reset(self) -> None:
        """Begin anew; who is connected stays so."""
        for name in self.shown():
            if name != "curr_connections":
                setattr(self, name, 0)
        self.flushes.clear()


async def general(surveyor: Surveyor, now: int, counters: Counters) -> dict[str, object]:
    """What is known of the whole broker at `now` (us)."""
    survey = await surveyor.survey()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    ours = survey.broker | {f"{what}_{name}": n for name, front in survey.fronts.items() for what, n in front.items()}
    theirs, rest = _translated(ours, NAMES)
    return {
        "pid": os.getpid(),
        "uptime": theirs.pop("uptime"),
        "time": now // 1_000_000,
        "version": __version__,
        "pointer_size": sys.maxsize.bit_length() + 1,
        "rusage_user": f"{usage.ru_utime:.6f}",
        "rusage_system": f"{usage.ru_stime:.6f}",
        **theirs,
        "bytes": rest.pop("bytes", 0),
        "reserved_memory_ratio": f"{rest['memory_used'] / (rest['memory_limit'] or 1):.3f}",
        **counters.shown(),
        "limit_maxbytes": 0,  # Starling's: no limit
        "threads": 1,
        "evictions": 0,
        **rest,
    }


def queue(of: MemcacheFactory, name: str) -> Iterator[tuple[str, object]]:
    """What is known of a queue, as the names and values of STAT lines."""
    # A blank would end the name for the client; the escape is the one its key takes.
    shown = name.replace("%", "%25").replace(" ", "%20")
    for what, number in of_queue(of, name):
        yield f"queue_{shown}_{what}", number


def of_queue(of: MemcacheFactory, name: str) -> Iterable[tuple[str, object]]:
    """The same without the queue's name."""
    numbers = of.broker.queue_stats(name)
    theirs, rest = _translated(values(numbers, OF_QUEUE), QUEUE_NAMES)
    mem_items, mem_bytes = of.surveyor.in_memory(name)
    found: dict[str, object] = {
        "items": theirs.pop("items"),
        "bytes": rest.pop("bytes", 0),
        "total_items": theirs.pop("total_items"),
        "expired_items": theirs.pop("expired_items"),
        "mem_items": mem_items,
        "mem_bytes": mem_bytes,
        **theirs,
        "discarded": rest.pop("discarded"),
        "waiters": rest.pop("waiters"),
        "transactions": numbers.delivered,
        "canceled_transactions": numbers.failed + numbers.released,
        "total_flushes": of.counters.flushes[name],
        **_NO_JOURNAL,
        **rest,
    }
    if children := of.broker.bound(Destination(Kind.QUEUE, name)):
        found["children"] = ",".join(children)
    return found.items()


def special(argument: bytes, of: MemcacheFactory) -> list[tuple[str, object]] | None:
    """What ``stats <argument>`` shows; None: there is nothing of that name."""
    match argument:
        case b"settings":
            return [
                ("maxbytes", 0),
                ("maxconns", 0),
                ("item_size_max", of.max_message_size),
                ("evictions", "off"),
                ("cas_enabled", "yes" if of.dialect.cas else "no"),
                ("auth_enabled_sasl", "no" if of.door.open else "yes"),
                ("auth_enabled_ascii", "no" if of.door.open else "yes"),
                ("flush_enabled", "yes" if of.flush_all else "no"),
                ("shutdown_command", "no" if of.shutdown is None else "yes"),
                ("binding_protocol", "auto-negotiate"),
                ("dialect", of.dialect.name),
            ]
        case b"conns":
            return [(f"{number}:addr", peer) for number, peer in enumerate(of.peers(), 1)]
        # Dashboards and php ask for these: nothing to say is not an error.
        case b"items" | b"slabs" | b"sizes":
            return []
    return None


def _translated(numbers: Mapping[str, int], names: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers that have a name there, in that order and under it; and the others, under their own."""
    known = {theirs: numbers[ours] for ours, theirs in names.items()}
    return known, {name: number for name, number in numbers.items() if name not in names}
