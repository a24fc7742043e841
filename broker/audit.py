"""The audit log: who logged in, who was refused what, who had done what only administrators may; a file of its own.

A line of JSON for each, in the order in which they happened, written by a thread: the reactor never waits for this
file. If it cannot be written, the broker goes on as it was: what keeps the books must not stop the business. One line
in the broker's log says so when it begins, another when it is over; how many entries are missing stands in the file.
Passwords and tokens never come here, nor the names of users who are none, which may be passwords.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from twisted.logger import Logger

from broker.errors import ConfigError

#: Entries that may wait to be written, about 5 MB; what comes when there are so many is lost, and counted.
MAX_WAITING = 20_000
#: Entries of one write, and seconds between two tries to write while that fails.
BATCH, PAUSE = 1000, 1.0
#: Seconds that the end of the broker waits for what is still to be written.
PATIENCE = 5.0

Entry = dict[str, Any]


class Record(Protocol):
    """Takes down that somebody did something, or was refused."""

    def __call__(
        self, what: str, outcome: str, /, *, user: str = "", address: str = "", front: str = "", **more: Any
    ) -> None: ...


def nothing(what: str, outcome: str, /, *, user: str = "", address: str = "", front: str = "", **more: Any) -> None:
    """No audit log is kept."""


class Audit:
    """The file at `path`, which the first entry makes if it is not there; raises `ConfigError` if that cannot be.

    `wall` gives seconds since 1970, `later` has the reactor call something.
    """

    _log = Logger()

    def __init__(self, path: str, *, wall: Callable[[], float], later: Callable[[Callable[[], None]], object]) -> None:
        self.path = path
        self._wall = wall
        self._later = later
        self._waiting: queue.Queue[Entry | None] = queue.Queue(MAX_WAITING)
        #: Entries that are missing: there were too many (counted by the reactor), or the file failed (by the thread).
        self._overflowed = self._unwritten = 0
        #: How many of them the file tells of.
        self._told = 0
        self._failing = ""
        self._descriptor = -1
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        try:
            made = not os.path.exists(path)
            os.close(_opened(path))
            if made:
                os.unlink(path)  # twistd may yet become another user, who is to have made it
        except OSError as error:
            raise ConfigError(f"audit: cannot write {path}: {error.strerror}") from None

    def record(
        self, what: str, outcome: str, /, *, user: str = "", address: str = "", front: str = "", **more: Any
    ) -> None:
        """Take it down; on the reactor's thread."""
        entry = {"time": self._wall(), "what": what, "outcome": outcome, "user": user, "address": address}
        entry |= {"front": front, **more}
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            self._overflowed += 1

    def start(self) -> None:
        """Begin to write, once the process has gone to the background."""
        self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, as far as that can be done soon. It may be called in a thread."""
        if self._thread is None:
            return
        self._stopping.set()
        try:
            self._waiting.put(None, timeout=PATIENCE)
        except queue.Full:
            return  # it hangs in a write; it is a daemon
        self._thread.join(PATIENCE)
        self._thread = None

    # -- in the thread

    def _write_all(self) -> None:
        over = False
        while not over:
            entries = [self._waiting.get()]
            while len(entries) < BATCH and not self._waiting.empty():
                entries.append(self._waiting.get())
            over = None in entries
            self._write([entry for entry in entries if entry is not None])
        self._close()

    def _write(self, entries: list[Entry]) -> None:
        missing = self._overflowed + self._unwritten - self._told
        if missing:
            lost = {"time": self._wall(), "what": "audit", "outcome": "lost", "count": missing}
            entries = [lost, *entries]
        try:
            self._append("".join(map(_line, entries)).encode())
        except OSError as error:
            self._unwritten += len(entries) - bool(missing)
            self._close()
            self._failed(error.strerror or str(error))
            self._stopping.wait(PAUSE)
            return
        self._told += missing
        self._mended(missing)

    def _append(self, data: bytes) -> None:
        """Write all of it, or none, to the file that is at the path now: somebody may have moved it away."""
        if not data:
            return
        if self._descriptor < 0 or not _is_at(self._descriptor, self.path):
            self._close()
            self._descriptor = _opened(self.path)
        written = os.write(self._descriptor, data)
        if written < len(data):
            size = os.fstat(self._descriptor).st_size
            os.ftruncate(self._descriptor, size - written)
            raise OSError(0, "the disk is full")

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _failed(self, why: str) -> None:
        if not self._failing:
            self._failing = why
            self._later(
                lambda: self._log.error(
                    "audit: cannot write {path}: {why}; the broker goes on, and entries are lost until that is mended",
                    path=self.path,
                    why=why,
                )
            )

    def _mended(self, missing: int) -> None:
        if self._failing:
            self._failing = ""
            self._later(
                lambda: self._log.warn(
                    "audit: {path} is written again, {missing} entries are missing", path=self.path, missing=missing
                )
            )


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _line(entry: Entry) -> str:
    """A line of ASCII, so that no name in it can end the line or hide in it; what nobody said is left out."""
    when = datetime.fromtimestamp(entry["time"], UTC).isoformat(timespec="microseconds")
    return (
        json.dumps({"time": when} | {key: value for key, value in entry.items() if key != "time" and value != ""})
        + "\n"
    )
