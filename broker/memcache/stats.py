"""The numbers of ``stats``, under the names that Starling, Kestrel and memcached give them.

What has no name there has its own: whatever `broker.core.stats` defines is shown.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator, Mapping

import attrs

from broker import __version__
from broker.core.broker import Broker
from broker.core.stats import OF_QUEUE, QueueStats, values
from broker.core.survey import Surveyor

#: What the general clients and dashboards know: our name, theirs.
NAMES = {
    "uptime": "uptime",
    "ready": "curr_items",
    "published": "total_items",
    "queues_created": "queue_creates",
    "queues_deleted": "queue_deletes",
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


async def general(surveyor: Surveyor, now: int, counters: Counters) -> bytes:
    """What is known of the whole broker at `now` (us), as STAT lines."""
    survey = await surveyor.survey()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    ours = survey.broker | {f"{what}_{name}": n for name, front in survey.fronts.items() for what, n in front.items()}
    theirs, rest = _translated(ours, NAMES)
    numbers: dict[str, object] = {
        "pid": os.getpid(),
        "uptime": theirs.pop("uptime"),
        "time": now // 1_000_000,
        "version": __version__,
        "rusage_user": f"{usage.ru_utime:.6f}",
        "rusage_system": f"{usage.ru_stime:.6f}",
        **theirs,
        **attrs.asdict(counters),
        "limit_maxbytes": 0,  # Starling's: no limit
        **rest,
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
    theirs, rest = _translated(values(stats, OF_QUEUE), QUEUE_NAMES)
    return {**theirs, "canceled_transactions": stats.failed + stats.released, **rest}


def _translated(numbers: Mapping[str, int], names: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers that have a name there, in that order and under it; and the others, under their own."""
    known = {theirs: numbers[ours] for ours, theirs in names.items()}
    return known, {name: number for name, number in numbers.items() if name not in names}


def _line(name: str, value: object) -> bytes:
    return f"STAT {name} {value}\r\n".encode()
