"""The load: producers and consumers of all three fronts at once, each a thread with connections of its own.

Queues: ``one``, ``two`` and ``three`` are filled by all and emptied by competing consumers; a STOMP client moves
messages from ``one`` to ``moved`` in transactions; ``deep`` is filled only.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

from tests.crash.broker_process import LEASE
from tests.crash.clients import Frame, Gone, Http, Memcache, Ports, Refused, Stomp, frame
from tests.crash.ledger import Ledger, Name, Sight

WORK = ("one", "two", "three")
QUEUES = (*WORK, "moved", "deep")
#: Where producers send: a fourth of it stays.
TARGETS = (*WORK, "deep")
#: Sends, and unsettled deliveries, that a client has under way.
UNDER_WAY = 4


class Load:
    """All clients, at work from the start of this object until their connections end."""

    def __init__(self, ports: Ports, ledger: Ledger, seed: int) -> None:
        self.errors: list[BaseException] = []
        self._ports = ports
        self._ledger = ledger
        works = (
            self._produce_by_memcache,
            self._produce_by_stomp,
            self._produce_by_http,
            self._consume_by_memcache,
            self._consume_by_stomp,
            self._consume_runs_by_stomp,
            self._move_by_stomp,
            self._consume_by_http,
        )
        self._threads = [
            threading.Thread(target=self._run, args=(work, random.Random(seed + place)), daemon=True)
            for place, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> None:
        """Wait until every client has noticed that the broker is gone."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
            assert not thread.is_alive(), "a client does not notice that the broker is gone"

    def _run(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            work(chance)
        except Gone:
            pass
        except BaseException as error:
            self.errors.append(error)

    # -- producers: a few messages under way, never waiting for all of them

    def _names(self, producer: str, chance: random.Random) -> Iterator[list[Name]]:
        while True:
            yield [self._ledger.sending(producer, chance.choice(TARGETS)) for _ in range(chance.randint(1, UNDER_WAY))]

    def _produce_by_memcache(self, chance: random.Random) -> None:
        with Memcache(self._ports.memcache) as client:
            for names in self._names("memcache", chance):
                client.sets([(name.queue, name.body()) for name in names])
                for name in names:
                    client.stored()
                    self._ledger.confirmed(name)

    def _produce_by_stomp(self, chance: random.Random) -> None:
        with Stomp(self._ports.stomp) as client:
            for names in self._names("stomp", chance):
                client.send(b"".join(frame("SEND", n.body(), destination=n.queue, receipt=n.number) for n in names))
                for name in names:
                    assert client.next("RECEIPT").headers["receipt-id"] == str(name.number)
                    self._ledger.confirmed(name)

    def _produce_by_http(self, chance: random.Random) -> None:
        with Http(self._ports.http) as client:
            for names in self._names("http", chance):
                for name in names:
                    client.ask("POST", f"/channels/{name.queue}", 202, body=name.body())
                    self._ledger.confirmed(name)

    # -- consumers: some deliveries are always left unsettled

    def _consume_by_memcache(self, chance: random.Random) -> None:
        """Two reads of a queue are open at times; END to the close of the older one settles it."""
        ledger, sight = self._ledger, Sight()
        reads: dict[str, list[Name]] = {"one": [], "three": []}
        with Memcache(self._ports.memcache) as client:
            while True:
                queue = chance.choice(list(reads))
                held = reads[queue]
                closing = held[:1] if len(held) == 2 or chance.random() < 0.5 else []
                options = ("/close" if closing else "") + ("/open" if len(held) < 2 or chance.random() < 0.5 else "")
                ledger.asking(*closing)
                body = client.get(f"{queue}/t=100{options}")
                ledger.answered(*closing)
                del held[: len(closing)]
                if body is not None:
                    held.append(ledger.delivered(body, sight))

    def _consume_by_stomp(self, chance: random.Random) -> None:
        """client-individual: acks in any order, each with its receipt."""
        ledger, sight = self._ledger, Sight()
        held: list[tuple[str, Name]] = []
        asked: dict[str, list[Name]] = {}
        with Stomp(self._ports.stomp) as client:
            for queue in ("two", "three"):
                client.subscribe(queue, "client-individual", 2 * UNDER_WAY)
            while True:
                if (delivery := self._next(client, sight, asked)) is None:
                    continue
                held.append(delivery)
                if len(held) > UNDER_WAY:
                    ack, name = held.pop(chance.randrange(len(held)))
                    asked[ack] = [name]
                    ledger.asking(name)
                    client.send(frame("ACK", id=ack, receipt=ack))

    def _consume_runs_by_stomp(self, chance: random.Random) -> None:
        """client: an ack settles what came before it, too."""
        ledger, sight = self._ledger, Sight()
        held: list[tuple[str, Name]] = []
        asked: dict[str, list[Name]] = {}
        with Stomp(self._ports.stomp) as client:
            client.subscribe("two", "client", 2 * UNDER_WAY)
            while True:
                if (delivery := self._next(client, sight, asked)) is None:
                    continue
                held.append(delivery)
                if len(held) > UNDER_WAY:
                    count = chance.randint(1, UNDER_WAY)
                    run, held = held[:count], held[count:]
                    ack, names = run[-1][0], [name for _, name in run]
                    asked[ack] = names
                    ledger.asking(*names)
                    client.send(frame("ACK", id=ack, receipt=ack))

    def _next(self, client: Stomp, sight: Sight, asked: dict[str, list[Name]]) -> tuple[str, Name] | None:
        """The next delivery, by its ack id; None: it was the receipt of an ack in `asked`."""
        came = client.next("MESSAGE", "RECEIPT")
        if came.command == "RECEIPT":
            self._ledger.answered(*asked.pop(came.headers["receipt-id"]))
            return None
        return came.headers["ack"], delivered_by_stomp(came, self._ledger, sight)

    def _move_by_stomp(self, chance: random.Random) -> None:
        """A message from one queue to the other: both, or neither."""
        ledger, sight = self._ledger, Sight()
        under_way: dict[str, Name] = {}
        asked: dict[str, list[Name]] = {}
        with Stomp(self._ports.stomp) as client:
            client.subscribe("one", "client-individual", 1)
            while True:
                if (delivery := self._next(client, sight, asked)) is None:
                    ledger.confirmed(under_way.pop(next(iter(under_way))))
                    continue
                ack, acked = delivery
                sent = under_way[ack] = ledger.sending("mover", "moved")
                ledger.moves[sent] = acked
                asked[ack] = [acked]
                ledger.asking(acked)
                client.send(
                    frame("BEGIN", transaction=ack)
                    + frame("SEND", sent.body(), destination="moved", transaction=ack)
                    + frame("ACK", id=ack, transaction=ack)
                    + frame("COMMIT", transaction=ack, receipt=ack)
                )

    def _consume_by_http(self, chance: random.Random) -> None:
        """GET, then DELETE; every fifth is left to its lease."""
        ledger, sight = self._ledger, Sight()
        left: list[Name] = []
        with Http(self._ports.http) as client:
            while True:
                queue = chance.choice(("two", "three"))
                asked = time.monotonic()
                taken = take_by_http(client, ledger, queue, sight, 1)
                # Not after a stall, when the loan may be over and the message somebody else's.
                if taken is not None and chance.random() < 0.8 and time.monotonic() - asked < LEASE / 4000:
                    id, name = taken
                    settle_by_http(client, ledger, id, name)
                    ledger.kept(left)  # they were lent before: their loans were in this commit, or in an earlier one
                    left.clear()
                elif taken is not None:
                    left.append(taken[1])


def delivered_by_stomp(message: Frame, ledger: Ledger, sight: Sight) -> Name:
    """A MESSAGE came."""
    headers = message.headers
    again, delivered = headers["redelivered"] == "true", int(headers.get("delivery-count", "1"))
    return ledger.delivered_by_stomp(message.body, sight, redelivered=again, delivered=delivered)


def take_by_http(client: Http, ledger: Ledger, queue: str, sight: Sight, wait: int) -> tuple[str, Name] | None:
    """One message of `queue`, on loan, with its id."""
    asked_at = ledger.tick()
    ledger.unread[queue] += 1
    answer = client.ask("GET", f"/channels/{queue}?wait={wait}", 200, 204)
    ledger.unread[queue] -= 1
    if answer.status == 204:
        return None
    delivered = int(answer.headers["x-linger-delivered"])
    return answer.headers["x-linger-msg-id"], ledger.delivered_by_http(
        answer.body, sight, asked_at=asked_at, delivered=delivered
    )


def settle_by_http(client: Http, ledger: Ledger, id: str, name: Name) -> None:
    """Settle what was taken."""
    ledger.asking(name)
    client.ask("DELETE", f"/messages/{id}", 204)
    ledger.answered(name)


# -- emptying a queue: one consumer, alone; what it saw


def empty_by_memcache(ports: Ports, ledger: Ledger, queue: str, count: int, sight: Sight) -> set[Name]:
    """Take and settle `count` messages, which must be there."""
    seen: set[Name] = set()
    with Memcache(ports.memcache) as client:
        for _ in range(count):
            body = client.get(f"{queue}/t={4 * LEASE}/open")
            if body is None:
                raise Refused(f"{queue} holds {count} messages but gave {len(seen)}")
            name = ledger.delivered(body, sight)
            seen.add(name)
            ledger.asking(name)
            client.get(f"{queue}/close")
            ledger.answered(name)
    return seen


def empty_by_http(ports: Ports, ledger: Ledger, queue: str, count: int, sight: Sight) -> set[Name]:
    """Take and settle `count` messages, which must be there."""
    seen: set[Name] = set()
    with Http(ports.http) as client:
        for _ in range(count):
            taken = take_by_http(client, ledger, queue, sight, 4 * LEASE // 1000)
            if taken is None:
                raise Refused(f"{queue} holds {count} messages but gave {len(seen)}")
            id, name = taken
            seen.add(name)
            settle_by_http(client, ledger, id, name)
    return seen


def empty_by_stomp(ports: Ports, ledger: Ledger, queue: str, count: int, sight: Sight) -> set[Name]:
    """Take and settle `count` messages, which must be there."""
    seen: set[Name] = set()
    asked: dict[str, Name] = {}
    with Stomp(ports.stomp) as client:
        client.subscribe(queue, "client-individual", 0)
        while len(seen) < count or asked:
            came = client.next("MESSAGE", "RECEIPT")
            if came.command == "RECEIPT":
                ledger.answered(asked.pop(came.headers["receipt-id"]))
                continue
            ack, name = came.headers["ack"], delivered_by_stomp(came, ledger, sight)
            seen.add(name)
            asked[ack] = name
            ledger.asking(name)
            client.send(frame("ACK", id=ack, receipt=ack))
    return seen


#: The ways to empty a queue; every check uses them all.
WAYS = (empty_by_memcache, empty_by_http, empty_by_stomp)
