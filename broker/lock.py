"""The lock on a data file: one broker at a time, whatever becomes of it."""

from __future__ import annotations

import fcntl
import os

from broker.errors import ConfigError


class InUse(ConfigError):
    """Another process has the data."""


class Lock:
    """``flock`` on ``<data>.lock``.

    The kernel frees it when the last process that has it open is gone, so it survives a daemon's fork and never
    outlives a killed broker. The file stays: removing it could take away another broker's lock.
    """

    def __init__(self, data: str, held: int | None = None) -> None:
        """`held`: a descriptor of this lock, as `left` finds it, which is taken over."""
        path = f"{data}.lock"
        if held is not None:
            self._fd = held
            return
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 20).decode(errors="replace").strip()
            os.close(self._fd)
            raise InUse(f"{data} is in use by process {holder or 'unknown'}") from None
        self.name_holder()

    @classmethod
    def left(cls, data: str, descriptor: int) -> Lock | None:
        """The lock that whoever left this `descriptor` holds, if it is the one on `data`; it stays open as it is, too.

        Nobody else can take the data while the one goes and the other comes.
        """
        try:
            is_same = os.path.samestat(os.fstat(descriptor), os.stat(f"{data}.lock"))
        except OSError:
            return None
        return cls(data, os.dup(descriptor)) if is_same else None

    def fileno(self) -> int:
        """For a process that follows this one."""
        return self._fd

    def name_holder(self) -> None:
        """Write this process's id into the file, for whoever finds it locked."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have the data."""
        os.close(self._fd)
