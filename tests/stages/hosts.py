"""A broker and two hosts in network namespaces of their own, a worker on each; one loses its network.

    unshare -Urn python -m tests.stages.hosts FOLDER

Ends with status 0 if every input came out once, those of the lost host from the other one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.stages.support import Http, Worker
from tests.support import Twistd

#: Inputs that come until the network is lost, at least.
INPUTS = 30
FLOW = """
    import hashlib
    def work(event):
        if os.path.exists("go"):  # a FIFO: whoever can open its other end knows that this has begun
            open("go").read()
        hashlib.sha256(bytes(10_000_000))
        return event
    f = Pipeline("f", grace=5)
    f.stage("in", to="out", lease=2, batch=2)(work)
    f.run()
"""


def ip(*words: str) -> None:
    """One command of ``ip``."""
    subprocess.run(["ip", *words], check=True, timeout=30)


class Host:
    """A network namespace with one cable to the broker's."""

    def __init__(self, number: int) -> None:
        begun = ["unshare", "-n", "sh", "-c", "echo begun; exec sleep 300"]
        self._process = subprocess.Popen(begun, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"
        self.within = ("nsenter", "-t", str(self._process.pid), "-n")
        self._cable = f"host{number}"
        self.gateway = f"10.99.{number}.1"
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._process.pid))
        ip("addr", "add", f"{self.gateway}/24", "dev", self._cable)
        ip("link", "set", self._cable, "up")
        for words in (("addr", "add", f"10.99.{number}.2/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            subprocess.run([*self.within, "ip", *words], check=True, timeout=30)

    def cut(self) -> None:
        """Pull the cable out: nothing goes through any more, and nobody is told."""
        ip("link", "set", self._cable, "down")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def run(folder: Path) -> None:
    """All of it; `AssertionError` if something is lost, or comes twice."""
    ip("link", "set", "lo", "up")
    options = ("--memcache=off", "--stomp=off", "--http=0.0.0.0:8989", "--allow-anonymous", "--http-host=*")
    with Twistd(folder, *options, "--data=:memory:", free_ports=False) as twistd, Host(1) as one, Host(2) as two:
        twistd.until(r"#info\] ready")
        http = Http("http://127.0.0.1:8989")
        places = {name: folder / name for name in ("one", "two")}
        for place in places.values():
            place.mkdir()
        with (
            Worker(f"http://{one.gateway}:8989", places["one"], FLOW, version="one", within=one.within),
            Worker(f"http://{two.gateway}:8989", places["two"], FLOW, version="two", within=two.within),
        ):
            events: list[dict[str, Any]] = []
            while "one" not in (by := [event["codeversion"] for event in events]) or "two" not in by:
                http.put("in", len(events))  # until both are at work
                events += http.events("out")
            before = len(events)
            go = places["one"] / "go"
            os.mkfifo(go)
            number, gate = before, -1
            while gate < 0 or number < before + INPUTS:
                http.put("in", number)
                number += 1
                if gate < 0:
                    with contextlib.suppress(OSError):  # nobody is at its other end yet
                        gate = os.open(go, os.O_WRONLY | os.O_NONBLOCK)
            go.unlink()
            one.cut()
            os.close(gate)  # it had an input, and cannot tell anybody any more what comes of it
            events += http.events("out", number - before)
        assert sorted(event["data"] for event in events) == list(range(number)), "each once"
        by = [event["codeversion"] for event in events]
        assert by[-1] == "two"
        assert http.counts("in") == http.counts("out") == (0, 0)
        http.close()
    cut_off, other = by.count("one"), by.count("two")
    print(f"{len(by)} inputs, each once: {cut_off} by the host that was cut off, {other} by the other")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
