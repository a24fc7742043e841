"""What an answer promises is on disk when it is given. Shown with a store whose commits happen when the test says so.

That an answer has *not* come is known without waiting: two round trips on another connection leave no byte underway
that was written before them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from broker.core.store import Group
from broker.storage.memory import MemoryStore
from tests.clients.support import Wire, settled, stomp_wired, turn, wired
from tests.support import Served, serving, tx

MEMCACHE, STOMP, HTTP = "memcache", "STOMP", "HTTP"
Prepare = Callable[[Wire], Coroutine[Deferred[Any], Any, bytes]]


def http(method: str, path: str, body: bytes = b"") -> bytes:
    """A request."""
    return b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        method.encode(),
        path.encode(),
        len(body),
        body,
    )


@attrs.frozen
class Holding:
    """A broker whose store commits when told, and a connection nothing happens on but round trips."""

    served: Served
    store: MemoryStore
    other: Wire

    def to(self, protocol: str) -> contextlib.AbstractAsyncContextManager[Wire]:
        """A connection; a STOMP one is connected."""
        if protocol == STOMP:
            return stomp_wired(self.served.stomp)
        return wired(self.served.memcache if protocol == MEMCACHE else self.served.http)

    async def until_held(self, holds: Callable[[Group], object]) -> Group:
        """Let commits happen until there is one that `holds`; it is held from then on."""
        while True:
            await settled(lambda: self.store.held)
            group = self.store.held
            assert group is not None
            if holds(group):
                return group
            self.store.release_commit()

    async def round_trips(self) -> None:
        """Whatever was written before this is where it should be."""
        for _ in range(2):
            await self.other.ask(b"version\r\n", b"VERSION .*\r\n")


@contextlib.asynccontextmanager
async def holding() -> AsyncIterator[Holding]:
    """Commits happen at once until `hold` of the store is set."""
    store = MemoryStore()
    async with serving(store) as served, wired(served.memcache) as other:
        try:
            yield Holding(served, store, other)
        finally:
            store.hold = False
            if store.held is not None:
                store.release_commit()


def publishes(group: Group) -> bool:
    """Whether a group holds a message."""
    return bool(group.parts)


def settles(group: Group) -> bool:
    """Whether a group settles a message."""
    return bool(group.settled or group.jumps)


def defines(group: Group) -> bool:
    """Whether a group changes what there is."""
    return bool(group.definitions)


def sent(headers: str, body: bytes = b"x") -> bytes:
    """A SEND with a receipt."""
    return b"SEND\n%b\nreceipt:r\n\n%b\0" % (headers.encode(), body)


RECEIPT = b"RECEIPT\nreceipt-id:r\n\n\0"
STORED = b"STORED\r\n"
ACCEPTED = b"HTTP/1.1 202 "
DONE = b"HTTP/1.1 204 "

PUBLISHES = [
    (MEMCACHE, b"set q 0 0 1\r\nx\r\n", STORED),
    (MEMCACHE, b"set /topic/t 0 0 1\r\nx\r\n", STORED),
    (STOMP, sent("destination:/queue/q"), RECEIPT),
    (STOMP, sent("destination:/topic/t"), RECEIPT),
    (
        STOMP,
        b"BEGIN\ntransaction:1\n\n\0SEND\ndestination:q\ntransaction:1\n\nx\0COMMIT\ntransaction:1\nreceipt:r\n\n\0",
        RECEIPT,
    ),
    (HTTP, http("POST", "/channels/q", b"x"), ACCEPTED),
    (HTTP, http("POST", "/topics/t", b"x"), ACCEPTED),
]


@pytest.mark.parametrize(("protocol", "request_", "answer"), PUBLISHES)
@tx()
async def test_a_publish_is_answered_after_its_commit(protocol: str, request_: bytes, answer: bytes) -> None:
    async with holding() as broker, broker.to(HTTP) as admin, broker.to(protocol) as wire:
        await admin.ask(http("PUT", "/channels/reader/topics/t"), DONE)
        broker.store.hold = True
        wire.send(request_)
        await broker.until_held(publishes)
        await broker.round_trips()
        assert wire.received == b""
        broker.store.hold = False
        broker.store.release_commit()
        await wire.until(answer)


@pytest.mark.parametrize(("protocol", "request_", "answer"), PUBLISHES)
@tx()
async def test_a_message_is_delivered_after_its_commit(protocol: str, request_: bytes, answer: bytes) -> None:
    """Nobody gets what may yet be lost: neither a subscriber, nor who waits in a get, nor a live one of the topic."""
    async with holding() as broker, contextlib.AsyncExitStack() as opened:
        admin = await opened.enter_async_context(broker.to(HTTP))
        await admin.ask(http("PUT", "/channels/q/topics/t"), DONE)
        waiting = [await opened.enter_async_context(broker.to(one)) for one in (STOMP, STOMP, MEMCACHE, HTTP)]
        await waiting[0].ask(b"SUBSCRIBE\nid:1\ndestination:/topic/t\nreceipt:r\n\n\0", RECEIPT)
        await waiting[1].ask(b"SUBSCRIBE\nid:1\ndestination:/queue/q\nreceipt:r\n\n\0", RECEIPT)
        waiting[2].send(b"get q/t=60000\r\n")
        waiting[3].send(http("GET", "/channels/q"))
        await settled(lambda: broker.served.broker.queue_stats("q").waiters == 2)
        for one in waiting:
            one.received = b""
        wire = await opened.enter_async_context(broker.to(protocol))

        broker.store.hold = True
        wire.send(request_)
        await broker.until_held(publishes)
        await broker.round_trips()
        assert [one.received for one in waiting] == [b""] * 4
        broker.store.hold = False
        broker.store.release_commit()
        await wire.until(answer)
        await settled(lambda: any(one.received for one in waiting[1:]))


@tx()
async def test_replies_keep_their_order_whatever_waits_for_a_commit() -> None:
    async with holding() as broker, broker.to(MEMCACHE) as wire:
        broker.store.hold = True
        wire.send(b"set q 0 0 1\r\nx\r\nset /close 0 0 1\r\nx\r\nversion\r\nget q\r\n")
        await broker.until_held(publishes)
        await broker.round_trips()
        assert wire.received == b""
        broker.store.hold = False
        broker.store.release_commit()
        await wire.until(rb"^STORED\r\nCLIENT_ERROR [^\n]*\r\nVERSION [^\n]*\r\nVALUE q 0 1\r\nx\r\nEND\r\n$")


async def taken_by_stomp(wire: Wire) -> bytes:
    await wire.ask(b"SUBSCRIBE\nid:1\ndestination:q\nack:client\n\n\0", rb"MESSAGE\n.*\0")
    return b"ACK\nid:%b\nreceipt:r\n\n\0" % (await wire.until(rb"\nack:([^\n]*)\n"))[1]


async def taken_by_stomp_in_a_transaction(wire: Wire) -> bytes:
    ack = (await taken_by_stomp(wire)).replace(b"receipt:r", b"transaction:1")
    return b"BEGIN\ntransaction:1\n\n\0" + ack + b"COMMIT\ntransaction:1\nreceipt:r\n\n\0"


async def taken_by_http(wire: Wire) -> bytes:
    await wire.ask(http("GET", "/channels/q?nowait"), b"HTTP/1.1 200 .*\r\n\r\nx")
    return http("DELETE", "/messages/" + (await wire.until(rb"X-Linger-Msg-Id: (\d+)\r\n"))[1].decode())


async def taken_by_memcache(wire: Wire) -> bytes:
    await wire.ask(b"get q/open\r\n", b"x\r\nEND\r\n")
    return b"get q/close\r\n"


async def seen_by_http(wire: Wire) -> bytes:
    found = await wire.ask(http("HEAD", "/channels/q"), rb"X-Linger-Msg-Id: (\d+)\r\n.*\r\n\r\n")
    return http("DELETE", f"/messages/{found[1].decode()}")


def without_looking(request: bytes) -> Prepare:
    async def prepare(wire: Wire) -> bytes:
        return request

    return prepare


#: Which protocol, what comes before, returning the request that settles, and its answer.
SETTLEMENTS: dict[str, tuple[str, Prepare, bytes]] = {
    "ACK": (STOMP, taken_by_stomp, RECEIPT),
    "ACK in a transaction": (STOMP, taken_by_stomp_in_a_transaction, RECEIPT),
    "DELETE of a message": (HTTP, taken_by_http, DONE),
    "close": (MEMCACHE, taken_by_memcache, b"END\r\n"),
    "DELETE of a waiting message": (HTTP, seen_by_http, DONE),
    "purge": (HTTP, without_looking(http("DELETE", "/channels/q")), DONE),
    "flush": (MEMCACHE, without_looking(b"flush q\r\n"), b"END\r\n"),
    "flush_all": (MEMCACHE, without_looking(b"flush_all\r\n"), b"OK\r\n"),
}


@pytest.mark.parametrize(("protocol", "prepare", "answer"), SETTLEMENTS.values(), ids=SETTLEMENTS)
@tx()
async def test_a_settlement_is_answered_after_its_commit(protocol: str, prepare: Prepare, answer: bytes) -> None:
    async with holding() as broker, broker.to(MEMCACHE) as producer, broker.to(protocol) as wire:
        await producer.ask(b"set q 0 0 1\r\nx\r\n", STORED)
        request = await prepare(wire)
        await broker.round_trips()
        wire.received = b""
        broker.store.hold = True
        wire.send(request)
        await broker.until_held(settles)
        await broker.round_trips()
        assert wire.received == b""
        broker.store.hold = False
        broker.store.release_commit()
        await wire.until(answer)
        left = broker.served.broker.queue_stats("q")
        assert (left.ready, left.on_loan) == (0, 0)


CHANGES = {
    "delete": (MEMCACHE, b"delete reader\r\n", b"DELETED\r\n"),
    "bind": (HTTP, http("PUT", "/channels/other/topics/t"), DONE),
    "unbind": (HTTP, http("DELETE", "/channels/reader/topics/t"), DONE),
}


@pytest.mark.parametrize(("protocol", "request_", "answer"), CHANGES.values(), ids=CHANGES)
@tx()
async def test_a_change_is_answered_after_its_commit(protocol: str, request_: bytes, answer: bytes) -> None:
    async with holding() as broker, broker.to(HTTP) as admin, broker.to(protocol) as wire:
        await admin.ask(http("PUT", "/channels/reader/topics/t"), DONE)
        broker.store.hold = True
        wire.send(request_)
        await broker.until_held(defines)
        await broker.round_trips()
        assert wire.received == b""
        broker.store.hold = False
        broker.store.release_commit()
        await wire.until(answer)


@tx(120)
async def test_a_thousand_messages_share_twenty_commits() -> None:
    """Each commit lasts until a hundred more messages wait: 50 by memcache, 40 by STOMP, 10 by HTTP."""
    async with holding() as broker, contextlib.AsyncExitStack() as opened:
        store, stats = broker.store, broker.served.broker.queue_stats
        memcache = await opened.enter_async_context(broker.to(MEMCACHE))
        stomp = await opened.enter_async_context(broker.to(STOMP))
        posting = [await opened.enter_async_context(broker.to(HTTP)) for _ in range(100)]

        before, store.hold = store.commits, True
        for hundred in range(10):
            memcache.send(b"set q 0 0 1\r\nx\r\n" * 50)
            stomp.send(sent("destination:q") * 40)
            for wire in posting[10 * hundred : 10 * hundred + 10]:
                wire.send(http("POST", "/channels/q", b"x"))
            while stats("q").published + stats("q").incoming < 100 * hundred + 100 or store.held is None:
                await turn()
            store.release_commit()
        await broker.until_held(publishes)
        store.release_commit()
        commits = store.commits - before
        store.hold = False

        await settled(lambda: memcache.received == STORED * 500)
        await settled(lambda: stomp.received == RECEIPT * 400)
        for wire in posting:
            await wire.until(ACCEPTED)
    assert commits <= 20
