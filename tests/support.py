"""What tests of every room share: reactor tests with a limit, and brokers with all their fronts on free ports."""

from __future__ import annotations

import base64
import contextlib
import functools
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import attrs
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.store import IStore
    from broker.running import BrokerService

AsyncTest = Callable[..., Coroutine[Deferred[Any], Any, None]]

#: What was logged as a failure or as critical during the running test; conftest.py empties it and looks at the end.
logged_errors: list[LogEvent] = []


def tx(timeout: float = 60) -> Callable[[AsyncTest], Callable[..., Any]]:
    """Run an ``async def`` test on the reactor; it fails with `TimeoutError` after `timeout` seconds.

    A test without such a limit that waits for ever would stop the whole run. It only ends what hangs: no machine is so
    slow that a test which does not would take so long.
    """

    def decorate(test: AsyncTest) -> Callable[..., Any]:
        @functools.wraps(test)
        async def limited(*args: Any, **kwargs: Any) -> None:
            from twisted.internet import reactor

            await Deferred.fromCoroutine(test(*args, **kwargs)).addTimeout(timeout, reactor)

        return pytest_twisted.ensureDeferred(limited)

    return decorate


#: Everybody's password in the tests that have users. No log may ever hold it, nor HTTP's way to send it.
CANARY = "open-sesame"
_texts = (CANARY, *(base64.b64encode(b"\0" * n + CANARY.encode()).decode()[4:-4] for n in range(3)))
_octets = tuple(text.encode() for text in _texts)


def leaks(event: LogEvent) -> bool:
    """True if a password stands in what is logged."""
    return any(
        any(one in value for one in _texts) if isinstance(value, str) else any(one in value for one in _octets)
        for value in event.values()
        if isinstance(value, str | bytes)
    )


def flush_logged_errors(*types: type[BaseException]) -> list[Failure]:
    """Take back the logged failures of these types (of any, if none is named): the test meant them to happen."""
    flushed = []
    for event in list(logged_errors):
        failure = event.get("log_failure")
        if failure is not None and (not types or failure.check(*types)):
            logged_errors.remove(event)
            flushed.append(failure)
    return flushed


#: The script that twistd is, in the environment of the tests.
TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"


@attrs.frozen
class Served:
    """A broker in this process, and the ports of its fronts."""

    service: BrokerService
    memcache: int
    stomp: int
    http: int

    @property
    def broker(self) -> Broker:
        """The core behind them."""
        return self.service.broker

    @property
    def url(self) -> str:
        """Where HTTP is."""
        return f"http://127.0.0.1:{self.http}"


@contextlib.asynccontextmanager
async def serving(store: IStore | None = None, **settings: Any) -> AsyncIterator[Served]:
    """A broker with all three fronts on 127.0.0.1, stopped in the end; `settings` are fields of `Config`."""
    # Only here: conftest.py imports this file, and a test of one room needs nothing of the others.
    from twisted.internet import reactor

    from broker.config import Config
    from broker.running import IBrokerReactor
    from broker.service import build
    from broker.storage.memory import MemoryStore

    config = Config(**{"memcache": ["0"], "stomp": ["0"], "http": ["0"], **settings})
    asked = cast(IBrokerReactor, reactor)
    service = build(config, reactor=asked, store=store or MemoryStore(), tell=lambda line: None)
    ports = {front.name: int(front.way.name.rpartition(":")[2]) for front in service.fronts}
    service.startService()
    try:
        await service.opening
        yield Served(service, **ports)
    finally:
        await service.stopService()


class Twistd:
    """``twistd broker`` in the foreground, another process; what it says is read line by line.

    A context manager: left, the process is killed if it still runs.
    """

    #: Seconds after which a reader gives up on it; a start takes half a second.
    PATIENCE = 30

    def __init__(self, folder: Path, *options: str, free_ports: bool = True) -> None:
        """`folder` becomes its run directory; with `free_ports` every front listens on port 0."""
        ports = ("--memcache=0", "--stomp=0", "--http=0") if free_ports else ()
        self.process = subprocess.Popen(
            [sys.executable, TWISTD, "--nodaemon", "--pidfile=", "--logfile=-", "broker", *ports, *options],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = ""

    def until(self, pattern: str) -> str:
        """Read on to the line that `pattern` is found in, and return it; `AssertionError` if it never comes."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(self.PATIENCE, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                self.said += line
                if re.search(pattern, line):
                    return line
        finally:
            watchdog.cancel()
        raise AssertionError(f"it never said {pattern!r} but\n{self.said}")

    def ports(self) -> dict[str, int]:
        """The ports of ``memcache``, ``STOMP`` and ``HTTP``; it accepts connections now."""
        self.until(r"#info\] ready")
        return {name: int(port) for name, port in re.findall(r"^broker: (\w+) on .*:(\d+)$", self.said, re.MULTILINE)}

    def wait(self) -> int:
        """Wait for its end; the exit status. The rest of what it says is added to `said`. May be called again."""
        assert self.process.stdout is not None
        if not self.process.stdout.closed:
            self.said += self.process.communicate(timeout=self.PATIENCE)[0]
        assert CANARY not in self.said
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
