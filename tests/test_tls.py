"""TLS on every front: real sockets, real clients, and certificates of the moment."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pymemcache
import pytest
import stomp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from twisted.internet import task
from twisted.internet.threads import deferToThread

from broker.config import TLS, HttpListener, MemcacheListener, StompListener, from_dict
from broker.errors import ConfigError
from broker.options import Options
from broker.running import IBrokerReactor
from broker.service import build
from broker.storage.memory import MemoryStore
from broker.tls import Certificates
from tests.auth.support import PASSWORD, Log, entry, everything, write
from tests.auth.test_service import basic
from tests.support import Served, Twistd, serving, tx

NOW = datetime.now(UTC)


class Authority:
    """Somebody who makes certificates, into files of a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _named(name)
        self.path = folder / f"{name}.pem"
        made = (
            _builder(self._subject, self._subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path.write_bytes(made.public_bytes(Encoding.PEM))

    def make(
        self,
        *names: str,
        file: str = "server",
        end: datetime = NOW + timedelta(days=1),
        encryption: KeySerializationEncryption | None = None,
    ) -> tuple[str, str]:
        """The paths of a certificate, with these common names, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            _builder(_named(*names), self._subject, key, end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate, secret = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        certificate.write_bytes(made.public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
        secret.chmod(0o600)
        return str(certificate), str(secret)

    def serving(self, **more: str) -> TLS:
        """A listener's table."""
        certificate, key = self.make("localhost")
        return TLS(certificate, key, **more)

    def client(self, *names: str) -> ssl.SSLContext:
        """Who trusts this authority and has a certificate of it, if it is to have `names`."""
        context = ssl.create_default_context(cafile=str(self.path))
        if names:
            context.load_cert_chain(*self.make(*names, file="client"))
        return context


def _named(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime = NOW + timedelta(days=1)
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=2))
        .not_valid_after(end)
    )


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def on_all(tls: TLS) -> dict[str, Any]:
    """Every front with TLS."""
    return {
        "memcache": [MemcacheListener(0, tls=tls)],
        "stomp": [StompListener(0, tls=tls)],
        "http": [HttpListener(0, tls=tls)],
    }


def users(folder: Path) -> str:
    return str(write(folder / "users.toml", {"alice": entry(**everything()), "bob": entry(browse="*")}))


def ask(port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    with contextlib.closing(
        http.client.HTTPSConnection("localhost", port, timeout=Twistd.PATIENCE, context=context)
    ) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def shake(port: int, context: ssl.SSLContext, *words: bytes) -> bytes:
    """Connect, say these one after the other, and read once after each; what was read last."""
    with (
        socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        told = b""
        for one in words:
            secured.sendall(one)
            told = secured.recv(65536)
        return told


def talk(port: int, words: bytes) -> bytes:
    """Say something in plain, and read until it is closed on."""
    with socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as connection:
        connection.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            return b"".join(iter(lambda: connection.recv(65536), b""))
        return b""


async def logged(log: Log, words: str) -> None:
    """Wait until a line has these words; the decorator's limit ends it."""
    from twisted.internet import reactor

    while words not in log.text:
        await task.deferLater(reactor, 0.005)


async def settled(served: Served) -> None:
    """Wait until nothing is on loan."""
    from twisted.internet import reactor

    while served.broker.queue_stats("work").on_loan:
        await task.deferLater(reactor, 0.005)


# -- every front


@tx()
async def test_memcache_with_pymemcache(ca: Authority) -> None:
    async with serving(**on_all(ca.serving())) as served:

        def both() -> object:
            client = pymemcache.Client(("localhost", served.memcache), tls_context=ca.client(), timeout=Twistd.PATIENCE)
            client.set("work", b"x" * 300_000)
            with contextlib.closing(client):
                return client.get("work")

        assert await deferToThread(both) == b"x" * 300_000


@tx()
async def test_stomp_with_stomp_py(ca: Authority) -> None:
    class Heard(stomp.ConnectionListener):  # type: ignore[misc]
        def __init__(self) -> None:
            self.bodies: list[str] = []

        def on_message(self, frame: Any) -> None:
            self.bodies.append(frame.body)

    async with serving(**on_all(ca.serving())) as served:
        heard = Heard()

        def begin() -> stomp.Connection12:
            where = [("localhost", served.stomp)]
            connection = stomp.Connection12(where)
            connection.set_ssl(where, ca_certs=str(ca.path))
            connection.set_listener("", heard)
            connection.connect(wait=True)
            connection.subscribe("/queue/work", id="1", ack="auto")
            for number in range(100):
                connection.send("/queue/work", f"{number}")
            return connection

        connection = await deferToThread(begin)
        from twisted.internet import reactor

        while len(heard.bodies) < 100:
            await task.deferLater(reactor, 0.005)
        assert heard.bodies == [str(number) for number in range(100)]
        # "auto" settles what has left our buffer: over TLS, too
        await settled(served)
        await deferToThread(connection.disconnect)


@tx()
async def test_http_with_http_client(ca: Authority) -> None:
    async with serving(**on_all(ca.serving())) as served:
        context = ca.client()
        assert (await deferToThread(ask, served.http, context, "POST", "/channels/work", b"x" * 200_000))[0] == 202
        got = await deferToThread(ask, served.http, context, "GET", "/channels/work?ack=auto")
        assert got == (200, b"x" * 200_000)
        await settled(served)
        assert served.service.fronts[2].way.name == f"https://127.0.0.1:{served.http}"


@tx()
async def test_a_request_that_is_refused_half_way_is_answered_and_said_goodbye_to(ca: Authority) -> None:
    def ask_for_too_much(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as plain:
            secured = ca.client().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
            secured.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
            told = b"".join(iter(lambda: secured.recv(65536), b""))  # SSLEOFError, if it only hangs up
            plain = socket.socket(fileno=secured.detach())
            plain.sendall(b"no TLS any more")
            plain.close()
            return told

    async with serving(**on_all(ca.serving())) as served:
        told = await deferToThread(ask_for_too_much, served.http)
        assert told.startswith(b"HTTP/1.1 431 ")
        await settled(served)


@tx()
async def test_http_1_1_is_agreed_and_nothing_where_a_client_knows_only_others(ca: Authority) -> None:
    async with serving(**on_all(ca.serving())) as served:

        def agreed(port: int, *offered: str) -> str | None:
            context = ca.client()
            context.set_alpn_protocols(list(offered))
            with socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as secured:
                    return secured.selected_alpn_protocol()

        assert await deferToThread(agreed, served.http, "h2", "http/1.1") == "http/1.1"
        assert await deferToThread(agreed, served.http, "h2") is None
        assert await deferToThread(agreed, served.stomp, "http/1.1") is None


@tx()
async def test_plain_and_tls_side_by_side_and_nothing_older_than_1_2(ca: Authority) -> None:
    both: list[Any] = [0, StompListener(0, tls=ca.serving())]
    async with serving(stomp=both) as served:
        plain, secured = (
            int(front.way.name.rpartition(":")[2]) for front in served.service.fronts if front.name == "stomp"
        )
        connect = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"
        assert (await deferToThread(talk, plain, connect + b"DISCONNECT\n\n\0")).startswith(b"CONNECTED\n")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ca.client()
            context.minimum_version = context.maximum_version = version
            assert (await deferToThread(shake, secured, context, connect)).startswith(b"CONNECTED\n"), version
        old = ca.client()
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with Log() as log:
            with pytest.raises(ssl.SSLError):
                await deferToThread(shake, secured, old)
            await logged(log, f"on tls://127.0.0.1:{secured} failed: unsupported protocol")


# -- what is wrong with a connection


@tx()
async def test_a_client_that_trusts_somebody_else_is_a_line_in_the_log(ca: Authority, tmp_path: Path) -> None:
    async with serving(**on_all(ca.serving())) as served:
        with Log() as log:
            with pytest.raises(ssl.SSLCertVerificationError):
                await deferToThread(shake, served.http, Authority(tmp_path, "other").client())
            await logged(log, f"on https://127.0.0.1:{served.http} failed: ")
            assert "unknown ca" in log.text


@tx()
async def test_plain_bytes_on_a_tls_port_and_tls_on_a_plain_one_are_named(ca: Authority) -> None:
    said = {"stomp": b"CONNECT\n\n\0", "memcache": b"version\r\n", "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"}
    async with serving(**on_all(ca.serving())) as served:
        for front in served.service.fronts:
            with Log() as log:
                await deferToThread(talk, int(front.way.name.rpartition(":")[2]), said[front.name])
                await logged(log, f"on {front.way.name} failed: what comes is no TLS")
                assert "TLS handshake of 127.0.0.1:" in log.text
    async with serving() as served:
        for front in served.service.fronts:
            with Log() as log:
                with pytest.raises((ssl.SSLError, ConnectionResetError)):
                    await deferToThread(shake, int(front.way.name.rpartition(":")[2]), ca.client())
                await logged(log, f"speaks TLS to {front.way.name}, a plain port: closed")


@tx()
async def test_who_says_nothing_is_closed_on_and_holds_up_no_stop(
    ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.tls.HANDSHAKE", 0.05)
    with Log() as log:
        async with serving(**on_all(ca.serving())) as served:
            await deferToThread(talk, served.stomp, b"")
            await logged(log, "it was not done in 0.05 seconds")
            monkeypatch.setattr("broker.tls.HANDSHAKE", 60.0)
            waiting = socket.create_connection(("127.0.0.1", served.stomp), Twistd.PATIENCE)
            waiting.sendall(b"\x16\x03\x01")
            # A second one is accepted behind it.
            assert await deferToThread(shake, served.stomp, ca.client(), b"CONNECT\n\n\0")
            assert served.service.fronts[1].connections.total == 1
        await logged(log, "failed: the broker is stopping")
        waiting.close()


@tx()
async def test_an_idle_connection_costs_no_turns_of_the_reactor(ca: Authority) -> None:
    """Twisted's own adapter asks a pull producer in every turn: one idle client would take a processor."""
    from twisted.internet import reactor

    async with serving(**on_all(ca.serving())) as served:

        def connect() -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", served.memcache), Twistd.PATIENCE)
            secured = ca.client().wrap_socket(plain, server_hostname="localhost")
            secured.sendall(b"version\r\n")
            assert secured.recv(100).startswith(b"VERSION")
            return secured

        secured = await deferToThread(connect)
        assert not [call for call in reactor.getDelayedCalls() if "_tick" in str(call)], "somebody asks in every turn"
        await deferToThread(secured.close)


@tx()
async def test_a_client_that_does_not_answer_the_goodbye_is_cut(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.tls.GOODBYE", 0.05)
    async with serving(**on_all(ca.serving())) as served:

        def leave() -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", served.memcache), Twistd.PATIENCE)
            secured = ca.client().wrap_socket(plain, server_hostname="localhost")
            secured.sendall(b"quit\r\n")
            return secured

        secured = await deferToThread(leave)
        from twisted.internet import reactor

        front = served.service.fronts[0].connections
        while not front.total or front.count():
            await task.deferLater(reactor, 0.005)
        secured.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it (second layer)")
@tx()
async def test_the_system_bounds_the_sending_as_on_a_plain_socket(ca: Authority) -> None:
    from twisted.internet import reactor

    async with serving(**on_all(ca.serving())) as served:
        connections = served.service.fronts[1].connections
        with socket.create_connection(("127.0.0.1", served.stomp), Twistd.PATIENCE) as plain:
            secured = await deferToThread(ca.client().wrap_socket, plain, server_hostname="localhost")
            while not connections.count():
                await task.deferLater(reactor, 0.005)
            (transport,) = connections._transports()
            handle = transport.getHandle()  # type: ignore[attr-defined]
            assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
            await deferToThread(secured.close)


@tx()
async def test_a_goodbye_is_answered_and_closed_on(ca: Authority) -> None:
    async with serving(**on_all(ca.serving())) as served:

        def leave(port: int, say: bytes) -> bytes:
            plain = socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE)
            secured = ca.client().wrap_socket(plain, server_hostname="localhost")
            secured.sendall(say)
            assert secured.recv(65536)
            with secured.unwrap() as left:
                return left.recv(1)

        connect = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"
        assert await deferToThread(leave, served.memcache, b"version\r\n") == b""
        assert await deferToThread(leave, served.stomp, connect) == b""
        assert await deferToThread(leave, served.http, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""


@tx()
async def test_a_client_that_reads_late_gets_everything_once_and_in_order(ca: Authority) -> None:
    """More than all buffers on the way hold: what waits in ours is on loan, and goes on when the socket is empty."""
    async with serving(**on_all(ca.serving())) as served:
        bodies = [b"%04d" % number + b"x" * 99_996 for number in range(60)]
        expected = b"".join(b"VALUE work 0 100000\r\n%b\r\nEND\r\n" % body for body in bodies)

        def connect() -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", served.memcache), Twistd.PATIENCE)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            secured = ca.client().wrap_socket(plain, server_hostname="localhost")
            secured.sendall(b"".join(b"set work 0 0 100000\r\n%b\r\n" % body for body in bodies))
            told = b""
            while told.count(b"STORED\r\n") < len(bodies):
                told += secured.recv(65536)
            secured.sendall(b"get work\r\n" * len(bodies))
            return secured

        secured = await deferToThread(connect)
        from twisted.internet import reactor

        while not served.broker.queue_stats("work").on_loan:
            await task.deferLater(reactor, 0.005)

        def rest() -> bytearray:
            told = bytearray()
            with secured:
                while len(told) < len(expected):
                    told += secured.recv(1 << 20)
            return told

        assert await deferToThread(rest) == expected
        await settled(served)


# -- certificates of clients


@tx()
async def test_a_certificate_says_who_a_client_is_on_every_front(ca: Authority, tmp_path: Path) -> None:
    tls = ca.serving(clients=str(ca.path))
    async with serving(**on_all(tls), users=users(tmp_path)) as served:
        alice, bob = ca.client("alice"), ca.client("bob")
        # HTTP: alice may do everything, bob may look
        assert (await deferToThread(ask, served.http, alice, "POST", "/channels/work", b"1"))[0] == 202
        status, body = await deferToThread(ask, served.http, bob, "POST", "/channels/work", b"1")
        assert status == 403
        assert b"user bob has no right" in body
        # who names a user all the same must have that one's password
        for name, password, expected in (("alice", PASSWORD, 202), ("alice", "wrong", 401)):
            header = {"Authorization": basic(name, password)}
            assert (await deferToThread(ask, served.http, bob, "POST", "/channels/work", b"1", **header))[0] == expected
        # memcache
        stored = await deferToThread(shake, served.memcache, alice, b"set work 0 0 1\r\nx\r\n")
        assert stored == b"STORED\r\n"
        refused = await deferToThread(shake, served.memcache, bob, b"set work 0 0 1\r\nx\r\n")
        assert refused.startswith(b"CLIENT_ERROR not allowed: user bob")
        # STOMP
        send = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0SEND\ndestination:work\nreceipt:1\n\nx\0"
        with Log() as log:
            assert b"CONNECTED" in await deferToThread(shake, served.stomp, alice, send)
            await logged(log, "user alice")
            await deferToThread(shake, served.stomp, bob, send)
            await logged(log, ", user bob")
            await logged(log, "refused: ")
        # a WebSocket
        upgrade = (
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        frame = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"
        with Log() as log:
            masked = b"\x82" + bytes([0x80 | len(frame)]) + bytes(4) + frame
            got = await deferToThread(shake, served.http, alice, upgrade, masked)
            assert b"CONNECTED" in got
            await logged(log, "user alice")


@tx()
async def test_no_certificate_a_foreign_one_and_one_of_nobody_are_refused(ca: Authority, tmp_path: Path) -> None:
    tls = ca.serving(clients=str(ca.path))
    foreign = ca.client()
    foreign.load_cert_chain(*Authority(tmp_path, "other").make("alice", file="foreign"))
    async with serving(**on_all(tls), users=users(tmp_path)) as served:
        for context, why in (
            (ca.client(), "peer did not return a certificate"),
            (foreign, "certificate verify failed"),
            (ca.client("mallory"), "the common name of the client's certificate is no user"),
            (ca.client("alice", "bob"), "the client's certificate has no common name, or several"),
        ):
            for front in served.service.fronts:
                with Log() as log:
                    with contextlib.suppress(OSError):  # with TLS 1.3 a client learns it from its first read
                        await deferToThread(shake, int(front.way.name.rpartition(":")[2]), context, b"x")
                    await logged(log, f"on {front.way.name} failed: {why}")
                    assert "mallory" not in log.text
        assert [front.connections.total for front in served.service.fronts] == [0, 0, 0]


@tx()
async def test_without_users_a_certificate_lets_in_and_anybody_may_do_everything(ca: Authority) -> None:
    async with serving(**on_all(ca.serving(clients=str(ca.path)))) as served:
        said = await deferToThread(shake, served.memcache, ca.client("whoever"), b"set work 0 0 1\r\nx\r\n")
        assert said == b"STORED\r\n"


@tx()
async def test_who_is_removed_from_the_users_is_refused_on_a_connection_he_has(ca: Authority, tmp_path: Path) -> None:
    path = users(tmp_path)
    async with serving(**on_all(ca.serving(clients=str(ca.path))), users=path) as served:

        def connect() -> http.client.HTTPSConnection:
            connection = http.client.HTTPSConnection(
                "localhost", served.http, timeout=Twistd.PATIENCE, context=ca.client("alice")
            )
            connection.request("GET", "/channels")
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)
            return connection

        connection = await deferToThread(connect)
        write(Path(path), {"bob": entry(browse="*")})
        await served.service.reloading.reload("test")

        def again() -> int:
            connection.request("GET", "/channels")
            return connection.getresponse().status

        assert await deferToThread(again) == 401
        await deferToThread(connection.close)


# -- files


def _missing(ca: Authority, folder: Path) -> TLS:
    return TLS(str(folder / "none.pem"))


def _no_certificate(ca: Authority, folder: Path) -> TLS:
    _, key = ca.make("localhost")
    return TLS(key, key)


def _no_key(ca: Authority, folder: Path) -> TLS:
    certificate, _ = ca.make("localhost")
    Path(certificate).chmod(0o600)
    return TLS(certificate)


def _foreign_key(ca: Authority, folder: Path) -> TLS:
    return TLS(ca.make("localhost")[0], ca.make("localhost", file="other")[1])


def _open_key(ca: Authority, folder: Path) -> TLS:
    certificate, key = ca.make("localhost")
    Path(key).chmod(0o644)
    return TLS(certificate, key)


def _encrypted_key(ca: Authority, folder: Path) -> TLS:
    return TLS(*ca.make("localhost", encryption=BestAvailableEncryption(b"canary")))


def _expired(ca: Authority, folder: Path) -> TLS:
    return TLS(*ca.make("localhost", end=NOW - timedelta(days=1)))


def _no_clients(ca: Authority, folder: Path) -> TLS:
    (folder / "clients.pem").write_text("nothing")
    return TLS(*ca.make("localhost"), clients=str(folder / "clients.pem"))


MISTAKES: list[tuple[Callable[[Authority, Path], TLS], str]] = [
    (_missing, r"tls.certificate: cannot read .*none.pem: No such file"),
    (_no_certificate, r"tls.certificate: .*server.key holds no certificate in PEM"),
    (_no_key, r"tls.key: .*server.pem holds no private key in PEM"),
    (_foreign_key, r"tls.key: .*other.key does not fit the certificate in .*server.pem: name the key"),
    (_open_key, r"tls.key: .*server.key: others may read or write it \(mode 0644\): chmod 600"),
    (_encrypted_key, r"tls.key: .*server.key is encrypted, .*: openssl pkey -in"),
    (_expired, r"tls.certificate: .*server.pem expired on 20..-..-.. ..:.. UTC: renew it"),
    (_no_clients, r"tls.clients: .*clients.pem holds no certificate in PEM"),
]


@pytest.mark.parametrize(("make", "reason"), MISTAKES, ids=lambda one: getattr(one, "__name__", ""))
def test_a_file_with_a_mistake_ends_the_start_with_a_line(
    make: Callable[[Authority, Path], TLS], reason: str, ca: Authority, tmp_path: Path
) -> None:
    from twisted.internet import reactor

    config = Options().config()
    config = msgspec.structs.replace(config, http=[HttpListener(0, tls=make(ca, tmp_path))], stomp=[0], memcache=[0])
    with pytest.raises(ConfigError, match=rf"^HTTP on 0: {reason}"):
        build(config, reactor=cast(IBrokerReactor, reactor), store=MemoryStore(), tell=lambda line: None)


def test_a_certificate_of_the_future_and_one_with_its_key_in_the_same_file(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = ca.make("localhost")
    both = tmp_path / "both.pem"
    both.write_text(Path(key).read_text() + Path(certificate).read_text() + ca.path.read_text())
    both.chmod(0o640)
    monkeypatch.chdir(tmp_path)
    found = Certificates(TLS("both.pem"))
    monkeypatch.chdir("/")  # as twistd does in the background
    found.take(found.read())

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return NOW - timedelta(days=3)

    monkeypatch.setattr("broker.tls.datetime", Earlier)
    with pytest.raises(ConfigError, match=r"both.pem is not valid before .*: is the machine's clock right\?"):
        found.read()


def test_the_configuration_of_a_listener(tmp_path: Path) -> None:
    said = from_dict({"http": [1, {"listen": 0, "tls": {"certificate": "a", "key": "b", "clients": "c"}}]})
    assert said.http == [1, HttpListener(0, TLS("a", "b", "c"))]
    for wrong, reason in (
        ({"key": "b"}, "stomp[0].tls: object missing required field `certificate`"),
        ({"certificate": "a", "cert": "b"}, "stomp[0].tls.cert: unknown key"),
    ):
        with pytest.raises(ConfigError) as caught:
            from_dict({"stomp": [{"listen": 0, "tls": wrong}]})
        assert caught.value.reason == reason


def test_an_endpoint_that_speaks_tls_takes_none(ca: Authority) -> None:
    from twisted.internet import reactor

    certificate, key = ca.make("localhost")
    place = f"ssl:0:privateKey={key}:certKey={certificate}"
    config = from_dict({"stomp": [{"listen": place, "tls": {"certificate": certificate, "key": key}}]})
    with pytest.raises(ConfigError, match="the endpoint speaks TLS itself"):
        build(config, reactor=cast(IBrokerReactor, reactor), store=MemoryStore(), tell=lambda line: None)


# -- reload


@tx()
async def test_new_handshakes_get_the_new_certificate_and_a_bad_file_changes_nothing(
    ca: Authority, tmp_path: Path
) -> None:
    tls = ca.serving()
    async with serving(**on_all(tls)) as served:
        reload = served.service.reloading.reload

        def number() -> int:
            return x509.load_der_x509_certificate(_shown(served.stomp, ca.client())).serial_number

        first = await deferToThread(number)
        old = http.client.HTTPSConnection("localhost", served.http, timeout=Twistd.PATIENCE, context=ca.client())

        def healthy() -> bool:
            old.request("GET", "/healthz")
            with old.getresponse() as answer:
                return answer.status == 200 and bool(answer.read())

        assert await deferToThread(healthy)
        ca.make("localhost")
        assert await deferToThread(number) == first
        with Log() as log:
            await reload("test")
            assert "test: new handshakes get the certificate in " in log.text
        second = await deferToThread(number)
        assert second != first
        shutil.copy(str(write(tmp_path / "users.toml", {})), tls.certificate)
        with Log() as log:
            with pytest.raises(ConfigError, match="holds no certificate"):
                await reload("test")
            assert "test: everything stays as it was: " in log.text
        assert await deferToThread(number) == second
        # who was there stays
        assert await deferToThread(healthy)
        await deferToThread(old.close)


def _shown(port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def test_a_broker_with_the_documented_certificates_and_sighup(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("missing: openssl (second layer: .ci/run installs it)")
    page = Path(__file__).resolve().parent.parent / "docs/operations.rst"
    commands = re.findall(r"^   \$ (openssl .*)$", page.read_text(), re.MULTILINE)
    assert len(commands) == 4
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=tmp_path, check=True, timeout=Twistd.PATIENCE)
    users(tmp_path)
    (tmp_path / "broker.toml").write_text(
        'memcache = ["off"]\nstomp = ["off"]\nusers = "users.toml"\ndata = ":memory:"\n'
        'http = [{ listen = 0, tls = { certificate = "broker.pem", key = "broker.key", clients = "ca.pem" } }]\n'
    )
    with Twistd(tmp_path, "--config=broker.toml", free_ports=False) as twistd:
        port = twistd.ports()["HTTP"]
        assert f"broker: HTTP on https://127.0.0.1:{port}\n" in twistd.said
        context = ssl.create_default_context(cafile=str(tmp_path / "broker.pem"))
        context.load_cert_chain(tmp_path / "alice.pem", tmp_path / "alice.key")
        assert ask(port, context, "POST", "/channels/work", b"1")[0] == 202
        subprocess.run(["sh", "-ec", commands[0]], cwd=tmp_path, check=True, timeout=Twistd.PATIENCE)
        twistd.process.send_signal(signal.SIGHUP)
        twistd.until("SIGHUP: new handshakes get the certificate in ")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, context, "GET", "/channels")
        (tmp_path / "broker.key").write_text("canary")
        twistd.process.send_signal(signal.SIGHUP)
        twistd.until("SIGHUP: everything stays as it was: tls.key: .*broker.key holds no private key in PEM")
        assert "canary" not in twistd.said
        twistd.process.terminate()
        twistd.wait()
        assert "PRIVATE KEY" not in twistd.said


def test_a_mistake_ends_twistd_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text('http = [{ listen = 0, tls = { certificate = "none.pem" } }]\n')
    with Twistd(tmp_path, "--config=broker.toml", free_ports=False) as twistd:
        assert twistd.wait() == 1
        path = tmp_path / "none.pem"
        line = f"broker: HTTP on 0: tls.certificate: cannot read {path}: No such file or directory\n"
        assert twistd.said == line
