"""What clients of each protocol are told when a commit fails, and that they go on when the disk does."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.clients.support import Wire, settled, stomp_wired, wired
from tests.faults.support import PLACES, Disk, store_on
from tests.support import serving, tx

LOSING = PLACES[:3]


def http(method: str, path: str, body: bytes = b"") -> bytes:
    """A request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def sent(body: bytes, receipt: bytes) -> bytes:
    """A SEND with a receipt."""
    return b"SEND\ndestination:stomp\nreceipt:%b\n\n%b\0" % (receipt, body)


UNAVAILABLE = rb"HTTP/1.1 503 .*\r\nRetry-After: 1\r\n.*HTTP 503 [^\n]*the disk"


@pytest.mark.parametrize("place", LOSING)
@tx()
async def test_producers_are_told_in_their_protocols_terms(tmp_path: Path, place: str) -> None:
    disk = Disk()
    async with (
        serving(store_on(tmp_path / "data", disk)) as served,
        wired(served.memcache) as memcache,
        wired(served.http) as web,
        stomp_wired(served.stomp) as failing,
        stomp_wired(served.stomp) as stomp,
    ):
        await memcache.ask(b"set m 0 0 1\r\n0\r\n", b"STORED\r\n")
        await stomp.ask(sent(b"0", b"r"), rb"RECEIPT\n.*\0")
        await web.ask(http("POST", "/channels/h", b"0"), b"HTTP/1.1 202 ")

        disk.fails = lambda tried, at: at == place
        await memcache.ask(b"set m 0 0 4\r\nlost\r\n", rb"^SERVER_ERROR the disk [^\r\n]*\r\n$")
        await failing.ask(sent(b"lost", b"r"), rb"^ERROR\nmessage:Store unavailable\n.*receipt-id:r\n.*the disk .*\0$")
        await failing.end()
        await web.ask(http("POST", "/channels/h", b"lost"), UNAVAILABLE)

        disk.is_back()  # the same connections, but the one that had an ERROR
        await memcache.ask(b"set m 0 0 1\r\n1\r\n", b"STORED\r\n")
        await stomp.ask(sent(b"1", b"r"), rb"RECEIPT\n.*\0")
        await web.ask(http("POST", "/channels/h", b"1"), b"HTTP/1.1 202 ")
        for name in b"m", b"stomp", b"h":
            for body in b"0", b"1":
                await memcache.ask(b"get %b\r\n" % name, rb"\r\n%b\r\nEND\r\n" % body)
            await memcache.ask(b"get %b\r\n" % name, rb"^END\r\n")


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@tx()
async def test_pipelined_producers_learn_which_failed(tmp_path: Path, number: int) -> None:
    """The first message is a commit, what comes meanwhile the next; what was confirmed is there, in order."""
    disk = Disk(lambda tried, at: (tried, at) == (number, "before COMMIT"))
    bodies = [b"%02d" % n for n in range(40)]
    async with serving(store_on(tmp_path / "data", disk)) as served, wired(served.memcache) as memcache:
        confirmed = []
        for first in range(0, 40, 10):
            some = bodies[first : first + 10]
            memcache.received = b""
            memcache.send(b"".join(b"set q 0 0 2\r\n%b\r\n" % body for body in some))
            await settled(lambda: memcache.received.count(b"\r\n") == 10)
            told = memcache.received.splitlines()
            assert all(line == b"STORED" or line.startswith(b"SERVER_ERROR the disk") for line in told)
            confirmed += [body for body, line in zip(some, told, strict=True) if line == b"STORED"]
        assert 0 < len(confirmed) < 40
        for body in confirmed:
            await memcache.ask(b"get q\r\n", rb"\r\n%b\r\nEND\r\n" % body)
        await memcache.ask(b"get q\r\n", rb"^END\r\n")


@tx()
async def test_a_stomp_producer_that_pipelines_has_receipts_for_what_is_kept(tmp_path: Path) -> None:
    disk = Disk(lambda tried, at: (tried, at) == (2, "before COMMIT"))
    async with (
        serving(store_on(tmp_path / "data", disk)) as served,
        stomp_wired(served.stomp) as stomp,
        wired(served.memcache) as memcache,
    ):
        stomp.send(b"".join(sent(b"%d" % n, b"%d" % n) for n in range(10)))
        received = await stomp.end()
        receipts = received.count(b"RECEIPT\n")
        assert received.count(b"ERROR\n") == 1
        assert b"receipt-id:%d\n" % receipts in received[received.index(b"ERROR\n") :]
        # after a failure the disk is tried again every second, or with the next publish
        for n in range(receipts):
            await memcache.ask(b"get stomp/t=5000\r\n", rb"\r\n%d\r\nEND\r\n" % n)
        await memcache.ask(b"get stomp\r\n", rb"^END\r\n")


@tx()
async def test_a_stomp_transaction_fails_whole(tmp_path: Path) -> None:
    disk = Disk()
    async with (
        serving(store_on(tmp_path / "data", disk)) as served,
        stomp_wired(served.stomp) as stomp,
        wired(served.memcache) as memcache,
    ):
        await stomp.ask(b"BEGIN\ntransaction:1\nreceipt:1\n\n\0", rb"RECEIPT\n.*\0")
        for name in b"a", b"b":
            stomp.send(b"SEND\ndestination:%b\ntransaction:1\n\nlost\0" % name)
        disk.breaks()
        await stomp.ask(b"COMMIT\ntransaction:1\nreceipt:2\n\n\0", rb"ERROR\nmessage:Store unavailable\n.*\0")
        disk.is_back()
        for name in b"a", b"b":
            await memcache.ask(b"get %b\r\n" % name, rb"^END\r\n")


@tx()
async def test_settlements_wait_for_the_disk(tmp_path: Path) -> None:
    """Nobody is told that a message is done with while that is not on disk; nobody has to ask again either."""
    disk = Disk()
    async with (
        serving(store_on(tmp_path / "data", disk)) as served,
        wired(served.memcache) as memcache,
        wired(served.http) as web,
        stomp_wired(served.stomp) as stomp,
        wired(served.memcache) as other,
    ):
        for n in range(4):
            await other.ask(b"set q 0 0 1\r\n%d\r\n" % n, b"STORED\r\n")
        await memcache.ask(b"get q/open\r\n", b"0\r\nEND\r\n")
        await web.ask(http("GET", "/channels/q?nowait"), rb"\r\n\r\n1$")
        message_id = (await web.until(rb"X-Linger-Msg-Id: (\d+)\r\n"))[1].decode()
        await stomp.ask(b"SUBSCRIBE\nid:1\ndestination:q\nack:client\nprefetch-count:1\n\n\0", rb"MESSAGE\n.*2\0")
        ack = (await stomp.until(rb"\nack:([^\n]*)\n"))[1]
        await stomp.ask(b"UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0", rb"RECEIPT\n.*\0")

        disk.breaks()
        waiting = [
            answer(memcache, b"get q/close\r\n", rb"^END\r\n$"),
            answer(web, http("DELETE", f"/messages/{message_id}"), rb"^HTTP/1.1 204 "),
            answer(stomp, b"ACK\nid:%b\nreceipt:a\n\n\0" % ack, rb"^RECEIPT\nreceipt-id:a\n\n\0$"),
        ]
        await settled(lambda: served.broker.queue_stats("q").on_loan == 0)
        # nor does a producer's failure answer them
        await other.ask(b"set q 0 0 4\r\nlost\r\n", rb"SERVER_ERROR [^\r\n]*\r\n")
        for _ in range(2):
            await other.ask(b"version\r\n", b"VERSION .*\r\n")
        assert [one.received for one in (memcache, web, stomp)] == [b""] * 3

        disk.is_back()
        for one in waiting:
            await one
        await other.ask(b"get q\r\n", b"\r\n3\r\nEND\r\n")
        await other.ask(b"get q\r\n", b"^END\r\n")


def answer(wire: Wire, request: bytes, pattern: bytes) -> Deferred[object]:
    """Send; fires with the answer."""
    return Deferred.fromCoroutine(wire.ask(request, pattern))


@tx()
async def test_consumers_are_told_or_wait_while_nothing_can_be_reserved(tmp_path: Path) -> None:
    async with serving(store_on(tmp_path / "data", Disk())) as served, wired(served.memcache) as memcache:
        for n in range(4):
            await memcache.ask(b"set q 0 0 1\r\n%d\r\n" % n, b"STORED\r\n")
    disk = Disk()
    async with (
        serving(store_on(tmp_path / "data", disk)) as served,
        wired(served.memcache) as memcache,
        wired(served.http) as web,
        stomp_wired(served.stomp) as stomp,
    ):
        disk.breaks()
        await memcache.ask(b"get q\r\n", rb"^SERVER_ERROR [^\r\n]*the disk[^\r\n]*\r\n$")
        await web.ask(http("GET", "/channels/q?nowait"), UNAVAILABLE)
        await stomp.ask(b"SUBSCRIBE\nid:1\ndestination:q\nreceipt:s\n\n\0", rb"^RECEIPT\n.*\0$")
        disk.is_back()
        await stomp.until(rb"\0MESSAGE\n.*0\0MESSAGE\n.*1\0MESSAGE\n.*2\0MESSAGE\n.*3\0$")
        assert b"redelivered:true" not in stomp.received
        await settled(lambda: served.broker.stats.settled == 4)
