"""What differs between the versions of STOMP, as data. Nothing else in this front asks for a version.

Two rules hold for what we write, whatever the version: a header never holds a NUL (it would end the frame), and what a
version cannot write in a header becomes a space, so that no sender can inject header lines into a receiver that speaks
another version.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec


class Dialect(msgspec.Struct, frozen=True):
    """One version's rules."""

    version: str
    #: On input: the character after a backslash -> what both mean. None: a backslash is data.
    unescape: dict[str, str] | None
    #: On output, for `str.translate`.
    escape_name: dict[int, str]
    escape_value: dict[int, str]
    #: Blanks around a header's value are not part of it.
    trims: bool
    #: A CR inside a line is data. At a line's end it belongs to the line's end in every version.
    cr_is_data: bool
    #: SUBSCRIBE and UNSUBSCRIBE must carry `id`, and an `id` names one subscription only.
    needs_id: bool
    #: There is a NACK.
    has_nack: bool
    #: The headers an ACK or NACK must carry.
    ack_headers: tuple[str, ...]
    #: MESSAGE carries `ack`, where the subscription is not `auto`.
    names_acks: bool


_NUL = {0: " "}
_LINE = {0: " ", 10: " ", 13: " "}

#: STOMP 1.0: no escapes. A name cannot hold a colon, so we write a space instead.
V1_0 = Dialect(
    version="1.0",
    unescape=None,
    escape_name={**_LINE, 58: " "},
    escape_value=_LINE,
    trims=True,
    cr_is_data=True,
    needs_id=False,
    has_nack=False,
    ack_headers=("message-id",),
    names_acks=False,
)

_ESCAPE_1_1 = {**_NUL, 10: "\\n", 58: "\\c", 92: "\\\\"}

#: STOMP 1.1: CR has no escape and is data, unless it is the last character of a line.
V1_1 = Dialect(
    version="1.1",
    unescape={"n": "\n", "c": ":", "\\": "\\"},
    escape_name=_ESCAPE_1_1,
    escape_value=_ESCAPE_1_1,
    trims=False,
    cr_is_data=True,
    needs_id=True,
    has_nack=True,
    ack_headers=("message-id", "subscription"),
    names_acks=False,
)

_ESCAPE_1_2 = {**_ESCAPE_1_1, 13: "\\r"}

#: STOMP 1.2.
V1_2 = Dialect(
    version="1.2",
    unescape={"n": "\n", "c": ":", "\\": "\\", "r": "\r"},
    escape_name=_ESCAPE_1_2,
    escape_value=_ESCAPE_1_2,
    trims=False,
    cr_is_data=False,
    needs_id=True,
    has_nack=True,
    ack_headers=("id",),
    names_acks=True,
)

#: Before a version is agreed on: CONNECT, STOMP and CONNECTED are never escaped, in any version.
HANDSHAKE = msgspec.structs.replace(V1_0, version="", trims=False)

#: From the highest version to the lowest.
DIALECTS = (V1_2, V1_1, V1_0)
ALL = frozenset(dialect.version for dialect in DIALECTS)
VERSIONS = ",".join(sorted(ALL))


def negotiate(accept_version: str | None, versions: Container[str] = ALL) -> Dialect | None:
    """The highest version both speak, of these; without the header that is 1.0; None if there is none in common.

    The order of the list does not matter, nor do blanks around its items.
    """
    offered = {item.strip() for item in ("1.0" if accept_version is None else accept_version).split(",")}
    both = (dialect for dialect in DIALECTS if dialect.version in offered and dialect.version in versions)
    return next(both, None)
