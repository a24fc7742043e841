"""The numbers of ``stats``, under the names that Starling, Kestrel and memcached give them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator

import attrs

from broker import __version__
from broker.core.broker import Broker
from broker.core.stats import QueueStats


@attrs.define(eq=False)
class Counters:
    """What one listener has seen since it started."""

    curr_connections: int = 0
    total_connections: int = 0
    #: Keys read, blocking ones included; peeks and misses too.
    cmd_get: int = 0
    cmd_set: int = 0
    cmd_peek: int = 0
    get_hits: int = 0
    get_misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


def general(broker: Broker, counters: Counters) -> bytes:
    """What is known of the whole broker, as STAT lines."""
    now = broker.now() / 1_000_000
    usage = resource.getrusage(resource.RUSAGE_SELF)
    numbers: dict[str, object] = {
        "pid": os.getpid(),
        "uptime": int(max(now - broker.stats.started, 0)),
        "time": int(now),
        "version": __version__,
        "rusage_user": f"{usage.ru_utime:.6f}",
        "rusage_system": f"{usage.ru_stime:.6f}",
        "curr_items": sum(broker.queue_stats(name).ready for name in broker.queues()),
        "total_items": broker.stats.published,
        **attrs.asdict(counters),
        "queue_creates": broker.stats.queues_created,
        "queue_deletes": broker.stats.queues_deleted,
        "delayed_items": broker.delayed,
        "moved_items": broker.stats.moved,
        "limit_maxbytes": 0,  # Starling's: no limit
    }
    return b"".join(_line(name, value) for name, value in numbers.items())


def queues(broker: Broker, names: Iterable[str]) -> Iterator[bytes]:
    """What is known of each of these queues, as STAT lines, one queue after the other."""
    for name in names:
        # A blank would end the name for the client; the escape is the one its key takes.
        shown = name.replace("%", "%25").replace(" ", "%20")
        numbers = _of_queue(broker.queue_stats(name))
        yield b"".join(_line(f"queue_{shown}_{what}", number) for what, number in numbers.items())


def _of_queue(stats: QueueStats) -> dict[str, int]:
    return {
        "items": stats.ready,
        "total_items": stats.published,
        "expired_items": stats.expired,
        "age": stats.age_ms,
        "discarded": stats.discarded,
        "waiters": stats.waiters,
        "open_transactions": stats.on_loan,
        "canceled_transactions": stats.failed + stats.released,
    }


def _line(name: str, value: object) -> bytes:
    return f"STAT {name} {value}\r\n".encode()
