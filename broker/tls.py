"""TLS for any front: certificates that are read at the start and again on reload, and the way in through a handshake.

A front sees a connection only once its handshake is done: before that there is nothing to log in, to time out or to
count for it, and a client certificate, where one is asked for, has already said who comes. What fails before is one
line in the log with the peer and the reason.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IPullProducer,
    IReactorSocket,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.config import TLS
from broker.errors import ConfigError
from broker.hello import TLS_HELLO, shown
from broker.listen import Described, Way

#: Of TLS 1.2 only what has forward secrecy and authenticates what it encrypts; all of TLS 1.3 does.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
#: Seconds in which a handshake must be done; as long as STOMP gives for CONNECT. It is two round trips.
HANDSHAKE = 10.0
#: Seconds a peer gets to answer our goodbye; one that does not would otherwise stay for ever.
GOODBYE = 5.0


class Certificates:
    """What one listener shows, and whom it asks for: the files of its ``tls`` table, read now. Raises `ConfigError`.

    Paths hold from where the process stands now. With `protocols` these are offered by ALPN; a client that knows none
    of them goes on without.
    """

    def __init__(self, tls: TLS, protocols: list[bytes] | None = None) -> None:
        self.path = os.path.abspath(tls.certificate)
        self._key = os.path.abspath(tls.key or tls.certificate)
        self._clients = None if tls.clients is None else os.path.abspath(tls.clients)
        self._protocols = protocols or []
        self._context = self.read()

    @property
    def asks(self) -> bool:
        """True if a client must show a certificate of its own."""
        return self._clients is not None

    def read(self) -> SSL.Context:
        """What the files amount to now, for `take`; raises `ConfigError`. It may be called in a thread."""
        chain = _certificates(self.path, "certificate")
        _check_dates(chain[0], self.path)
        key = _key(self._key)
        if _public(key.public_key()) != _public(chain[0].public_key()):
            raise ConfigError(
                f"tls.key: {self._key} does not fit the certificate in {self.path}: name the key it was made with, and "
                "let the certificate of the server stand first in its file"
            )
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(CIPHERS)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
        context.set_session_id(os.urandom(16))  # a session is resumed where it began; without it, never
        try:
            context.use_certificate(chain[0])
            for further in chain[1:]:
                context.add_extra_chain_cert(further)
            context.use_privatekey(key)  # type: ignore[arg-type]  # what PEM holds
        except (SSL.Error, TypeError) as error:
            raise ConfigError(f"tls.certificate: {self.path} is of no use: {_words(error)}") from None
        if self._clients is not None:
            self._ask(context, self._clients)
        if self._protocols:
            context.set_alpn_select_callback(self._chosen)
        return context

    @staticmethod
    def _ask(context: SSL.Context, path: str) -> None:
        authorities = _certificates(path, "clients")
        store = context.get_cert_store()
        assert store is not None
        for one in authorities:
            _check_dates(one, path, "clients")
            store.add_cert(crypto.X509.from_cryptography(one))
            context.add_client_ca(one)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)

    def _chosen(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        return next((one for one in self._protocols if one in offered), SSL.NO_OVERLAPPING_PROTOCOLS)

    def take(self, context: SSL.Context) -> None:
        """Show this from the next handshake on; connections that are there stay."""
        self._context = context

    def connection(self) -> SSL.Connection:
        """For the next handshake."""
        return SSL.Connection(self._context, None)


def _read(path: str, key: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"tls.{key}: cannot read {path}: {error.strerror}") from None


def _certificates(path: str, key: str) -> list[x509.Certificate]:
    text = _read(path, key)
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise ConfigError(f"tls.{key}: {path} holds no certificate in PEM that can be read") from None


def _key(path: str) -> PrivateKeyTypes:
    text = _read(path, "key")
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o006:
        raise ConfigError(f"tls.key: {path}: others may read or write it (mode {mode:04o}): chmod 600")
    try:
        return load_pem_private_key(text, None)
    except TypeError:
        raise ConfigError(
            f"tls.key: {path} is encrypted, and nobody is there to be asked: openssl pkey -in {path} -out NEW"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"tls.key: {path} holds no private key in PEM that can be read") from None


def _public(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


def _check_dates(certificate: x509.Certificate, path: str, key: str = "certificate") -> None:
    now = datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < now:
        raise ConfigError(f"tls.{key}: {path} expired on {end:%Y-%m-%d %H:%M} UTC: renew it")
    if begin > now:
        raise ConfigError(
            f"tls.{key}: {path} is not valid before {begin:%Y-%m-%d %H:%M} UTC: is the machine's clock right?"
        )


def _words(error: BaseException | None) -> str:
    """What OpenSSL says is wrong, in its words."""
    stack = getattr(error, "args", ())
    if isinstance(error, SSL.Error) and stack and isinstance(stack[0], list) and stack[0]:
        return "; ".join(dict.fromkeys(entry[-1] for entry in stack[0] if entry[-1])) or "TLS error"
    return str(error)


@attrs.frozen
class Secured:
    """A way in through TLS. `admits` says of the name in a client's certificate whether it is somebody's."""

    way: Way
    certificates: Certificates
    clock: IReactorTime
    scheme: str
    admits: Callable[[str], bool]

    @property
    def name(self) -> str:
        """The address, as a URL has it."""
        return f"{self.scheme}://{self.way.name}"

    @property
    def local(self) -> bool:
        """TLS keeps nobody out who has no certificate."""
        return self.way.local

    def open(self, reactor: IReactorSocket, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept connections from now on."""
        return self.way.open(reactor, _TLSFactory(_Handshakes(self, factory), self))

    def close(self) -> None:
        """Give it up."""
        self.way.close()


def check_place(place: object) -> None:
    """That TLS can be put on a place to listen; raises `ConfigError`."""
    if isinstance(place, Described) and place.name.startswith(("ssl:", "tls:")):
        raise ConfigError(f"cannot listen on {place.name!r} with a tls table: the endpoint speaks TLS itself")


class _TLSFactory(TLSMemoryBIOFactory):
    """The connections of a listener as bytes come in."""

    def __init__(self, inner: _Handshakes, of: Secured) -> None:
        super().__init__(_Creator(of.certificates), False, inner, of.clock)
        self.protocol = _Transport
        self.clock = of.clock


@implementer(IOpenSSLServerConnectionCreator)
@attrs.frozen
class _Creator:
    certificates: Certificates

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """The context of this moment."""
        return self.certificates.connection()


class _Transport(TLSMemoryBIOProtocol):
    """What a front writes to.

    Twisted gathers small writes for a turn of the reactor, during which a front would believe its bytes sent; not here.
    """

    #: The name in the client's certificate, which was verified; empty: it was not asked for one.
    certified = ""
    #: True if the first byte that came begins no handshake.
    is_plain = False
    _heard = False
    _cut: IDelayedCall | None = None

    def dataReceived(self, data: bytes) -> None:
        """Bytes came, encrypted."""
        if not self._heard:
            self._heard = True
            self.is_plain = not data.startswith(TLS_HELLO)
        super().dataReceived(data)

    def getHandle(self) -> object:
        """The socket: what has the system bound the sending needs it."""
        assert self.transport is not None
        return self.transport.getHandle()  # type: ignore[attr-defined]

    def registerProducer(self, producer: IPullProducer, streaming: bool) -> None:
        """Twisted would ask who waits for an empty buffer in every turn of the reactor; the socket knows better.

        Nothing waits inside TLS itself: it is never renegotiated, and nobody writes before the handshake is done.
        """
        if streaming or self._lostTLSConnection:
            super().registerProducer(producer, streaming)
            return
        self._producer = _Drain(producer, self)
        assert self.transport is not None
        self.transport.registerProducer(self._producer, False)  # type: ignore[attr-defined]

    def loseConnection(self) -> None:
        """Say goodbye, and close when the peer has said it, too; or soon."""
        super().loseConnection()
        if self._cut is None and self.connected:
            self._cut = self.factory.clock.callLater(GOODBYE, self.abortConnection)  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is over."""
        if self._cut is not None and self._cut.active():
            self._cut.cancel()
        super().connectionLost(reason)


@implementer(IPullProducer)
class _Drain:
    """Tells a front's producer that the socket's buffer is empty."""

    def __init__(self, producer: IPullProducer, tls: _Transport) -> None:
        self._producer = producer
        self._tls = tls

    def resumeProducing(self) -> None:
        """It is."""
        below = self._tls.transport
        if getattr(below, "disconnecting", False):
            below.unregisterProducer()  # type: ignore[union-attr]  # or the socket would wait for more, and not close
        else:
            self._producer.resumeProducing()

    def pauseProducing(self) -> None:
        """TLS never asks for it, as nothing waits inside; a pull producer could not be paused either."""

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._producer.stopProducing()


class _Handshakes(Factory):
    """Connections that have not shown yet who they are, in front of the front's own factory."""

    noisy = False

    def __init__(self, of: Secured, front: IProtocolFactory) -> None:
        self.of = of
        self.front = front
        self.under_way: set[_Handshake] = set()

    def buildProtocol(self, addr: Any) -> _Handshake:
        """Somebody came."""
        return _Handshake(self, addr)

    def doStart(self) -> None:
        """The port is open."""
        self.front.doStart()

    def doStop(self) -> None:
        """The port is closed: who has not come in yet does not come in any more."""
        for one in list(self.under_way):
            one.give_up("the broker is stopping")
        self.front.doStop()


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """One connection until its handshake is done; then a protocol of the front stands in its place."""

    _log = Logger()
    transport: _Transport

    def __init__(self, factory: _Handshakes, address: IAddress) -> None:
        self._factory = factory
        self._address = address
        self._why = ""

    def connectionMade(self) -> None:
        """It begins."""
        self._factory.under_way.add(self)
        self._timer = self._factory.of.clock.callLater(
            HANDSHAKE, self.give_up, f"it was not done in {HANDSHAKE:g} seconds"
        )

    def handshakeCompleted(self) -> None:
        """The peer is who its certificate says, or nobody asked."""
        if self._why:
            return
        transport, of = self.transport, self._factory.of
        if of.certificates.asks:
            name = _common_name(transport.getPeerCertificate())
            if not name:
                self.give_up("the client's certificate has no common name, or several")
                return
            if not of.admits(name):
                self.give_up("the common name of the client's certificate is no user")
                return
            transport.certified = name
        self._over()
        front = self._factory.front.buildProtocol(self._address)
        if front is None:
            transport.abortConnection()
            return
        taking: IProtocol = front
        transport.wrappedProtocol = taking
        taking.makeConnection(transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It has failed."""
        self._over()
        why = self._why or ("what comes is no TLS" if self.transport.is_plain else _words(reason.value))
        self._log.info(
            "TLS handshake of {peer} on {where} failed: {reason}",
            peer=shown(self.transport.getPeer()),
            where=self._factory.of.name,
            reason=why,
        )

    def give_up(self, why: str) -> None:
        """Break off."""
        self._why = why
        self.transport.abortConnection()

    def _over(self) -> None:
        self._factory.under_way.discard(self)
        if self._timer.active():
            self._timer.cancel()


def _common_name(certificate: crypto.X509 | None) -> str:
    """The name of whom a certificate was made for; empty: it names nobody, or several."""
    if certificate is None:
        return ""
    names = certificate.to_cryptography().subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""
