"""Heads in one piece: of requests, read once for all that are alike, and of answers.

The requests of a client differ in their first line and hardly in the others. Those are looked up as the bytes they are;
only what is in no way unusual is read here, and everything else is left to twisted.web, which says what is wrong.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from broker.http.fields import Fields

#: Bytes of a head that is read here, and heads that are kept.
LONGEST, _KEPT = 2048, 500

_request = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1")
#: A field without blanks at the ends of its value, and without what could end a line.
_field = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_secret = re.compile(rb"authorization", re.IGNORECASE)
#: Fields that say how to read on, but for the length.
_RARE = (b"transfer-encoding", b"expect", b"upgrade", b"connection")


class Head(NamedTuple):
    """The fields of a request; shared by all requests with the same, and so never changed."""

    fields: Fields
    #: Bytes of the body.
    length: int


def request_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Method and target; None: something else than the commonest form, or wrong."""
    found = _request.fullmatch(line)
    return None if found is None else (found[1], found[2])


def read(block: bytes) -> Head | None:
    """The lines between the first and the empty one; None: something is rare, or wrong."""
    # what is secret is not kept
    return _read(block) if _secret.search(block) else _known(block)


def _read(block: bytes) -> Head | None:
    fields, length = Fields(), None
    for line in block.split(b"\r\n"):
        found = _field.fullmatch(line)
        if found is None:
            return None
        name, value = found[1].lower(), found[2]
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 9:
                return None
            length = int(value)
        elif name in _RARE and (name, value.lower()) != (b"connection", b"keep-alive"):
            return None
        fields.addRawHeader(found[1], value)
    return Head(fields, length or 0)


#: 13 us for each request that has the fields of one before.
_known = lru_cache(_KEPT)(_read)


def written(version: bytes, status: int, reason: bytes, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer. A line end within a value is a blank."""
    lines = [b"%b %d %b" % (version, status, reason)]
    lines += [b"%b: %b" % (_spelled(name), value) for name, value in fields]
    head = b"\r\n".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines) - 1:
        head = b"\r\n".join(b" ".join(line.splitlines()) for line in lines)
    return head + b"\r\n\r\n"


@lru_cache(_KEPT)
def _spelled(name: bytes) -> bytes:
    """The name of a field as twisted.web spells it: ``Ce-Id``."""
    fields = Headers()
    fields.addRawHeader(name, b"")
    return next(fields.getAllRawHeaders())[0]


_date = 0, b""


def date() -> bytes:
    """For the field ``Date``: made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = now, datetimeToString(now)
    return _date[1]
