"""The upgrade of an HTTP request to STOMP in a WebSocket: which requests are fit for it, and the answer to them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from twisted.web import server
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource

from broker.stomp.server import StompFactory

PATHS = (b"/ws", b"/stomp")
#: Sub-protocols, the best first, and the version of STOMP that each stands for; empty: any.
SUBPROTOCOLS = {"v12.stomp": "1.2", "v11.stomp": "1.1", "v10.stomp": "1.0", "stomp": ""}


class WebSockets(Resource):
    """The paths under which an HTTP site speaks STOMP; `rest` is all the others.

    `refused` is asked before a client comes in: the status it is refused with, 0 if it is welcome.
    """

    isLeaf = True

    def __init__(self, rest: IResource, factory: StompFactory, refused: Callable[[Any], int]) -> None:
        super().__init__()
        self._rest = rest
        self._factory = factory
        self._refused = refused

    def render(self, request: Request) -> Any:
        """Begin to speak STOMP, or have the rest answer."""
        if request.path not in PATHS:
            return self._rest.render(request)
        status, fields = self._checked(request)
        if not status:
            self._upgrade(request)
            return server.NOT_DONE_YET
        request.setResponseCode(status, HTTPStatus(status).phrase.encode())
        request.setHeader(b"Server", b"twisted-broker")
        for name, value in fields.items():
            request.setHeader(name, value)
        request.setHeader(b"Content-Type", b"text/plain")
        return b"STOMP is spoken here in a WebSocket (RFC 6455).\n"

    def _checked(self, request: Request) -> tuple[int, dict[bytes, bytes]]:
        """The status a request is refused with, and headers of that answer; 0: it is welcome."""
        if request.method != b"GET":
            return 405, {b"Allow": b"GET"}
        if (request.getHeader("upgrade") or "").lower() != "websocket":
            return 426, {b"Upgrade": b"websocket", b"Connection": b"Upgrade"}
        if request.getHeader("sec-websocket-version") != "13":
            return 426, {b"Sec-WebSocket-Version": b"13"}
        try:
            key = base64.b64decode(request.getHeader("sec-websocket-key") or "", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        connection = (request.getHeader("connection") or "").lower()
        if len(key) != 16 or "upgrade" not in (word.strip() for word in connection.split(",")):
            return 400, {}
        return self._refused(request), {}

    def _upgrade(self, request: Request) -> None:
        # Only here: wsproto and what it takes along are 16 ms of a start, and most brokers never see a WebSocket.
        from wsproto.utilities import generate_accept_token

        from broker.stomp.websocket import Wire

        fields = request.requestHeaders.getRawHeaders("sec-websocket-protocol") or []
        offered = {word.strip() for field in fields for word in field.split(",")}
        known = [name for name in SUBPROTOCOLS if name in offered]
        versions = {SUBPROTOCOLS[name] for name in known}
        stomp = self._factory.buildProtocol(request.getClientAddress())
        if versions and "" not in versions:
            stomp.versions = frozenset(versions)
        channel: Any = request.channel
        channel.setTimeout(None)
        channel.transport.unregisterProducer()
        key = (request.getHeader("sec-websocket-key") or "").encode()
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + generate_accept_token(key),
            *([b"Sec-WebSocket-Protocol: " + known[0].encode()] if known else []),
        ]
        channel.transport.write(b"\r\n".join([*lines, b"", b""]))
        wire = Wire(stomp, self._factory.clock, channel.connectionLost, self._factory.terms.send_timeout)
        early, channel._dataBuffer = channel._dataBuffer, []
        # Unpublished in Twisted: it hands what comes, and the end, to the wire.
        channel._protocolUpgradeForWebsockets(wire)
        for data in early:
            wire.dataReceived(data)
        channel.transport.resumeProducing()
