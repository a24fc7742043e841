"""A program that is a server: events are posted to it, the answer's status is the verdict, its body the output."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from broker.stages.event import BYTES, Event, attributes_of
from broker.stages.frames import BadFrame, output_of
from broker.stages.one_shot import MAX_OUTPUT
from broker.stages.verdict import Reject, Retry

#: Statuses that say: later. All other 4xx are for good.
LATER = (408, 425, 429)
#: Seconds for an answer, if nothing else is said.
PATIENCE = 300.0


class Posting:
    """The function of a stage. `command` is started with the first input, and again if it ends; empty: it runs."""

    #: It is not we who would die of an input.
    apart = True

    def __init__(
        self, url: str, command: Sequence[str] = (), *, timeout: float = 0, content_type: str | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url}: not of the form http://host:port/path")
        self._make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._command = list(command)
        self._timeout = timeout or PATIENCE
        self._content_type = content_type
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._own = threading.local()

    def __call__(self, event: Event) -> Iterator[Event]:
        self._running()
        status, after, kind, body = self._posted(event)
        if status in LATER or status >= 500:
            raise Retry(_reason(status, body), after)
        if not 200 <= status < 300:
            raise Reject(_reason(status, body))
        try:
            for data, said in _outputs(kind, body):
                if self._content_type:
                    said["content_type"] = self._content_type
                yield event.child(data, **said)
        except (ValueError, BadFrame) as error:
            raise Retry(f"its answer is not {kind}: {error}") from None

    def _posted(self, event: Event) -> tuple[int, float | None, str, bytes]:
        headers = {f"ce-{name}": quote(value, safe=" /:+-._~") for name, value in attributes_of(event).items()}
        headers |= {"ce-specversion": "1.0", "ce-attempt": str(event.attempt), "Content-Type": event.content_type}
        for anew in (False, True):
            connection = getattr(self._own, "connection", None)
            if connection is None or anew:
                connection = self._own.connection = self._make(self._host, self._port, timeout=self._timeout)
            try:
                connection.request("POST", self._path, event.raw, headers)
                response = connection.getresponse()
                body = response.read(MAX_OUTPUT + 1)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # one that was kept open may have been closed meanwhile
                if anew or isinstance(error, TimeoutError | ConnectionRefusedError):
                    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise Retry(f"{self._host}:{self._port}: {said}") from None
                continue
            if len(body) > MAX_OUTPUT:
                connection.close()
                raise Reject(f"it answered more than {MAX_OUTPUT} bytes")
            after = response.headers.get("Retry-After", "")
            kind = response.headers.get("Content-Type") or BYTES
            return response.status, float(after) if after.isdigit() and len(after) < 9 else None, kind, body
        raise AssertionError

    def _running(self) -> None:
        with self._lock:
            if self._command and (self._process is None or self._process.poll() is not None):
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)

    def close(self) -> None:
        """End the server, if it is ours."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


def _outputs(kind: str, body: bytes) -> Iterator[tuple[Any, dict[str, Any]]]:
    """What an answer holds: nothing, one output, or as many as its type says."""
    media = kind.partition(";")[0].strip().lower()
    if media == "application/x-ndjson":
        for line in body.split(b"\n"):
            if line.strip():
                yield json.loads(line), {}
    elif media in ("application/cloudevents-batch+json", "application/cloudevents+json"):
        said = json.loads(body)
        for one in said if isinstance(said, list) else [said]:
            if not isinstance(one, dict):
                raise ValueError("an event is an object")
            output = output_of(one)
            yield output.data, output.said
    elif body:
        yield body, {"content_type": kind}


def _reason(status: int, body: bytes) -> str:
    said = body[:500].decode(errors="replace").strip()
    return f"status {status}" + (f": {said}" if said else "")
