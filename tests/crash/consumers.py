"""Consumers: each is a thread's work, with connections of its own; some deliveries are always left unsettled."""

from __future__ import annotations

import random
from urllib.parse import quote

from tests.crash.clients import Frame, Http, Memcache, Ports, Refused, Stomp, frame
from tests.crash.ledger import Ledger, Sight, Transaction
from tests.crash.places import ONE, TWO, Copy
from tests.crash.producers import UNDER_WAY, send

#: Subscriptions of the two consumers that meet queues' policies. Of those that both have, one at a time has the queue,
#: or a message group.
UNDER_POLICIES = ("grouped", "ranked", "sole", "fragile", "patient", "keyed", "news", "volatile")
BESIDE_THEM = ("grouped", "sole", "two", "three", "spread+a")


def by_memcache(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """Two reads of a queue are open at times; END to the close of the older one settles it."""
    sight = Sight()
    reads: dict[str, list[Copy]] = {"one": [], "three": [], "later": [], "fleeting": []}
    with Memcache(ports.memcache) as client:
        while True:
            queue = chance.choice(["one", "three", *reads])
            held = reads[queue]
            closing = held[:1] if len(held) == 2 or chance.random() < 0.5 else []
            options = ("/close" if closing else "") + ("/open" if len(held) < 2 or chance.random() < 0.5 else "")
            ledger.asking(*closing)
            body = client.get(f"{queue}/t={100 if queue in ('one', 'three') else 1}{options}")
            ledger.answered(*closing)
            del held[: len(closing)]
            if body is not None:
                held.append(ledger.delivered(body, queue, sight))


def by_stomp(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """client-individual: acks in any order, each with its receipt; what is fragile fails at times."""
    _individually(UNDER_POLICIES, ports, ledger, chance)


def beside_it(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """Another of its kind."""
    _individually(BESIDE_THEM, ports, ledger, chance)


def _individually(queues: tuple[str, ...], ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    sight = Sight()
    held: list[tuple[str, Copy]] = []
    asked: dict[str, list[Copy]] = {}
    with Stomp(ports.stomp) as client:
        for queue in queues:
            client.subscribe(queue, "client-individual", 2 * UNDER_WAY)
        while True:
            if (delivery := _next(client, ledger, sight, asked)) is None:
                continue
            held.append(delivery)
            if len(held) <= UNDER_WAY:
                continue
            ack, copy = held.pop(chance.randrange(len(held)))
            if copy.home == "fragile" and chance.random() < 0.6:
                ledger.failed(copy)
                client.send(frame("NACK", id=ack, requeue="false" if chance.random() < 0.2 else "true"))
            else:
                asked[ack] = [copy]
                ledger.asking(copy)
                client.send(frame("ACK", id=ack, receipt=ack))


def in_runs(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """client: an ack settles what came before it, too."""
    sight = Sight()
    held: list[tuple[str, Copy]] = []
    asked: dict[str, list[Copy]] = {}
    with Stomp(ports.stomp) as client:
        client.subscribe("two", "client", 2 * UNDER_WAY)
        while True:
            if (delivery := _next(client, ledger, sight, asked)) is None:
                continue
            held.append(delivery)
            if len(held) > UNDER_WAY:
                count = chance.randint(1, UNDER_WAY)
                run, held = held[:count], held[count:]
                ack, copies = run[-1][0], [copy for _, copy in run]
                asked[ack] = copies
                ledger.asking(*copies)
                client.send(frame("ACK", id=ack, receipt=ack))


def in_transactions(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """One or two messages are acked, and others sent to queues and a topic: all of it, or nothing; some is aborted."""
    sight, number = Sight(), 0
    held: list[tuple[str, Copy]] = []
    with Stomp(ports.stomp) as client:
        client.subscribe("one", "client-individual", 2)
        while True:
            wanted = chance.randint(1, 2)
            while len(held) < wanted:
                held.append(_received(client.next("MESSAGE"), ledger, sight))
            number += 1
            begin = frame("BEGIN", transaction=number)
            acks = b"".join(frame("ACK", id=ack, transaction=number) for ack, _ in held)
            for is_committed in (False, True) if chance.random() < 0.2 else (True,):
                posts = [ledger.sending("mover", target, refused=True) for target in ("moved", "ranked", ONE)]
                client.send(begin + b"".join(send(post, transaction=number) for post in posts) + acks)
                if not is_committed:
                    client.send(frame("ABORT", transaction=number))
            transaction = Transaction(posts, [copy for _, copy in held])
            ledger.committing(transaction)
            client.send(frame("COMMIT", transaction=number, receipt=number))
            held = []
            while (came := client.next("RECEIPT", "MESSAGE", "ERROR")).command == "MESSAGE":
                held.append(_received(came, ledger, sight))
            if came.command == "ERROR":
                ledger.rolled_back(transaction)
                raise Refused(came)
            ledger.confirmed(*posts)
            ledger.answered(*transaction.acked)


def live(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """What topics get while it listens."""
    sight = Sight()
    with Stomp(ports.stomp) as client:
        for topic in (ONE, TWO):
            client.subscribe(topic, "auto", 0)
        while True:
            message = client.next("MESSAGE")
            ledger.heard(message.body, message.headers["subscription"], sight)


def by_http(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """GET, then DELETE; every fifth is left to its lease."""
    sight = Sight()
    left: list[Copy] = []
    with Http(ports.http) as client:
        while True:
            queue = chance.choice(("two", "three", "bounded"))
            taken = take_by_http(client, ledger, queue, sight, 1)
            if taken is None:
                continue
            id, lease, copy = taken
            if chance.random() < 0.8:
                # Under its lease: after a stall the loan may be over, and the message somebody else's.
                if settle_by_http(client, ledger, id, copy, lease):
                    ledger.kept(left)  # they were lent before: their loans were in this commit, or in an earlier one
                    left.clear()
            else:
                left.append(copy)


def _next(client: Stomp, ledger: Ledger, sight: Sight, asked: dict[str, list[Copy]]) -> tuple[str, Copy] | None:
    """The next delivery, by its ack id; None: it was the receipt of an ack in `asked`."""
    came = client.next("MESSAGE", "RECEIPT")
    if came.command == "RECEIPT":
        ledger.answered(*asked.pop(came.headers["receipt-id"]))
        return None
    return _received(came, ledger, sight)


def _received(message: Frame, ledger: Ledger, sight: Sight) -> tuple[str, Copy]:
    return message.headers["ack"], delivered_by_stomp(message, ledger, sight)


def delivered_by_stomp(message: Frame, ledger: Ledger, sight: Sight) -> Copy:
    """A MESSAGE came."""
    headers = message.headers
    again, count = headers["redelivered"] == "true", int(headers.get("delivery-count", "1"))
    return ledger.delivered(message.body, headers["subscription"], sight, redelivered=again, count=count)


def take_by_http(client: Http, ledger: Ledger, queue: str, sight: Sight, wait: int) -> tuple[str, str, Copy] | None:
    """One message of `queue`, on loan, with its id and its lease."""
    asked_at = ledger.tick()
    ledger.unread[queue] += 1
    answer = client.ask("GET", f"/channels/{quote(queue)}?wait={wait}", 200, 204)
    ledger.unread[queue] -= 1
    if answer.status == 204:
        return None
    count = int(answer.headers["x-linger-delivered"])
    copy = ledger.delivered(answer.body, queue, sight, asked_at=asked_at, count=count)
    return answer.headers["x-linger-msg-id"], answer.headers["x-linger-lease"], copy


def settle_by_http(client: Http, ledger: Ledger, id: str, copy: Copy, lease: str = "") -> bool:
    """Settle what was taken; with its `lease` only if that is not over, and whether it was not."""
    ledger.asking(copy)
    if lease:
        if client.ask("DELETE", f"/messages/{id}?lease={quote(lease)}", 204, 404, 409).status != 204:
            return False
    else:
        client.ask("DELETE", f"/messages/{id}", 204)
    ledger.answered(copy)
    return True
