"""Clients of all fronts, plain and through TLS, that go on when their connection ends; what they know afterwards."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from urllib.parse import quote

from tests.crash.clients import Gone, Http, Memcache, Refused, Stomp, Unwelcome, frame

#: Where all producers send, and all consumers take from.
QUEUES = ("left", "middle", "right")
#: Seconds of a loan over HTTP.
LEASE = 2
#: Seconds in which a message must come while there are any.
LIMIT = 60.0
#: Deliveries a STOMP consumer has at a time.
PREFETCH = 10


class Ledger:
    """What the clients know: written before they send, and after they have read an answer."""

    def __init__(self) -> None:
        self.confirmed: set[bytes] = set()
        #: Whose settlement was sent, and was answered.
        self.asked: set[bytes] = set()
        self.answered: set[bytes] = set()
        #: What came although its settlement was answered.
        self.came_back: set[bytes] = set()
        #: Connections that were refused, that ended, errors that were answered; things done.
        self.tally: Counter[str] = Counter()
        #: The longest time between two things that one client had done (s), and which one's.
        self.longest, self.patient = 0.0, ""
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()

    def done(self, who: str, since: float) -> float:
        """Somebody has done something, the last time at `since`; now."""
        now = time.monotonic()
        with self._lock:
            self.tally["done"] += 1
            if now - since > self.longest:
                self.longest, self.patient = now - since, who
        return now

    def count(self, what: str) -> None:
        """One more of these."""
        with self._lock:
            self.tally[what] += 1

    def delivered(self, body: bytes) -> None:
        """It came."""
        if body in self.answered:
            self.came_back.add(body)

    def lost(self, found: set[bytes]) -> set[bytes]:
        """What was confirmed, and is neither in `found` nor was settled."""
        return self.confirmed - self.asked - found


class Client(threading.Thread):
    """One client until `stop`: it connects, takes steps, and connects again when that ends."""

    def __init__(self, name: str, port: int, tls: ssl.SSLContext | None, ledger: Ledger) -> None:
        super().__init__(name=name, daemon=True)
        self.port = port
        self.tls = tls
        self.ledger = ledger
        self.is_over = threading.Event()
        self._numbers = 0
        self._since = time.monotonic()

    def run(self) -> None:
        """Work."""
        while not self.is_over.is_set():
            try:
                self.once()
            except Unwelcome:
                self.ledger.count("refused")
            except Gone:
                self.ledger.count("ended")
            except Refused:
                self.ledger.count("turned away")
            except BaseException as error:
                self.ledger.errors.append(error)
                return

    def once(self) -> None:
        """Work over one connection."""
        raise NotImplementedError

    def done(self) -> None:
        """It has done something."""
        self._since = self.ledger.done(self.name, self._since)

    def body(self) -> bytes:
        """Of the next message."""
        self._numbers += 1
        return f"{self.name} {self._numbers}".encode()

    def queue(self) -> str:
        """Where the next message goes, or comes from."""
        self._numbers += 1
        return QUEUES[self._numbers % len(QUEUES)]


class MemcacheProducer(Client):
    """Sets."""

    def once(self) -> None:
        """One after the other."""
        with Memcache(self.port, self.tls) as wire:
            while not self.is_over.is_set():
                queue, body = self.queue(), self.body()
                wire.sets([(queue, body)])
                wire.stored()
                self.ledger.confirmed.add(body)
                self.done()


class StompProducer(Client):
    """SENDs, each with its receipt."""

    def once(self) -> None:
        """One after the other."""
        with Stomp(self.port, self.tls) as wire:
            while not self.is_over.is_set():
                queue, body = self.queue(), self.body()
                wire.send(frame("SEND", body, destination=f"/queue/{queue}", receipt="r"))
                wire.next("RECEIPT")
                self.ledger.confirmed.add(body)
                self.done()


class HttpProducer(Client):
    """POSTs; each fifth over a connection of its own."""

    def once(self) -> None:
        """Five."""
        with Http(self.port, self.tls) as wire:
            for _ in range(5):
                queue, body = self.queue(), self.body()
                wire.ask("POST", f"/channels/{quote(queue)}", 202, body=body)
                self.ledger.confirmed.add(body)
                self.done()


class MemcacheConsumer(Client):
    """Opens and closes."""

    def once(self) -> None:
        """One after the other."""
        with Memcache(self.port, self.tls) as wire:
            while not self.is_over.is_set():
                queue = self.queue()
                body = wire.get(f"{queue}/t=50/open")
                if body is not None:
                    self.ledger.delivered(body)
                    self.ledger.asked.add(body)
                    wire.get(f"{queue}/close")
                    self.ledger.answered.add(body)
                self.done()


class StompConsumer(Client):
    """ACKs, each with its receipt; a few deliveries are always on loan."""

    def once(self) -> None:
        """A subscription to each queue."""
        held: dict[str, bytes] = {}
        with Stomp(self.port, self.tls) as wire:
            for queue in QUEUES:
                wire.subscribe(queue, "client-individual", PREFETCH)
            while not self.is_over.is_set():
                came = wire.next("MESSAGE", "RECEIPT")
                self.done()
                if came.command == "RECEIPT":
                    self.ledger.answered.add(held.pop(came.headers["receipt-id"]))
                    continue
                self.ledger.delivered(came.body)
                ack = came.headers["ack"]
                held[ack] = came.body
                if self._numbers % 7 < 5:
                    self.ledger.asked.add(came.body)
                    wire.send(frame("ACK", id=ack, receipt=ack))
                else:  # it comes again, from whoever follows or when this connection ends
                    del held[ack]
                    wire.send(frame("NACK", id=ack))
                self._numbers += 1


class HttpConsumer(Client):
    """GET, then DELETE."""

    def once(self) -> None:
        """Ten."""
        with Http(self.port, self.tls) as wire:
            for _ in range(10):
                answer = wire.ask("GET", f"/channels/{quote(self.queue())}?nowait", 200, 204)
                if answer.status == 200:
                    self.ledger.delivered(answer.body)
                    self.ledger.asked.add(answer.body)
                    # Under its lease: after a stall the loan may be over, and the message somebody else's.
                    id, lease = answer.headers["x-linger-msg-id"], answer.headers["x-linger-lease"]
                    if wire.ask("DELETE", f"/messages/{id}?lease={quote(lease)}", 204, 404, 409).status == 204:
                        self.ledger.answered.add(answer.body)
                self.done()


class Visitor(Client):
    """Connects, asks, and goes, to each front in turn: the one who would be refused."""

    def once(self) -> None:
        """Once."""
        with Http(self.port, self.tls) as wire:
            wire.ask("GET", "/healthz", 200)
            self.done()


KINDS: dict[str, list[type[Client]]] = {
    "memcache": [MemcacheProducer, MemcacheConsumer],
    "STOMP": [StompProducer, StompConsumer],
    "HTTP": [HttpProducer, HttpConsumer, Visitor],
    "memcache over TLS": [MemcacheProducer],
    "STOMP over TLS": [StompProducer, StompConsumer],
    "HTTP over TLS": [HttpConsumer, Visitor],
}


def load(ports: Mapping[str, int], tls: ssl.SSLContext, ledger: Ledger) -> list[Client]:
    """The clients of all these fronts, at work."""
    clients = [
        kind(f"{kind.__name__} {where}", ports[where], tls if "TLS" in where else None, ledger)
        for where in ports
        for kind in KINDS[where]
    ]
    for one in clients:
        one.start()
    return clients


def empty(port: int, ledger: Ledger) -> set[bytes]:
    """Take and settle all there is, once what is on loan has come back; what it was."""
    found: set[bytes] = set()
    deadline = time.monotonic() + LIMIT
    with Http(port) as wire:
        for queue in QUEUES:
            while wire.waiting(queue):
                assert time.monotonic() < deadline, f"{queue} is never empty"
                answer = wire.ask("GET", f"/channels/{quote(queue)}?wait={LEASE}", 200, 204)
                if answer.status == 200:
                    ledger.delivered(answer.body)
                    found.add(answer.body)
                    deadline = time.monotonic() + LIMIT
                    wire.ask("DELETE", f"/messages/{answer.headers['x-linger-msg-id']}", 204)
    return found
