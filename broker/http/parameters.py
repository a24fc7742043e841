"""The parameters of a request: from its query, a form body or a multipart body, by Linger's rules.

The body beats the query and the last of several values wins. A text has its control characters turned into spaces and
the blanks around it removed; a number is whatever Python's ``int`` reads (``1_0``, blanks around it), within 64 bits.
Only parameters somebody asks for are kept, so a body made of a million ampersands costs no memory.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from broker.core.policy import BindingPolicy
from broker.errors import BadValue
from broker.http.problem import Problem

NAMES = frozenset(
    {"priority", "timeout", "deliver", "linger", "delay", "nowait", "wait", "msg", "match"}
    | {"detail", "full", "queue", "after", "limit", "prefix"}
    | {"at", "group", "to", "strict", "lease", "ack", "worker", "code", "attempt", "reason", "dead", "free", "atomic"}
    | {"follows"}
    | {"state", "since", "until", "body", "ids", "from", "credit", "flow", "dry_run", "undo", "prune", "config"}
    | {"part", "level", "status", "connection", "seconds", "bytes", "log"}
)

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

#: Seconds a GET waits for a message. Linger ends its long poll between 120 and 130 s; its client gives up at 135.
LONG_POLL = 120

_MAX_INTEGER = 2**63 - 1
#: The same in a JSON body: longer ones are refused, as they are in parameters.
Integer = Annotated[int, msgspec.Meta(ge=-_MAX_INTEGER - 1, le=_MAX_INTEGER)]
#: 100 years. A longer time is taken as this, so that a moment in microseconds keeps within 53 bits.
MAX_SECONDS = 100 * 366 * 86400
#: Control characters but the ones that end or indent lines.
_control = re.compile("[\x00-\x08\x0e-\x1f]")


class Parameters:
    """The known parameters of one request."""

    def __init__(self, query: bytes, content_type: str = "", body: bytes = b"") -> None:
        """Raises `Problem` 400 if `body` is broken multipart. `content_type` is the body's, as it came."""
        self._values: dict[str, bytes] = dict(form_fields(query)) if query else {}
        media = content_type.lower()
        if media.startswith(FORM):
            self._values.update(form_fields(body))
        elif media.startswith(MULTIPART):
            self._values.update(multipart_fields(content_type, body))

    def __bool__(self) -> bool:
        """True if there is any."""
        return bool(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str | None:
        """The text of a parameter, None if it is absent; `Problem` 400 if it is not UTF-8."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return _control.sub(" ", value.decode()).strip()
        except UnicodeDecodeError:
            raise Problem(400, "bad-parameter") from None

    def integer(self, name: str, *, least: int, called: str) -> int | None:
        """The number of a parameter, None if it is absent; `BadValue` if it is none, below `least` or over 64 bits."""
        text = self.text(name)
        if text is None:
            return None
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= _MAX_INTEGER:
            raise BadValue(f"Invalid message {called}.")
        return number

    def flag(self, name: str) -> bool:
        """True if a parameter is there and does not say no (``0``, ``false``, ``no``)."""
        text = self.text(name)
        return text is not None and text.lower() not in ("0", "false", "no")

    def moment(self, name: str, now: int) -> int | None:
        """The moment a parameter names (us since 1970), None if it is absent; `BadValue` if it names none."""
        text = self.text(name)
        return None if text is None else moment(text, now, name)

    def milliseconds(self, name: str, *, least: int, called: str) -> int | None:
        """The same for a number of seconds, in milliseconds."""
        seconds = self.integer(name, least=least, called=called)
        return None if seconds is None else min(seconds, MAX_SECONDS) * 1000


_ago = re.compile(r"([+-]?)([0-9]{1,9})(ms|s|m|h|d)")
_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_MAX_MOMENT = 2**53 - 1


def moment(text: str, now: int, called: str) -> int:
    """A moment as people write it: seconds since 1970, a stamp (us), RFC 3339, or some time from `now`: ``-7d``.

    A number of 12 digits or more is a stamp. Raises `BadValue`.
    """
    found = _ago.fullmatch(text)
    if found is not None:
        away = int(found[2]) * _UNITS[found[3]]
        value = now - away if found[1] == "-" else now + away
    elif text.isascii() and text.isdigit() and len(text) <= 20:
        value = int(text) if len(text) >= 12 else int(text) * 1_000_000
    else:
        try:
            # a + in a query that was not escaped is a blank by now
            read = datetime.fromisoformat(text.replace(" ", "+") if "T" in text.upper() else text)
        except ValueError:
            raise BadValue(f"Invalid {called}: not a time, a stamp, or some time ago such as -7d.") from None
        read = read if read.tzinfo is not None else read.replace(tzinfo=UTC)
        value = round((read - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    if not 0 <= value <= _MAX_MOMENT:
        raise BadValue(f"Invalid {called}: out of range.")
    return value


class Wishes(msgspec.Struct, frozen=True):
    """Linger's four numbers under the broker's names; None where the request says nothing. Durations in ms."""

    priority: int | None
    lease: int | None
    max_attempts: int | None
    ttl: int | None

    @property
    def binding(self) -> BindingPolicy:
        """The same as the policy of a binding."""
        return BindingPolicy(self.priority, self.lease, self.ttl, self.max_attempts)


def wishes(parameters: Parameters) -> Wishes:
    """Read the four, in Linger's order and with its phrases; raises `BadValue` for the first that is wrong."""
    return Wishes(
        priority=parameters.integer("priority", least=-(2**63), called="priority"),
        lease=parameters.milliseconds("timeout", least=1, called="visibility timeout"),
        max_attempts=parameters.integer("deliver", least=0, called="delivery limit"),
        ttl=parameters.milliseconds("linger", least=0, called="delivery limit"),
    )


_prefer_wait = re.compile(r"(?:^|,)\s*wait\s*=\s*([0-9]{1,9})\s*(?:,|;|$)", re.IGNORECASE)


def wait_of(parameters: Parameters, prefer: str | None) -> int:
    """Seconds to wait: none with ``nowait`` whatever its value, else ``wait``, else ``Prefer``, else the long poll."""
    if "nowait" in parameters:
        return 0
    wait = parameters.integer("wait", least=0, called="wait")
    if wait is not None and wait > LONG_POLL:
        raise BadValue("Invalid message wait.")
    if wait is None and (preferred := _prefer_wait.search(prefer or "")):
        return min(int(preferred[1]), LONG_POLL)  # a preference is no order
    return LONG_POLL if wait is None else wait


def _spelled(name: str) -> str:
    """A pattern for `name`, any character of which may be escaped."""
    return "".join(f"(?:{c}|%{ord(c) >> 4:x}(?i:{ord(c) & 15:x}))" for c in name)


#: A known field among others. One search in C: going through 3 MB of ampersands one by one took 1.3 s.
_field = re.compile(f"(?:^|&)({'|'.join(map(_spelled, sorted(NAMES)))})(?:=([^&]*))?(?=&|\\Z)".encode())


def form_fields(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The known fields of ``a=1&b=2`` in order, as `urllib.parse.parse_qsl` with blank values reads them."""
    for found in _field.finditer(data):
        yield unquote(found[1]).decode(), unquote(found[2] or b"")


_bad_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PIECE = 64 * 1024


def unquote(raw: bytes) -> bytes:
    """Undo form encoding; a ``%`` that starts no escape stays, as in ``msg=100% sure``.

    3 MB of escapes cost `urllib` 0.7 s and 220 MB. Quoted-printable is the same code with another sign and is decoded
    in C: 26 ms and no memory beside the result.
    """
    raw = raw.replace(b"+", b" ")
    if b"%" not in raw:
        return raw
    if _bad_escape.search(raw):
        raw = b"".join(_bad_escape.sub(b"%25", piece) for piece in _pieces(raw))
    return binascii.a2b_qp(raw.replace(b"=", b"=3D").replace(b"%", b"="))


def _pieces(raw: bytes) -> Iterator[bytes]:
    """Cut between escapes: replacing a million times in one go would hold a million strings."""
    start = 0
    while start < len(raw):
        end = start + _PIECE
        percent = raw.find(b"%", end - 2, end)
        if end < len(raw) and percent >= 0:
            end = percent
        yield raw[start:end]
        start = end


_boundary = re.compile(r';\s*boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_disposition = re.compile(rb"^content-disposition:\s*form-data\s*(;.*)$", re.IGNORECASE | re.MULTILINE)
_field_name = re.compile(rb';\s*name=(?:"([^"]*)"|([^\s;"]+))', re.IGNORECASE)
_file_name = re.compile(rb";\s*filename\*?=", re.IGNORECASE)


def multipart_fields(content_type: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The known fields of a ``multipart/form-data`` body (RFC 7578) in order; a part with a file name is no field.

    Raises `Problem` 400 for what is not such a body.
    """
    found = _boundary.search(content_type)
    if found is None:
        raise _broken()
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("utf-8")
    # the first delimiter may open the body, all others end a line
    end = 0 if data.startswith(delimiter[2:]) else data.find(delimiter) + 2
    if end == 1:
        raise _broken()
    start = end + len(delimiter) - 2
    while data[start : start + 2] != b"--":
        end = data.find(delimiter, start)
        if data[start : start + 2] != b"\r\n" or end < 0:
            raise _broken()
        yield from _part(data, start + 2, end)
        start = end + len(delimiter)


def _part(data: bytes, start: int, end: int) -> Iterator[tuple[str, bytes]]:
    blank = data.find(b"\r\n\r\n", start, end)
    disposition = _disposition.search(data, start, blank) if blank >= 0 else None
    name = _field_name.search(disposition[1]) if disposition else None
    if disposition is None or name is None:
        raise _broken()
    field = (name[1] or name[2] or b"").decode("latin-1")
    if field in NAMES and not _file_name.search(disposition[1]):
        yield field, data[blank + 4 : end]


def _broken() -> Problem:
    return Problem(400, "bad-parameter")
