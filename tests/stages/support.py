"""Workers as processes of their own, and a broker's HTTP as somebody sees it who uses neither."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
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

    def get(self, channel: str, count: int = 1, wait: int = 20) -> list[Any]:
        """Wait for so many messages, and settle them: their data."""
        return [event.get("data") for event in self.events(channel, count, wait)]

    def events(self, channel: str, count: int = 1, wait: int = 20) -> list[dict[str, Any]]:
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
        self, url: str, folder: Path, program: str, *words: str, version: str = "v1", errors: Path | None = None
    ) -> None:
        """`program` follows ``from broker.stages import *``; it ends with the flow's `run`. `errors`: what it logs."""
        script = folder / "flow.py"
        script.write_text("from broker.stages import *\nimport os\n" + textwrap.dedent(program))
        log = errors.open("a") if errors is not None else subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, str(script), *words],
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


def data_of(messages: list[dict[str, Any]]) -> list[Any]:
    """The data of messages that were looked at."""
    return [message["event"].get("data") for message in messages]
