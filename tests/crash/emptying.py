"""Emptying a place after a restart: one consumer, alone, by each of the protocols; what it saw."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.crash.clients import PATIENCE, Frame, Http, Memcache, Ports, Refused, Stomp, frame
from tests.crash.consumers import delivered_by_stomp, settle_by_http, take_by_http
from tests.crash.ledger import Ledger, Sight
from tests.crash.places import ATTEMPTS, LEASE, OF_QUEUE, Copy, Place

#: Why a message leaves its home for its exit.
_REASONS = {"dead": ("max_attempts", "rejected"), "expired": ("expired",)}


def by_memcache(ports: Ports, ledger: Ledger, queue: str, count: int, sight: Sight) -> set[Copy]:
    """Take and settle `count` messages, which must be there."""
    seen: set[Copy] = set()
    with Memcache(ports.memcache) as client:
        for _ in range(count):
            copy = _one(client, ledger, queue, sight, 4 * LEASE)
            if copy is None:
                raise Refused(f"{queue} holds {count} messages but gave {len(seen)}")
            seen.add(copy)
    return seen


def by_http(ports: Ports, ledger: Ledger, queue: str, count: int, sight: Sight) -> set[Copy]:
    """Take and settle `count` messages, which must be there."""
    seen: set[Copy] = set()
    with Http(ports.http) as client:
        for _ in range(count):
            taken = take_by_http(client, ledger, queue, sight, 4 * LEASE // 1000)
            if taken is None:
                raise Refused(f"{queue} holds {count} messages but gave {len(seen)}")
            id, _, copy = taken
            seen.add(copy)
            settle_by_http(client, ledger, id, copy)
    return seen


def by_stomp(ports: Ports, ledger: Ledger, queue: str, count: int, sight: Sight) -> set[Copy]:
    """Take and settle `count` messages, which must be there."""
    seen: set[Copy] = set()
    asked: dict[str, Copy] = {}
    left = count
    with Stomp(ports.stomp) as client:
        client.subscribe(queue, "client-individual", 0)
        while left or asked:
            came = client.next("MESSAGE", "RECEIPT")
            if came.command == "RECEIPT":
                ledger.answered(asked.pop(came.headers["receipt-id"]))
                continue
            ack, copy = came.headers["ack"], delivered_by_stomp(came, ledger, sight)
            _judge_exit(came, queue, copy, ledger)
            left -= 1
            seen.add(copy)
            asked[ack] = copy
            ledger.asking(copy)
            client.send(frame("ACK", id=ack, receipt=ack))
    return seen


#: The ways to empty a queue; every check uses them all.
WAYS: tuple[Callable[[Ports, Ledger, str, int, Sight], set[Copy]], ...] = (by_memcache, by_http, by_stomp)


def until_all_left(ports: Ports, ledger: Ledger, place: Place, sight: Sight) -> set[Copy]:
    """Take and settle what `place` gives, until everything in it was settled or has gone to its exit."""
    seen: set[Copy] = set()
    deadline = time.monotonic() + PATIENCE
    with Memcache(ports.memcache) as client, Http(ports.http) as looking:
        while looking.waiting(place.name):
            if time.monotonic() > deadline:
                raise Refused(f"{place.name} keeps its last {looking.waiting(place.name)} messages")
            copy = _one(client, ledger, place.name, sight, 50)
            if copy is not None:
                seen.add(copy)
    return seen


def until_all_came(ports: Ports) -> None:
    """Wait until no message is delayed any more."""
    deadline = time.monotonic() + PATIENCE
    with Http(ports.http) as client:
        while client.delayed():
            if time.monotonic() > deadline:
                raise Refused("a message is delayed for too long")


def _one(client: Memcache, ledger: Ledger, queue: str, sight: Sight, wait: int) -> Copy | None:
    body = client.get(f"{queue}/t={wait}/open")
    if body is None:
        return None
    copy = ledger.delivered(body, queue, sight)
    ledger.asking(copy)
    client.get(f"{queue}/close")
    ledger.answered(copy)
    return copy


def _judge_exit(message: Frame, queue: str, copy: Copy, ledger: Ledger) -> None:
    """A message that was moved says why, and from where."""
    if queue == OF_QUEUE[queue].name:
        return
    said = {name: message.headers.get(name, "") for name in ("dead-letter-reason", "dead-letter-attempts")}
    reason, attempts = said.values()
    if reason not in _REASONS[queue] or (reason == "max_attempts" and int(attempts) != ATTEMPTS):
        ledger.wrong.append(f"{copy} was moved to {queue} and says {said}")
    if message.headers.get("original-destination") != f"/queue/{copy.home}":
        ledger.wrong.append(f"{copy} was moved to {queue} and does not say from where")
