"""What a client is told when something goes wrong: one exception, one table, two renderings.

By default an error is what Linger answers: the status with the explanation as its reason phrase, and the text line
``HTTP <code> <reason>``. A client whose ``Accept`` names a JSON type gets ``application/problem+json`` (RFC 9457).
"""

from __future__ import annotations

import http
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from broker.errors import (
    BadName,
    BadValue,
    Blocked,
    BrokerError,
    LeaseLost,
    MessageTooLarge,
    NotAllowed,
    NotFound,
    NothingToReload,
    NotUpgraded,
    OverLimit,
    QueueFull,
    Stopping,
    StoreRefused,
    StoreUnavailable,
)

#: Seconds after which a client told to come back may try again: a few group commits, or one consumer's round.
RETRY_AFTER = 1

#: Status and problem type of every error of the broker. A size error is 400, as in Linger: all routes here are its own.
_TABLE: dict[type[BrokerError], tuple[int, str]] = {
    BadName: (400, "bad-parameter"),
    BadValue: (400, "bad-parameter"),
    MessageTooLarge: (400, "too-large"),
    StoreRefused: (400, "refused"),
    NotAllowed: (403, "forbidden"),
    NotFound: (404, "not-found"),
    LeaseLost: (409, "lease-lost"),
    NothingToReload: (409, "nothing-to-reload"),
    NotUpgraded: (409, "not-upgraded"),
    StoreUnavailable: (503, "overloaded"),
    Stopping: (503, "draining"),
    Blocked: (503, "blocked"),
    OverLimit: (429, "too-many"),
    QueueFull: (507, "channel-full"),
}


_refused = re.compile(r"q\s*=\s*0(\.0*)?")


class Problem(Exception):
    """An answer that is an error. `reason` is one line for people; empty: the status' own name."""

    def __init__(
        self,
        status: int,
        kind: str,
        reason: str = "",
        *,
        allow: tuple[str, ...] = (),
        retry_after: int | None = None,
        silent: bool = False,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, kind, reason)
        self.status = status
        #: The last part of the problem type's address.
        self.kind = kind
        self.reason = printable(reason) or title(status)
        #: Methods for the ``Allow`` header of a 405.
        self.allow = allow
        self.retry_after = retry_after
        #: True: no text line in the body. Linger's two answers about an unknown message.
        self.silent = silent
        #: Further members of the problem document: ``errors``, ``failed``, ...
        self.said = said or {}


class Rendered(msgspec.Struct, frozen=True):
    """A problem as it goes on the wire."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


def title(status: int) -> str:
    """The name of a status: ``Not Found``."""
    return http.HTTPStatus(status).phrase


def printable(text: str) -> str:
    """`text` fit for a status line: printable ASCII, everything else as ``?``."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def of(error: BrokerError) -> Problem:
    """The problem an error of the broker is; a kind that is not in the table is our fault (500) and says nothing."""
    for kind in type(error).__mro__:
        if kind in _TABLE:
            status, name = _TABLE[kind]
            retry = RETRY_AFTER if error.retryable else None
            if isinstance(error, OverLimit):
                retry = max(math.ceil(error.after), RETRY_AFTER)
            position = getattr(error, "position", None)
            said = {} if position is None else {"errors": [{"detail": error.reason, "position": position}]}
            return Problem(status, name, error.reason, retry_after=retry, silent=status == 404, said=said)
    return Problem(500, "internal")


def wants_json(accept: str) -> bool:
    """True if an ``Accept`` header names a JSON type; ``*/*`` does not name one."""
    for choice in accept.split(","):
        media, *parameters = (part.strip().lower() for part in choice.split(";"))
        named = media == "application/json" or media.endswith("+json")
        if named and not any(_refused.fullmatch(parameter) for parameter in parameters):
            return True
    return False


def render(problem: Problem, accept: str = "", instance: str = "") -> Rendered:
    """The problem as the client asked for it; `instance` is the path of the request."""
    headers: list[tuple[bytes, bytes]] = []
    if problem.allow:
        headers.append((b"Allow", ", ".join(problem.allow).encode()))
    if problem.retry_after is not None:
        headers.append((b"Retry-After", b"%d" % problem.retry_after))
    if wants_json(accept):
        headers.append((b"Content-Type", b"application/problem+json"))
        document: dict[str, Any] = {
            "type": f"/problems/{problem.kind}",
            "title": title(problem.status),
            "status": problem.status,
            "detail": problem.reason,
            "instance": instance,
        }
        if problem.retry_after is not None:
            document["retry_after"] = problem.retry_after
        document.update(problem.said)
        body = msgspec.json.encode(document)
    elif problem.silent:
        headers.append((b"Content-Type", b"text/plain"))
        body = b""
    else:
        headers.append((b"Content-Type", b"text/plain"))
        body = f"HTTP {problem.status} {problem.reason}\n".encode()
    return Rendered(problem.status, problem.reason.encode(), headers, body)
