"""Telling systemd, or whoever else has set NOTIFY_SOCKET, how the broker is: the protocol of sd_notify(3).

A datagram of a few lines each time. Nothing of it may stop or slow the broker down: what cannot be sent is not sent,
and the log says so once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: How often what is told is brought up to date, if no watchdog asks for more (s).
INTERVAL = 5.0
#: Longer ones are cut (characters): a status is a line in ``systemctl status``.
MAX_STATUS = 500


class Notifier:
    """Who is told, if anybody. `status` says in a line how the broker is once it is ready; empty: ready."""

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, status: Callable[[], str], environment: Mapping[str, str] = os.environ
    ) -> None:
        self._clock = clock
        self._status = status
        address = environment.get("NOTIFY_SOCKET", "")
        #: Empty: nobody wants to know.
        self.address = f"\0{address[1:]}" if address.startswith("@") else address
        #: How long it may be silent before it is taken for dead (s); 0: for ever.
        self.watchdog = _watchdog(environment) if address else 0.0
        self._socket: socket.socket | None = None
        self._tick: IDelayedCall | None = None
        self._told = ""

    def ready(self) -> None:
        """The broker serves: from the start on, or again after a reload. From now on it says that it lives."""
        self._told = self._now()
        self._tell("READY=1", f"STATUS={self._told}")
        if self.address and self._tick is None:
            self._alive()

    def reloading(self) -> None:
        """It reads its files again; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It ends; it goes on saying that it lives."""
        self._tell("STOPPING=1", f"STATUS={self._now()}")

    def succeeded_by(self, process: int) -> None:
        """Another process serves from now on."""
        self._tell(f"MAINPID={process}")

    def failed(self, reason: str) -> None:
        """It does not come up."""
        self._tell(f"STATUS={_line(f'cannot start: {reason}')}")

    def close(self) -> None:
        """Tell nothing more."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _now(self) -> str:
        return _line(self._status() or "ready")

    def _alive(self) -> None:
        # A timer of the reactor and nothing else: if that does not turn, nobody says that the broker lives.
        self._tick = self._clock.callLater(self.watchdog / 2 if self.watchdog else INTERVAL, self._alive)
        now, lines = self._now(), ["WATCHDOG=1"] if self.watchdog else []
        if now != self._told:
            self._told = now
            lines.append(f"STATUS={now}")
        if lines:
            self._tell(*lines)

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(lines).encode(), self.address)
        except OSError as error:
            self._log.warn(
                "cannot tell {where}: {reason}", where=self.address.replace("\0", "@"), reason=error.strerror
            )
            if not isinstance(error, BlockingIOError):  # nobody is there; one who is slow may catch up
                self.close()
                self.address = ""


def _watchdog(environment: Mapping[str, str]) -> float:
    """The length of WATCHDOG_USEC, in seconds; 0 if there is none, or it is another process's."""
    said, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    return int(said) / 1_000_000 if said.isascii() and said.isdigit() and process == str(os.getpid()) else 0.0


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_STATUS]
