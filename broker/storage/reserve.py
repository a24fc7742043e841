"""Room kept for the day the disk is full: settling needs some, and only settling makes room again."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from twisted.logger import Logger

#: Bytes of the reserve: 100,000 commits that settle, or some folds.
RESERVE: Final = 16 * 1024 * 1024
#: Seconds between attempts to make it again.
PAUSE: Final = 1.0


class Reserve:
    """The file ``<data>.reserve``, which holds nothing but room.

    It is deleted when the disk is full and something has to be written that makes room: settlements, folds, freeing.
    From then on the room is theirs, and nothing is appended until the file could be made again.
    """

    _log = Logger()

    def __init__(self, data: str, size: int = RESERVE) -> None:
        self.path = f"{data}.reserve"
        self.size = size
        #: The file is there.
        self.held = False
        #: It was given up since the disk was full.
        self.spent = False
        self._try_after = 0.0

    def make(self) -> None:
        """Make the file, unless it is there; on failure nothing of it is left. Raises `OSError`."""
        if self.held or not self.size:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.size)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            raise
        finally:
            os.close(fd)
        self.held = True
        if self.spent:
            self._log.info("there is room again beside {path}", path=self.path)
        self.spent = False

    def find(self) -> None:
        """At the start: the file of the last time may be there, and be needed to start at all."""
        self.held = bool(self.size) and os.path.exists(self.path)
        self.spent = False

    def begin(self) -> None:
        """Once started: have the file if there is room for it."""
        if self.spent:
            return
        try:
            self.make()
        except OSError as error:
            self._log.warn("no room is kept in {path}: {reason}", path=self.path, reason=error.strerror)

    def due(self, now: float) -> bool:
        """True if it is worth trying to make it again; if that fails, it is not for a while."""
        if not self.spent or now < self._try_after:
            return False
        self._try_after = now + PAUSE
        return True

    def release(self) -> bool:
        """Give up the file's room; False if there is none to give."""
        if not self.held:
            return False
        self.held = False
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._log.error("cannot delete {path}: {reason}", path=self.path, reason=error.strerror)
            return False
        self.spent = True
        self._log.warn("the disk is full: the room of {path} is used to settle messages, none is taken", path=self.path)
        return True
