"""TLS where plain text is spoken: noticed by its first byte, and named in the log.

A client that is told to use TLS on a plain port gets no answer it could understand, so what went wrong must stand where
somebody looks: in the broker's log, with the peer and the port.
"""

from __future__ import annotations

from typing import Protocol

from twisted.logger import Logger

#: The record type that a TLS handshake begins with; a control character, which begins nothing in any of our protocols.
TLS_HELLO = b"\x16"


class Transport(Protocol):
    """What is asked of a transport."""

    def getPeer(self) -> object: ...
    def getHost(self) -> object: ...
    def abortConnection(self) -> None: ...


def refuse(transport: Transport, log: Logger, front: str) -> None:
    """Close on who speaks TLS to a plain port of `front`, and say so."""
    log.info(
        "{front} client {peer} speaks TLS to {where}, a plain port: closed; a listener with a tls table speaks it",
        front=front,
        peer=shown(transport.getPeer()),
        where=shown(transport.getHost()),
    )
    transport.abortConnection()


def shown(address: object) -> str:
    """An address of Twisted's, for people."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
