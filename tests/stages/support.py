"""Workers as processes of their own, and a broker's HTTP as somebody sees it who uses neither."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from broker.stages.link import Link, channel_path
from tests.support import Twistd

ROOT = Path(__file__).resolve().parent.parent.parent


class Http:
    """A broker's HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._link = Link(url)

    def ask(self, method: str, path: str, said: Any = None, **more: Any) -> Any:
        """Ask, and read JSON."""
        return self._link.request(method, path, said, **more).json()

    def put(self, channel: str, data: Any) -> None:
        """Put a message in, as JSON."""
        self.ask("POST", channel_path(channel), data)

    def get(self, channel: str, count: int = 1, wait: int = 60) -> list[Any]:
        """Wait for so many messages, and settle them: their data."""
        return [event.get("data") for event in self.events(channel, count, wait)]

    def events(self, channel: str, count: int = 1, wait: int = 60) -> list[dict[str, Any]]:
        """The same: the events."""
        found: list[dict[str, Any]] = []
        for _ in range(count):
            answer = self._link.request("POST", channel_path(channel, f"/lease?wait={wait}"), wait=wait)
            assert answer.body, f"nothing came to {channel} but {found}"
            (message,) = answer.json()["messages"]
            self.ask("DELETE", f"/messages/{message['id']}")
            found.append(message["event"])
        return found

    def look(self, channel: str, states: str = "ready,hidden,delayed") -> list[dict[str, Any]]:
        """What is in a channel."""
        found: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            page = self.ask("GET", channel_path(channel, f"/messages?state={states}&limit=1000&after={after}"))
            found += page["messages"]
            after = page.get("after")
        return found

    def counts(self, channel: str) -> tuple[int, int]:
        """How many wait, and are on loan."""
        said = self.ask("GET", channel_path(channel, "/stats"))
        return said["ready"], said["hidden"]

    def configure(self, channel: str, **keys: Any) -> None:
        """Set a channel's policy."""
        self.ask("PATCH", channel_path(channel, "/config"), keys)

    def close(self) -> None:
        """Leave."""
        self._link.close()


class Worker:
    """A program that runs a flow, in a group of processes of its own."""

    def __init__(
        self,
        url: str,
        folder: Path,
        program: str,
        *words: str,
        version: str = "v1",
        errors: Path | None = None,
        within: Sequence[str] = (),
    ) -> None:
        """`program` follows ``from broker.stages import *``; it ends with the flow's `run`.

        `errors`: where what it logs goes. `within`: the command that runs it somewhere else.
        """
        script = folder / "flow.py"
        script.write_text("from broker.stages import *\nimport os\n" + textwrap.dedent(program))
        log = errors.open("a") if errors is not None else subprocess.PIPE
        self.process = subprocess.Popen(
            [*within, sys.executable, str(script), *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BROKER_URL": url, "BROKER_FLOW_VERSION": version},
            stderr=log,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stop(self, patience: float = Twistd.PATIENCE) -> str:
        """SIGTERM, and wait; what it said."""
        self.process.terminate()
        said = "".join(self.process.communicate(timeout=patience))
        assert self.process.returncode == 0, said
        return said

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate(timeout=Twistd.PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Cable:
    """A way to a port that can be pulled out: then nothing goes either way any more, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pulled = threading.Event()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def pull(self) -> None:
        """From now on nothing goes through."""
        self._pulled.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=self._pass, args=ends))
                    self._threads[-1].start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._pulled.is_set():
                    target.sendall(data)
            if not self._pulled.is_set():
                target.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._listening)
        self._threads[0].join()  # now nothing more is opened
        for one in self._open:
            _end(one)
        for thread in self._threads:
            thread.join()


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def data_of(messages: list[dict[str, Any]]) -> list[Any]:
    """The data of messages that were looked at."""
    return [message["event"].get("data") for message in messages]
