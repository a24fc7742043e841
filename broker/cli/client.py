"""A client of the broker's HTTP interface: one connection, one request at a time, no reactor."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

#: What an answer may take beside the time asked to wait (s): Linger's clients give it 15.
PATIENCE = 15
#: The longest wait asked for in one request (s): proxies cut idle requests, often after 60 s.
LONGEST_WAIT = 50


class BadUrl(Exception):
    """``--url`` is not a URL of ours."""


class Refused(Exception):
    """The broker answered, and said no; with its status and words."""


class Unreachable(Exception):
    """No answer."""


class Taken(NamedTuple):
    """A message on loan to us."""

    id: int
    content_type: str
    #: How often it was delivered, this time included.
    delivered: int
    body: bytes


class Client:
    """Publishes, takes and settles; raises `BadUrl`, `Refused` and `Unreachable`."""

    def __init__(self, url: str, token: str = "") -> None:
        """`token` says who we are; without one we are anonymous."""
        if not token.isascii() or not token.isprintable():
            raise BadUrl("$BROKER_TOKEN is not a token as `broker user token` prints it")
        self._identity = {"Authorization": f"Bearer {token}"} if token else {}
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BadUrl(f"--url {url}: {error}") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise BadUrl(f"--url {url}: not of the form http://host:port")
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = make(host, port, timeout=PATIENCE)
        self._prefix = parts.path.rstrip("/")

    def publish(self, queue: str, body: bytes, content_type: str) -> int:
        """Put a message into `queue`; its id. When this returns the message is on disk."""
        _, _, answer = self._request("POST", path_of(queue), body, {"Content-Type": content_type})
        try:
            return int(json.loads(answer)["id"])
        except (ValueError, TypeError, KeyError):
            raise Unreachable("what answers there is no broker") from None

    def take(self, queue: str, wait: int) -> Taken | None:
        """The next message of `queue`, on loan; None if there is none within `wait` seconds."""
        end = time.monotonic() + wait
        while True:
            left = min(max(0, round(end - time.monotonic())), LONGEST_WAIT)
            how = f"?wait={left}" if left else "?nowait"
            status, headers, body = self._request("GET", path_of(queue) + how, patience=left)
            if status == 200:
                return _taken(headers, body)
            if not left:
                return None

    def settle(self, message: int) -> None:
        """Remove a message for good."""
        self._request("DELETE", f"/messages/{message}")

    def queues(self, glob: str) -> list[dict[str, Any]]:
        """The queues whose names match, sorted by name, with all their numbers."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            path = f"/channels?detail=1&queue={quote(glob, safe='')}&after={quote(after, safe='')}"
            _, _, answer = self._request("GET", path)
            try:
                said = json.loads(answer)
                found += [{"name": one["name"], **one} for one in said["channels"]]
                after = said.get("after", "")
            except (ValueError, TypeError, KeyError):
                raise Unreachable("what answers there is no broker, or an old one") from None
            if not after:
                return found

    def json(self, method: str, path: str, body: bytes | None = None, patience: int = 0) -> Any:
        """Ask, with a body in JSON if there is one; what the answer says, None if it says nothing.

        It may take `patience` seconds more than others.
        """
        headers = {"Content-Type": "application/json"} if body is not None else None
        _, _, answer = self._request(method, path, body, headers, patience)
        try:
            return json.loads(answer) if answer else None
        except ValueError:
            raise Unreachable("what answers there is no broker, or an old one") from None

    def text(self, path: str) -> str:
        """What is there, as lines for people."""
        _, _, answer = self._request("GET", path)
        return answer.decode(errors="replace")

    def lines(self, path: str) -> Iterator[str]:
        """What comes, line by line, until the broker ends it; silence for a minute is the end, too."""
        connection = self._connection
        connection.timeout = LONGEST_WAIT + PATIENCE
        try:
            connection.request("GET", self._prefix + path, headers=self._identity | {"Accept": "application/x-ndjson"})
            response = connection.getresponse()
            if response.status != 200:
                raise Refused(f"{response.status} {response.reason}")
            for line in response:
                if line.strip():
                    yield line.decode(errors="replace").rstrip("\n")
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(getattr(error, "strerror", None) or str(error) or type(error).__name__) from None
        finally:
            connection.close()

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        patience: int = 0,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self._connection
        connection.timeout = PATIENCE + patience
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            connection.request(method, self._prefix + path, body, self._identity | (headers or {}))
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(getattr(error, "strerror", None) or str(error) or type(error).__name__) from None
        if not 200 <= response.status < 300:
            raise Refused(f"{response.status} {response.reason}")
        return response.status, response.headers, answer

    def close(self) -> None:
        """Let the connection go."""
        with contextlib.suppress(OSError):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def path_of(queue: str) -> str:
    """Where HTTP has a queue."""
    return "/channels/" + quote(queue, safe="")


def _taken(headers: http.client.HTTPMessage, body: bytes) -> Taken:
    try:
        number, delivered = int(headers.get("X-Linger-Msg-Id", "")), int(headers.get("X-Linger-Delivered", ""))
    except ValueError:
        raise Unreachable("what answers there is no broker") from None
    return Taken(number, headers.get("Content-Type", ""), delivered, body)
