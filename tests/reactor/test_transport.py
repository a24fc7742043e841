"""What a connection promises, on whichever reactor the tests run. `test_both` runs this file on the other one too."""

from __future__ import annotations

import functools
import os
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPullProducer,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from tests.reactor.support import MUCH, PATIENCE, Peer, Recorded, connected, listening, the_reactor, turn, until
from tests.support import flush_logged_errors, tx


@functools.cache
def numbered(size: int) -> bytes:
    """Bytes none of which could change places with another unseen."""
    return b"".join(b"%07d\n" % number for number in range(size // 8))


def _provides(interface: Any, one: object) -> bool:
    return bool(interface.providedBy(one))


# -- writing


@tx(120)
async def test_what_is_written_arrives_in_its_order_however_it_is_written() -> None:
    async with connected() as (server, peer):
        server.transport.write(b"one ")
        server.transport.writeSequence([b"two ", b"three "])
        server.transport.write(b"")
        server.transport.writeSequence([])
        server.transport.write(b"four")
        assert await peer.read(18) == b"one two three four"


@tx(120)
async def test_nothing_is_called_and_nothing_sent_while_something_is_written() -> None:
    async with connected() as (server, peer):
        producer = Pulled(server.transport, [])
        server.transport.registerProducer(producer, False)
        asked = producer.asked
        server.transport.write(b"later")
        peer.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.socket.recv(10)
        assert producer.asked == asked
        peer.socket.settimeout(PATIENCE)
        assert await peer.read(5) == b"later"
        await until(lambda: producer.asked > asked)
        server.transport.unregisterProducer()


@pytest.mark.parametrize(
    "text", ["text", 1, bytearray(b"bytes"), memoryview(b"bytes")], ids=lambda one: type(one).__name__
)
@tx(120)
async def test_only_bytes_can_be_written(text: object) -> None:
    async with connected() as (server, _):
        with pytest.raises(TypeError):
            server.transport.write(text)
        with pytest.raises(TypeError):
            server.transport.writeSequence([text])


@pytest.mark.parametrize("size", [1, 64 * 1024, 128 * 1024, 128 * 1024 + 1, MUCH])
@tx(120)
async def test_one_large_write_arrives_whole(size: int) -> None:
    data = numbered(size) or b"x"
    async with connected() as (server, peer):
        server.transport.write(data)
        assert await peer.read(len(data)) == data


@tx(120)
async def test_many_writes_arrive_whole_though_the_kernel_takes_them_in_parts() -> None:
    data = numbered(4 * 1024 * 1024)
    async with connected() as (server, peer):
        for start in range(0, len(data), 5000):
            server.transport.write(data[start : start + 5000])
            if start % 50_000 == 0:
                await turn()
        assert await peer.read(len(data)) == data


@tx(120)
async def test_what_is_written_while_earlier_bytes_wait_for_the_peer_comes_after_them() -> None:
    data = numbered(MUCH)
    async with connected() as (server, peer):
        server.transport.write(data)
        await turn(5)
        server.transport.write(b"after")
        await turn(5)
        server.transport.write(b"wards")
        assert await peer.read(len(data) + 10) == data + b"afterwards"


@tx(120)
async def test_what_is_written_before_the_first_read_and_from_timers_and_threads_is_sent() -> None:
    async with listening() as port:
        port.prepare = lambda one: setattr(one, "on_made", lambda: one.transport.write(b"hello "))
        peer = await port.connect()
        assert await peer.read(6) == b"hello "
        transport = port.made[0].transport
        the_reactor().callLater(0.01, transport.write, b"timer ")
        assert await peer.read(6) == b"timer "
        await deferToThread(the_reactor().callFromThread, transport.write, b"thread")
        assert await peer.read(6) == b"thread"


@tx(120)
async def test_a_reply_goes_out_though_the_peer_has_said_all_it_will() -> None:
    async with connected(HalfClosing) as (server, peer):
        server.on_data = lambda data: server.transport.write(b"reply to " + data)
        peer.send(b"this")
        peer.socket.shutdown(socket.SHUT_WR)
        assert await peer.read(13) == b"reply to this"
        await until(lambda: server.events == ["no more input"])
        server.transport.write(b" and this")
        server.transport.loseConnection()
        assert await peer.end() == b" and this"


@tx(120)
async def test_a_timer_set_when_all_is_sent_is_in_time() -> None:
    """The reactor had already worked out how long it may sleep."""
    async with connected() as (server, _):
        due: Deferred[None] = Deferred()
        producer = Pulled(server.transport, [])
        server.transport.registerProducer(producer, False)
        producer.on_asked = lambda: the_reactor().callLater(0.05, due.callback, None)
        begun = the_reactor().seconds()
        # Nothing else happens in this time that would wake it.
        late = the_reactor().callLater(60, lambda: None)
        server.transport.write(b"x")
        producer.on_asked, once = (lambda: None), producer.on_asked
        producer.once = once
        await due
        assert the_reactor().seconds() - begun < 30
        late.cancel()
        server.transport.unregisterProducer()


# -- reading


@tx(120)
async def test_all_that_is_sent_is_heard_in_order() -> None:
    data = numbered(4 * 1024 * 1024)
    async with connected() as (server, peer):
        await peer.send_all(data)
        await until(lambda: len(server.heard) == len(data))
        assert server.heard == data


@tx(120)
async def test_a_read_is_no_larger_than_64_kib() -> None:
    sizes: list[int] = []
    async with connected() as (server, peer):
        server.on_data = lambda data: sizes.append(len(data))
        server.transport.pauseProducing()
        await peer.send_all(bytes(300_000))
        server.transport.resumeProducing()
        await until(lambda: len(server.heard) == 300_000)
    assert max(sizes) == 65536


@tx(120)
async def test_who_is_paused_hears_nothing_until_he_is_resumed() -> None:
    async with connected() as (server, peer):
        server.transport.pauseProducing()
        peer.send(b"early")
        await turn(20)
        assert server.heard == b""
        server.transport.write(b"still writes")
        assert await peer.read(12) == b"still writes"
        assert server.heard == b""
        server.transport.resumeProducing()
        await until(lambda: server.heard == b"early")


@tx(120)
async def test_who_is_paused_notices_the_end_when_he_is_resumed() -> None:
    async with connected() as (server, peer):
        server.transport.pauseProducing()
        peer.send(b"last words")
        peer.socket.close()
        await turn(20)
        assert not server.lost
        server.transport.resumeProducing()
        await until(lambda: server.lost)
        assert server.heard == b"last words"
        assert server.lost[0].check(ConnectionDone)


@tx(120)
async def test_who_pauses_while_he_reads_has_read_for_the_last_time() -> None:
    async with connected() as (server, peer):
        server.on_data = lambda data: server.transport.pauseProducing()
        peer.send(b"a")
        await until(lambda: server.heard == b"a")
        peer.send(b"b")
        await turn(20)
        assert server.heard == b"a"
        server.transport.resumeProducing()
        await until(lambda: server.heard == b"ab")


@tx(120)
async def test_an_error_of_a_protocol_ends_its_connection_and_no_other() -> None:
    def fail(data: bytes) -> None:
        raise LookupError("mistake")

    async with listening() as port:
        bad, good = await port.connect(), await port.connect()
        port.made[0].on_data = fail
        port.made[1].on_data = lambda data: port.made[1].transport.write(data)
        bad.send(b"x")
        await until(lambda: port.made[0].lost)
        assert port.made[0].lost[0].check(LookupError)
        assert await bad.end() == b""
        good.send(b"fine")
        assert await good.read(4) == b"fine"
    assert len(flush_logged_errors(LookupError)) == 1


@tx(120)
async def test_an_error_that_looks_like_an_end_is_still_one() -> None:
    def fail(data: bytes) -> None:
        raise ConnectionDone

    async with connected(HalfClosing) as (server, peer):
        server.on_data = fail
        peer.send(b"x")
        await until(lambda: server.lost)
        assert server.events == []
        assert len(flush_logged_errors(ConnectionDone)) == 1


@tx(120)
async def test_an_error_at_the_end_of_a_connection_harms_no_other() -> None:
    def fail() -> None:
        raise LookupError("mistake")

    async with listening() as port:
        peers = [await port.connect() for _ in range(6)]
        for number, one in enumerate(port.made):
            if number % 2 == 0:
                one.on_lost = fail
        # All of it in one pass: half of them end, the others are sent and read.
        for one, peer in zip(port.made, peers, strict=True):
            one.transport.write(b"x")
            if one.on_lost is fail:
                one.transport.loseConnection()
            peer.send(b"y")
        assert [await peer.read(1) for peer in peers] == [b"x"] * 6
        await until(lambda: [bytes(one.heard) for one in port.made[1::2]] == [b"y"] * 3)
        await until(lambda: all(one.lost for one in port.made[::2]))
        # And half of them end by reading.
        for one in port.made:
            one.on_lost = fail
        for peer in peers[1::2]:
            peer.socket.close()
        await until(lambda: all(one.lost for one in port.made))
    assert len(flush_logged_errors(LookupError)) == 6


# -- the end of a connection


@tx(120)
async def test_a_peer_that_closes_is_done_and_one_that_resets_is_lost() -> None:
    async with listening() as port:
        closes, resets = await port.connect(), await port.connect()
        closes.socket.close()
        resets.reset()
        await until(lambda: all(one.lost for one in port.made))
        assert [one.lost[0].type for one in port.made] == [ConnectionDone, ConnectionLost]
        assert [len(one.lost) for one in port.made] == [1, 1]
        assert not any(one.transport.connected for one in port.made)


@pytest.mark.parametrize("how", ["closes", "resets"])
@tx(120)
async def test_a_peer_that_goes_while_bytes_wait_for_it_ends_the_connection_once(how: str) -> None:
    async with connected() as (server, peer):
        producer = Pulled(server.transport, [])
        server.transport.registerProducer(producer, False)
        server.transport.write(bytes(MUCH))
        await turn(5)
        peer.socket.close() if how == "closes" else peer.reset()  # closing with unread bytes resets, too
        await until(lambda: server.lost)
        assert server.lost[0].check(ConnectionLost)
        assert producer.stopped == 1
        server.transport.write(b"into the void")
        server.transport.writeSequence([b"into ", b"the void"])
        server.transport.loseConnection()
        server.transport.abortConnection()
        await turn(5)
        assert len(server.lost) == 1
        assert server.transport not in the_reactor().getWriters()


@pytest.mark.parametrize("how", ["closes", "resets"])
@tx(120)
async def test_bytes_written_after_the_peer_has_gone_change_nothing(how: str) -> None:
    async with connected() as (server, peer):
        peer.socket.close() if how == "closes" else peer.reset()
        server.transport.write(b"too late")
        await until(lambda: server.lost)
        assert server.lost[0].check(ConnectionDone, ConnectionLost)


@tx(120)
async def test_closing_sends_first_what_was_written() -> None:
    data = numbered(MUCH)
    async with connected() as (server, peer):
        server.transport.write(data)
        server.transport.loseConnection()
        assert server.transport.disconnecting
        await turn(5)
        assert not server.lost
        assert await peer.end() == data
        await until(lambda: server.lost)
        assert server.lost[0].check(ConnectionDone)


@tx(120)
async def test_closing_is_not_told_of_in_the_same_breath() -> None:
    async with connected() as (server, peer):
        server.transport.write(b"bye")
        server.transport.loseConnection()
        server.transport.loseConnection()
        assert not server.lost
        assert await peer.end() == b"bye"
        await until(lambda: server.lost)
        assert len(server.lost) == 1


@tx(120)
async def test_who_closes_while_it_reads_sends_its_answer_and_hears_no_more() -> None:
    async with connected() as (server, peer):

        def answer(data: bytes) -> None:
            server.transport.write(b"go away")
            server.transport.loseConnection()

        server.on_data = answer
        peer.send(b"hello")
        assert await peer.end() == b"go away"
        await until(lambda: server.lost)
        assert server.heard == b"hello"


@tx(120)
async def test_closing_right_at_the_beginning() -> None:
    async with listening() as port:

        def turn_away(one: Recorded) -> None:
            one.on_made = lambda: (one.transport.write(b"full"), one.transport.loseConnection())

        port.prepare = turn_away
        peer = await port.connect()
        assert await peer.end() == b"full"


@tx(120)
async def test_aborting_drops_what_was_written_and_resets() -> None:
    async with connected() as (server, peer):
        server.transport.write(bytes(MUCH))
        await turn(5)
        server.transport.abortConnection()
        server.transport.abortConnection()
        assert not server.lost
        with pytest.raises(ConnectionResetError):
            await peer.end()
        await until(lambda: server.lost)
        assert [one.type for one in server.lost] == [ConnectionAborted]


@tx(120)
async def test_what_was_just_written_is_not_sent_any_more_when_it_aborts() -> None:
    async with connected() as (server, peer):
        server.transport.write(b"never mind")
        server.transport.abortConnection()
        with pytest.raises(ConnectionResetError):
            await peer.read(10)
        await until(lambda: server.lost)
        assert server.lost[0].check(ConnectionAborted)


@pytest.mark.parametrize("sends_first", [True, False])
@tx(120)
async def test_one_connection_may_abort_another_in_the_midst_of_sending(sends_first: bool) -> None:
    async with listening() as port:
        peers = [await port.connect(), await port.connect()]
        one, other = port.made if sends_first else port.made[::-1]
        producer = Pulled(one.transport, [])
        one.transport.registerProducer(producer, False)
        producer.on_asked = other.transport.abortConnection
        for each in port.made:
            each.transport.write(b"x")
        await until(lambda: other.lost)
        assert other.lost[0].check(ConnectionAborted)
        assert await peers[port.made.index(one)].read(1) == b"x"
        one.transport.unregisterProducer()


@tx(120)
async def test_half_a_connection_can_be_closed_by_us() -> None:
    async with connected(HalfClosing) as (server, peer):
        server.transport.write(b"all I say")
        server.transport.loseWriteConnection()
        assert await peer.end() == b"all I say"
        await until(lambda: server.events == ["no more output"])
        server.transport.write(b"nothing")
        peer.send(b"and I hear")
        await until(lambda: server.heard == b"and I hear")
        peer.socket.close()
        await until(lambda: server.events == ["no more output", "no more input"])
        server.transport.loseConnection()
        await until(lambda: server.lost)


@tx(120)
async def test_half_a_connection_closes_after_all_that_waits() -> None:
    data = numbered(MUCH)
    async with connected(HalfClosing) as (server, peer):
        server.transport.write(data)
        server.transport.loseWriteConnection()
        assert await peer.end() == data
        await until(lambda: server.events == ["no more output"])


@tx(120)
async def test_a_protocol_that_knows_no_halves_ends_with_the_input() -> None:
    async with connected() as (server, peer):
        peer.send(b"x")
        peer.socket.shutdown(socket.SHUT_WR)
        await until(lambda: server.lost)
        assert server.heard == b"x"
        assert server.lost[0].check(ConnectionDone)
        assert await peer.end() == b""


# -- producers


@implementer(IPullProducer)
class Pulled:
    """Writes a piece whenever it is asked for one, and unregisters after the last."""

    def __init__(self, transport: Any, pieces: list[bytes]) -> None:
        self._transport = transport
        self._pieces = pieces
        self.asked = 0
        self.stopped = 0
        self.on_asked: Callable[[], object] = lambda: None
        self.once: Callable[[], object] | None = None

    def resumeProducing(self) -> None:
        self.asked += 1
        if self.once is not None:
            once, self.once = self.once, None
            once()
        self.on_asked()
        if self._pieces:
            self._transport.write(self._pieces.pop(0))
            if not self._pieces:
                self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped += 1


@implementer(IPushProducer)
class Pushing:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


@tx(120)
async def test_a_pull_producer_is_asked_once_for_every_piece_and_the_connection_closes_after_the_last() -> None:
    pieces = [bytes([65 + n]) * (1 + n * 40_000) for n in range(20)]
    async with connected() as (server, peer):
        producer = Pulled(server.transport, list(pieces))
        server.transport.registerProducer(producer, False)
        assert producer.asked == 1  # at once
        server.transport.loseConnection()
        assert await peer.end() == b"".join(pieces)
        assert producer.asked == 20
        await until(lambda: server.lost)


@tx(120)
async def test_a_pull_producer_that_never_ends_starves_nobody() -> None:
    async with listening() as port:
        greedy, modest = await port.connect(), await port.connect()
        producer = Pulled(port.made[0].transport, [])
        producer.on_asked = lambda: port.made[0].transport.write(b"x")
        port.made[0].transport.registerProducer(producer, False)
        port.made[1].on_data = lambda data: port.made[1].transport.write(data)
        for _ in range(10):
            modest.send(b"ping")
            assert await modest.read(4) == b"ping"
        assert await greedy.read(10) == b"x" * 10
        port.made[0].transport.unregisterProducer()


@tx(120)
async def test_a_pull_producer_is_not_asked_while_the_peer_does_not_read() -> None:
    async with connected() as (server, peer):
        producer = Pulled(server.transport, [])
        server.transport.registerProducer(producer, False)
        server.transport.write(bytes(MUCH))
        await turn(20)
        asked = producer.asked
        await turn(20)
        assert producer.asked == asked == 1
        await peer.read(MUCH)
        await until(lambda: producer.asked == 2)
        server.transport.unregisterProducer()


@tx(120)
async def test_a_push_producer_is_paused_when_much_waits_and_resumed_when_nothing_does() -> None:
    async with connected() as (server, peer):
        producer = Pushing()
        server.transport.registerProducer(producer, True)
        with pytest.raises(RuntimeError):
            server.transport.registerProducer(Pushing(), True)
        server.transport.write(bytes(65536))
        assert producer.told == []
        server.transport.write(b"x")
        assert producer.told == ["pause"]
        await peer.read(65537)
        await until(lambda: producer.told == ["pause", "resume"])
        server.transport.write(b"x")
        assert await peer.read(1) == b"x"
        await turn(5)
        server.transport.writeSequence([bytes(60_000), bytes(MUCH)])
        assert producer.told == ["pause", "resume", "pause"]
        await turn(20)
        assert len(producer.told) == 3
        await peer.read(60_000 + MUCH)
        await until(lambda: producer.told == ["pause", "resume", "pause", "resume"])
        peer.socket.close()
        await until(lambda: server.lost)
        assert producer.told[4:] == ["stop"]


@tx(120)
async def test_a_connection_closes_when_its_producer_is_gone() -> None:
    async with connected() as (server, peer):
        producer = Pulled(server.transport, [])
        server.transport.registerProducer(producer, False)
        server.transport.loseConnection()
        await turn(10)
        assert not server.lost
        server.transport.write(b"one more thing")
        server.transport.unregisterProducer()
        assert await peer.end() == b"one more thing"
        await until(lambda: server.lost)


@tx(120)
async def test_a_producer_that_fails_ends_its_connection() -> None:
    async with connected() as (server, peer):
        producer = Pulled(server.transport, [])
        server.transport.registerProducer(producer, False)

        def fail() -> None:
            raise LookupError("mistake")

        producer.on_asked = fail
        server.transport.write(b"x")
        await until(lambda: server.lost)
        assert server.lost[0].check(LookupError)
        assert await peer.end() == b"x"
        assert len(flush_logged_errors(LookupError)) == 1


@tx(120)
async def test_a_producer_registered_too_late_is_stopped() -> None:
    async with connected() as (server, peer):
        peer.socket.close()
        await until(lambda: server.lost)
        producer = Pushing()
        server.transport.registerProducer(producer, True)
        assert producer.told == ["stop"]


# -- TLS


class Upgrading(Recorded):
    """Says ``go`` and begins TLS when it is asked to."""

    def dataReceived(self, data: bytes) -> None:
        if data == b"STARTTLS\n":
            self.transport.write(b"go\n")
            self.transport.startTLS(_certificate())
        else:
            super().dataReceived(data)


@functools.cache
def _certificate() -> CertificateOptions:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    signed = builder.sign(key, hashes.SHA256())
    text = signed.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return PrivateCertificate.loadPEM(text).options()


async def _secured(peer: Peer) -> Peer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return Peer(await deferToThread(context.wrap_socket, peer.socket))


@tx(120)
async def test_tls_may_begin_in_the_midst_of_a_connection() -> None:
    data = numbered(4 * 1024 * 1024)
    async with connected(Upgrading) as (server, peer):
        peer.send(b"STARTTLS\n")
        assert await peer.read(3) == b"go\n"
        peer = await _secured(peer)
        assert _provides(ISSLTransport, server.transport)
        producer = Pushing()
        server.transport.registerProducer(producer, True)
        await peer.send_all(data)
        await until(lambda: len(server.heard) == len(data))
        assert server.heard == data
        server.transport.write(data[:10])
        server.transport.writeSequence([data[10:20], data[20:]])
        assert await peer.read(len(data)) == data
        await until(lambda: producer.told.count("resume") == producer.told.count("pause") > 0)
        server.transport.unregisterProducer()
        server.transport.write(b"bye")
        server.transport.loseConnection()
        assert await peer.end() == b"bye"
        peer.socket.close()
        await until(lambda: server.lost)


@tx(120)
async def test_tls_from_the_beginning_and_its_end() -> None:
    data = numbered(4 * 1024 * 1024)

    def listen(factory: Factory) -> Any:
        secured = TLSMemoryBIOFactory(_certificate(), False, factory, the_reactor())
        return the_reactor().listenTCP(0, secured, interface="127.0.0.1")

    async with listening(listen=listen) as port:
        port.prepare = lambda one: setattr(one, "on_data", lambda got: one.transport.write(got))
        peer = await _secured(await port.connect())
        await peer.send_all(b"ping")
        assert await peer.read(4) == b"ping"
        port.made[0].transport.write(data)
        port.made[0].transport.loseConnection()
        assert await peer.end() == data
        peer.socket.close()
        await until(lambda: port.made[0].lost)
        # A peer that does not speak TLS is shown out.
        plain = await port.connect()
        plain.send(b"GET / HTTP/1.0\r\n\r\n")
        await until(lambda: port.made[1].lost)
        assert port.made[1].lost[0].check(SSL.Error)


# -- ports


@tx(120)
async def test_a_unix_socket_serves_as_ever(tmp_path: Path) -> None:
    data = numbered(4 * 1024 * 1024)
    path = os.path.relpath(tmp_path / "s")  # noqa: ASYNC240 - their names are short
    async with listening(listen=lambda factory: the_reactor().listenUNIX(path, factory)) as port:
        port.prepare = lambda one: setattr(one, "on_data", lambda got: one.transport.write(got))
        peer = await port.connect(path, socket.AF_UNIX)
        peer.send(b"ping")
        assert await peer.read(4) == b"ping"
        port.made[0].transport.write(data)
        port.made[0].transport.loseConnection()
        assert await peer.end() == data
        await until(lambda: port.made[0].lost)
        assert port.made[0].lost[0].check(ConnectionDone)
        assert type(port.made[0].transport).__module__ == "twisted.internet.unix"


@tx(120)
async def test_ipv6_and_the_addresses_of_both_ends() -> None:
    own = socket.create_server(("::1", 0), family=socket.AF_INET6)
    own.setblocking(False)

    def adopt(factory: Factory) -> Any:
        with own:
            return the_reactor().adoptStreamPort(own.fileno(), socket.AF_INET6, factory)

    async with listening(listen=adopt) as port:
        host = port.port.getHost()
        peer = await port.connect((host.host, host.port), socket.AF_INET6)
        transport = port.made[0].transport
        assert (transport.getHost().host, transport.getHost().port) == peer.socket.getpeername()[:2]
        assert (transport.getPeer().host, transport.getPeer().port) == peer.socket.getsockname()[:2]
        transport.write(b"six")
        assert await peer.read(3) == b"six"


@tx(120)
async def test_what_a_transport_says_of_itself() -> None:
    async with connected() as (server, peer):
        transport = server.transport
        assert _provides(ITCPTransport, transport)
        assert (transport.getHost().host, transport.getHost().port) == peer.socket.getpeername()
        assert (transport.getPeer().host, transport.getPeer().port) == peer.socket.getsockname()
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (True, True)
        assert transport.getHandle().fileno() == transport.fileno()
        assert transport in the_reactor().getReaders()
        transport.write(b"x")
        assert the_reactor().getWriters().count(transport) == 1
        assert await peer.read(1) == b"x"
        await until(lambda: transport not in the_reactor().getWriters())
        transport.pauseProducing()
        assert transport not in the_reactor().getReaders()


@tx(120)
async def test_a_paused_port_accepts_nobody_until_it_is_resumed() -> None:
    async with listening() as port:
        port.port.pauseProducing()
        peer = await port.connect(waiting=False)
        await turn(20)
        assert port.made == []
        port.port.resumeProducing()
        await until(lambda: port.made and port.made[0].transport is not None)
        port.made[0].transport.write(b"in")
        assert await peer.read(2) == b"in"


@tx(120)
async def test_connections_outlive_their_port() -> None:
    async with listening() as port:
        peer = await port.connect()
        where = ("127.0.0.1", port.port.getHost().port)
        await port.port.stopListening()
        port.made[0].transport.write(b"still here")
        assert await peer.read(10) == b"still here"
        with pytest.raises(ConnectionRefusedError):
            await deferToThread(socket.create_connection, where)


@tx(120)
async def test_who_is_turned_away_is_closed() -> None:
    async with listening() as port:
        port.factory.buildProtocol = lambda address: None  # type: ignore[assignment]
        peer = await port.connect(waiting=False)
        assert await peer.end() == b""


@tx(120)
async def test_a_hundred_connections_at_once() -> None:
    async with listening() as port:
        port.prepare = lambda one: setattr(one, "on_data", lambda got: one.transport.write(got[::-1]))
        peers = [await port.connect() for _ in range(100)]
        for number, peer in enumerate(peers):
            peer.send(b"%03d" % number)
        for number, peer in enumerate(peers):
            assert await peer.read(3) == (b"%03d" % number)[::-1]


@implementer(IHalfCloseableProtocol)
class HalfClosing(Recorded):
    """Goes on when one direction has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def readConnectionLost(self) -> None:
        self.events.append("no more input")

    def writeConnectionLost(self) -> None:
        self.events.append("no more output")
