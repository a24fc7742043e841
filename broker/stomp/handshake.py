"""CONNECT: what was agreed on, and what CONNECTED says. No transport here, and no users."""

from __future__ import annotations

from collections.abc import Container

import attrs

from broker import __version__
from broker.stomp import heartbeat
from broker.stomp.dialect import ALL, VERSIONS, Dialect, negotiate
from broker.stomp.errors import Refused
from broker.stomp.frames import Frame
from broker.stomp.heartbeat import Beats


@attrs.frozen
class Agreed:
    """What holds on a connection from CONNECTED on."""

    dialect: Dialect
    beats: Beats
    #: CONNECTED.
    reply: Frame


def agree(
    frame: Frame,
    session: str,
    versions: Container[str] = ALL,
    floor: int = heartbeat.FLOOR,
    ceiling: int = 0,
) -> Agreed:
    """The answer to the first frame of a connection, in one of these versions; raises `Refused`.

    `floor` is the shortest period of heart-beats (ms), `ceiling` the longest; 0: any.
    """
    if frame.command not in ("CONNECT", "STOMP"):
        raise Refused("not connected", "the first frame of a connection must be CONNECT or STOMP")
    headers = frame.headers
    dialect = negotiate(headers.get("accept-version"), versions)
    if dialect is None:
        raise Refused("version not supported", f"Supported protocol versions are {VERSIONS}")
    if not dialect.cr_is_data and any("\r" in name or "\r" in value for name, value in headers.items()):
        raise Refused("malformed line end", "a CR that no LF follows")
    try:
        beats = heartbeat.negotiate(headers.get("heart-beat"), floor, ceiling)
    except ValueError as error:
        raise Refused("Invalid heart-beat", str(error)) from None
    reply = {
        "version": dialect.version,
        "session": session,
        "server": f"twisted-broker/{__version__}",
        "heart-beat": beats.header,
    }
    # ActiveMQ's way: CONNECTED is the receipt, and echoes the request's id.
    for theirs, ours in (("receipt", "receipt-id"), ("request-id", "response-id")):
        if theirs in headers:
            reply[ours] = headers[theirs]
    return Agreed(dialect, beats, Frame("CONNECTED", reply))
