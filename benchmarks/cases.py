"""The cases of the comparison: what is asked of which server, and what the broker is to reach beside each peer.

A `Load` is what the generator is told. A `Comparison` asks several servers the same by turns; a `Sweep` asks the broker
more and more of something.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from benchmarks import peers
from benchmarks.peers import Server


@attrs.frozen
class Load:
    """A run of the generator; `settings` are its own words, and `counts` what is an operation."""

    protocol: str
    settings: str
    #: ``puts``, ``takes`` or ``both``.
    counts: str = "both"


@attrs.frozen
class Against:
    """A peer, what it is asked, and the ratio to it: what must be reached, and what is aimed at."""

    server: type[Server]
    load: Load
    must: float = 0.0
    aim: float = 0.0


@attrs.frozen
class Comparison:
    """One kind of work, by several servers."""

    name: str
    title: str
    ours: Load
    against: Sequence[Against]
    server: type[Server] = peers.Broker


@attrs.frozen
class Point:
    """One place of a sweep: `x` as it is drawn, and what there is before."""

    x: int
    load: Load
    #: Messages that wait in the load's queue at the beginning.
    waiting: int = 0
    #: Queues that are bound to the topic ``bound``.
    bound: int = 0


@attrs.frozen
class Sweep:
    """The broker under more and more of something.

    `flat` is how many times the processor time of the first point any other may take, of those from `least` on: more of
    something may make an operation cheaper, as more of them share a commit, and is not to make it dearer.
    """

    name: str
    title: str
    axis: str
    points: Sequence[Point]
    flat: float = 0.0
    least: int = 0
    server: type[Server] = peers.Broker


@attrs.frozen
class Mixed:
    """Several generators at once on one broker: what one puts in, another takes out."""

    name: str
    title: str
    loads: Sequence[Load]


@attrs.frozen
class Latency:
    """Publishing at 10, 50 and 90 % of the highest rate of each server, by the clock."""

    name: str
    title: str
    sides: Sequence[tuple[type[Server], Load]]


Case = Comparison | Sweep | Mixed | Latency

PERSISTENT = "extra=persistent:true "
RABBIT = PERSISTENT + "login=guest passcode=guest "
COIL = "versions=1.1 "
ACKED = "ack=client-individual prefetch=100 "


def _memory(connections: int, must: float, aim: float) -> Comparison:
    load = Load("memcache", f"both={connections}")
    return Comparison(
        f"memory-{connections}",
        f"memcache set and get in memory, {connections} connections",
        load,
        [Against(peers.Memcached, load, must, aim), Against(peers.Bare, load)],
        peers.MemoryBroker,
    )


def _durable(name: str, settings: str, bean: tuple[float, float], redis: tuple[float, float] | None) -> Comparison:
    against = [Against(peers.Beanstalkd, Load("beanstalk", settings, "puts"), *bean)]
    if redis is not None:
        against.append(Against(peers.Redis, Load("redis", settings, "puts"), *redis))
    words = dict(word.split("=") for word in settings.split())
    title = f"durable publishing, {words['puts']} connections, {words.get('depth', '1')} under way on each"
    return Comparison(f"durable-{name}", title, Load("memcache", settings, "puts"), against)


def _stomp(
    name: str, title: str, settings: str, counts: str, must: float, aim: float, *, topic: bool = False
) -> Comparison:
    settings = f"queue=/{'topic' if topic else 'queue'}/{name} {settings}"
    against = [
        Against(peers.RabbitMQ, Load("stomp", RABBIT + settings, counts), must, aim),
        Against(peers.ActiveMQ, Load("stomp", PERSISTENT + settings, counts), 10, 30),
    ]
    if name != "100":  # connections wait for so long to be accepted by CoilMQ that the case would take minutes
        # more under way, and it hangs up
        coil = Load("stomp", COIL + settings.replace("depth=32", "depth=4"), counts)
        against.append(Against(peers.CoilMQ, coil, 15, 40))
    return Comparison(f"stomp-{name}", title, Load("stomp", settings, counts), against)


def _sweep(
    name: str,
    title: str,
    axis: str,
    protocol: str,
    settings: str,
    xs: Sequence[int],
    counts: str,
    flat: float = 0.0,
    least: int = 0,
) -> Sweep:
    """`settings` with ``{x}`` in the place of what grows."""
    return Sweep(name, title, axis, [Point(x, Load(protocol, settings.format(x=x), counts)) for x in xs], flat, least)


BODIES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
CONNECTIONS = (1, 10, 100, 1_000)
QUEUES = (1, 10, 100, 1_000, 10_000)


def cases(backlog: int) -> list[Case]:
    """All of them; `backlog` is the largest number of messages that wait."""
    waiting = [0, *(size for size in (1_000, 100_000, 1_000_000) if size < backlog), backlog]
    http = Load("http", "both=10")
    flow = "puts=5 takes=5 depth=16 " + ACKED
    return [
        _memory(10, 0.6, 0.8),
        _memory(100, 0.7, 1.0),
        Comparison(
            "syncs-100",
            "memcache set and get, 100 connections: what durability costs",
            Load("memcache", "both=100"),
            [
                Against(peers.NormalBroker, Load("memcache", "both=100")),
                Against(peers.MemoryBroker, Load("memcache", "both=100")),
            ],
        ),
        _durable("1", "puts=1", (0.3, 0.6), None),
        _durable("10", "puts=10", (1.5, 2.0), None),
        _durable("100", "puts=100", (6.0, 10.0), (0.5, 0.8)),
        _durable("10x32", "puts=10 depth=32", (20.0, 40.0), (0.5, 1.0)),
        _stomp(
            "10x32",
            "STOMP SEND with receipt, 10 connections, 32 under way",
            "puts=10 depth=32",
            "puts",
            6,
            12,
        ),
        _stomp("100", "STOMP SEND with receipt, 100 connections", "puts=100", "puts", 2.5, 4),
        _stomp("acked", "STOMP, 5 producers and 5 consumers that acknowledge", flow, "takes", 1.5, 4),
        _stomp(
            "fan-out",
            "STOMP, a topic with 10 subscribers",
            "puts=1 takes=10 fan=1 depth=32",
            "takes",
            10,
            20,
            topic=True,
        ),
        Comparison("http-10", "HTTP post, get and delete, 10 connections", http, [Against(peers.Linger, http, 8, 15)]),
        Comparison(
            "http-batch",
            "HTTP post, lease and commit of 50 at once, beside Linger's one by one",
            Load("http", "both=10 batch=50"),
            [Against(peers.Linger, http, 60, 150)],
        ),
        Latency(
            "latency-memcache",
            "memcache set: latency below the highest rate",
            [
                (peers.Broker, Load("memcache", "puts=50", "puts")),
                (peers.Redis, Load("redis", "puts=50", "puts")),
                (peers.Beanstalkd, Load("beanstalk", "puts=50", "puts")),
            ],
        ),
        Latency(
            "latency-stomp",
            "STOMP SEND with receipt: latency below the highest rate",
            [
                (peers.Broker, Load("stomp", "puts=50 queue=/queue/l", "puts")),
                (peers.RabbitMQ, Load("stomp", RABBIT + "puts=50 queue=/queue/l", "puts")),
            ],
        ),
        Latency(
            "latency-http",
            "HTTP POST: latency below the highest rate",
            [(peers.Broker, Load("http", "puts=50", "puts")), (peers.Linger, Load("http", "puts=50", "puts"))],
        ),
        _sweep(
            "bodies-memcache",
            "memcache set and get by size of body",
            "bytes",
            "memcache",
            "both=10 size={x}",
            BODIES,
            "both",
        ),
        _sweep(
            "bodies-stomp",
            "STOMP sent, delivered, acknowledged by size of body",
            "bytes",
            "stomp",
            "queue=/queue/b{x} puts=5 takes=5 depth=4 size={x} " + ACKED,
            BODIES,
            "takes",
        ),
        _sweep(
            "bodies-http",
            "HTTP post, get and delete by size of body",
            "bytes",
            "http",
            "both=10 size={x}",
            (*BODIES[:-1], 250_000),  # Linger's limit, which is the broker's over HTTP
            "both",
        ),
        _sweep(
            "connections-memcache",
            "memcache set and get by connections",
            "connections",
            "memcache",
            "both={x}",
            CONNECTIONS,
            "both",
            1.2,
            10,
        ),
        _sweep(
            "connections-stomp",
            "STOMP SEND with receipt by connections",
            "connections",
            "stomp",
            "queue=/queue/c puts={x}",
            CONNECTIONS,
            "puts",
            1.2,
            10,
        ),
        _sweep(
            "connections-http",
            "HTTP post, get and delete by connections",
            "connections",
            "http",
            "both={x}",
            CONNECTIONS,
            "both",
            1.2,
            10,
        ),
        Sweep(
            "connections-shared",
            "memcache sets by connections, 1,000 under way over all of them",
            "connections",
            [Point(x, Load("memcache", f"puts={x} depth={1_000 // x}", "puts")) for x in (1, 10, 100, 1_000)],
        ),
        _sweep(
            "queues-memcache",
            "memcache set and get by queues",
            "queues",
            "memcache",
            "both=50 depth=4 queues={x} queue=q",
            QUEUES,
            "both",
            3.0,
        ),
        _sweep(
            "queues-stomp",
            "STOMP SEND with receipt by queues",
            "queues",
            "stomp",
            "puts=50 depth=4 queues={x} queue=/queue/s",
            QUEUES,
            "puts",
            3.0,
        ),
        _sweep(
            "queues-http",
            "HTTP post, get and delete by queues",
            "queues",
            "http",
            "both=50 queues={x} queue=h",
            QUEUES,
            "both",
            3.0,
        ),
        _sweep(
            "fan-out",
            "a topic by subscribers, deliveries",
            "subscribers",
            "stomp",
            "queue=/topic/f{x} puts=1 takes={x} fan=1 depth=8 count=20000",
            (1, 10, 100, 1_000),
            "takes",
        ),
        Sweep(
            "fan-out-bound",
            "a topic by queues that are bound to it, messages published",
            "queues",
            [
                Point(x, Load("stomp", f"queue=/topic/bound{x} puts=10 depth=8", "puts"), bound=x)
                for x in (1, 10, 100, 1_000)
            ],
        ),
        Sweep(
            "backlog-memcache",
            "memcache set and get by messages that wait",
            "messages",
            [Point(x, Load("memcache", f"both=10 depth=4 queue=w{x}"), waiting=x) for x in waiting],
            1.2,
            1_000,
        ),
        Sweep(
            "backlog-stomp",
            "STOMP sent, delivered, acknowledged by messages that wait",
            "messages",
            [Point(x, Load("stomp", f"queue=/queue/v{x} level=1 " + flow, "takes"), waiting=x) for x in waiting],
            1.2,
            1_000,
        ),
        Sweep(
            "prefetch",
            "STOMP consumers by their prefetch",
            "messages",
            [
                Point(
                    x,
                    Load(
                        "stomp", f"queue=/queue/p{x} takes=5 ack=client-individual prefetch={x} expected=30000", "takes"
                    ),
                    waiting=40_000,
                )
                for x in (1, 10, 100, 1_000)
            ],
        ),
        _sweep(
            "outstanding",
            "memcache sets by requests under way on each of 10 connections",
            "requests",
            "memcache",
            "puts=10 depth={x}",
            (1, 4, 16, 64, 256),
            "puts",
        ),
        _sweep(
            "outstanding-stomp",
            "STOMP SENDs by receipts under way on each of 10 connections",
            "requests",
            "stomp",
            "queue=/queue/o puts=10 depth={x}",
            (1, 4, 16, 64, 256),
            "puts",
        ),
        _sweep(
            "batches",
            "HTTP batches by messages in each",
            "messages",
            "http",
            "both=10 batch={x}",
            (2, 10, 50, 200),
            "both",
        ),
        Mixed(
            "mixed-memcache-stomp",
            "put over memcache, taken over STOMP",
            [
                Load("memcache", "puts=10 depth=4 queue=m1", "puts"),
                Load("stomp", "takes=5 queue=/queue/m1 expected=100000000 " + ACKED, "takes"),
            ],
        ),
        Mixed(
            "mixed-stomp-memcache",
            "put over STOMP, taken over memcache",
            [
                Load("stomp", "puts=10 depth=4 queue=/queue/m2", "puts"),
                Load("memcache", "takes=10 queue=m2 suffix=/t=500 wait=1 expected=100000000", "takes"),
            ],
        ),
        Mixed(
            "mixed-http-stomp",
            "put over HTTP, taken over STOMP",
            [
                Load("http", "puts=10 queue=m3", "puts"),
                Load("stomp", "takes=5 queue=/queue/m3 expected=100000000 " + ACKED, "takes"),
            ],
        ),
        Mixed(
            "mixed-all",
            "all three protocols at once, each on a queue of its own",
            [
                Load("memcache", "both=10 queue=a1"),
                Load("stomp", "queue=/queue/a2 " + flow, "takes"),
                Load("http", "both=10 queue=a3"),
            ],
        ),
    ]
