"""A worker's connection to the broker: plain HTTP, kept open, one request at a time."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

#: Seconds an answer may take beside the time it was asked to wait.
PATIENCE = 15


class Unreachable(Exception):
    """No answer; whether the request counted is not known."""


class Refused(Exception):
    """The broker said no."""

    def __init__(self, status: int, said: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {said.get('detail') or said.get('title') or ''}".strip())
        self.status = status
        self.said = said

    @property
    def temporary(self) -> bool:
        """True if the same may be taken later: full, too many, draining, stopping."""
        return self.status in (429, 503, 507)

    @property
    def after(self) -> float:
        """Seconds after which to ask again."""
        said = self.said.get("retry_after")
        return float(said) if isinstance(said, int | float) else 1.0

    @property
    def failed(self) -> list[int]:
        """The operations of a commit that it fell for."""
        said = self.said.get("failed")
        return [number for number in said if isinstance(number, int)] if isinstance(said, list) else []


class Answer(NamedTuple):
    """What came back."""

    status: int
    content_type: str
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None if there is none; `Unreachable` if it is something else."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            raise Unreachable("what answers there is no broker") from None


class Link:
    """One connection. `cut` may be called by any thread, everything else by one at a time."""

    def __init__(self, url: str, token: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url}: not of the form http://host:port")
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = make(parts.hostname, parts.port, timeout=PATIENCE)
        self._prefix = parts.path.rstrip("/")
        self._fields = {"Accept": "application/problem+json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._lock = threading.Lock()
        self._is_cut = False

    def request(
        self,
        method: str,
        path: str,
        said: Any = None,
        *,
        accept: str = "application/json",
        wait: float = 0,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask; `said` is sent as JSON, bytes as they are. Raises `Unreachable` and `Refused`."""
        headers = {**self._fields, "Accept": f"{accept}, application/problem+json"}
        body: bytes | None = None
        if isinstance(said, bytes):
            body = said
        elif said is not None:
            body = msgspec.json.encode(said)
            headers["Content-Type"] = "application/json"
        headers |= fields or {}
        connection = self._connection
        try:
            self._ready(PATIENCE + wait)
            connection.request(method, self._prefix + path, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers.get("Content-Type", ""), response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise Unreachable(getattr(error, "strerror", None) or str(error) or type(error).__name__) from None
        if 200 <= answer.status < 300:
            return answer
        try:
            problem = json.loads(answer.body)
        except ValueError:
            problem = {}
        raise Refused(answer.status, problem if isinstance(problem, dict) else {})

    def ask(self, method: str, path: str, said: Any = None) -> Any:
        """The same for who wants the JSON that comes back, and nothing else."""
        return self.request(method, path, said).json()

    def _ready(self, timeout: float) -> None:
        """Open the connection, anew if the broker has closed it meanwhile: what is sent then would be lost."""
        connection = self._connection
        connection.timeout = timeout
        with self._lock:
            if self._is_cut:
                raise OSError("this connection was cut")
            if connection.sock is not None:
                if select.select([connection.sock], [], [], 0)[0]:
                    connection.close()
                else:
                    connection.sock.settimeout(timeout)
            if connection.sock is None:
                connection.connect()
                assert connection.sock is not None
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self) -> None:
        """Ask for nothing more, and wait for nothing; an answer that is on its way still comes.

        What it brings is on loan to us: not to read it would have that wait for the end of its lease.
        """
        with self._lock:
            self._is_cut = True
            if self._connection.sock is not None:
                with contextlib.suppress(OSError):
                    # past TLS, which could not read after it
                    socket.socket.shutdown(self._connection.sock, socket.SHUT_WR)

    def close(self) -> None:
        """Let it go."""
        self._connection.close()


def channel_path(channel: str, rest: str = "") -> str:
    """The path of a channel, and of what is under it."""
    return f"/channels/{quote(channel, safe='')}{rest}"


def path_of(channel: str) -> str:
    """The path that is posted to, of a channel or of ``topic:NAME``."""
    topic = channel.removeprefix("topic:")
    return channel_path(channel) if topic == channel else f"/topics/{quote(topic, safe='')}"
