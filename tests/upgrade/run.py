"""Upgrades under load: ``script/upgrades``. Nobody is refused, nothing confirmed is lost, nothing settled comes back.

After each upgrade the clients work on for a moment; in the end everything is emptied and compared.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.test_tls import Authority
from tests.upgrade.load import LEASE, Client, Ledger, empty, load
from tests.upgrade.support import Line

#: Things all clients together have done between two upgrades.
BETWEEN = 500
#: Seconds until they must have.
LIMIT = 120.0

CONFIGURATION = """
memcache = [{memcache}]
stomp = [{stomp}]
http = [{http}]
[defaults]
lease = {lease}
"""
#: The fronts, with the names of systemd's sockets for them, plain and with TLS.
FRONTS = {"memcache": "memcache", "stomp": "STOMP", "http": "HTTP"}
ROOT = Path(__file__).parents[2]


class Run:
    """One data file, and the processes that serve it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger()
        self.upgrades = 0
        self.lost: set[bytes] = set()
        self.took = 0.0
        self._folder = folder
        self._authority = Authority(folder)
        self._clients: list[Client] = []

    def go(self, upgrades: int) -> None:
        """So many upgrades."""
        self._configure("127.0.0.1:0", "127.0.0.1:0")
        with Line(self._folder, "--config=broker.toml") as line:
            self._upgrade(line, line.ports(), upgrades)

    def from_the_past(self, commit: str, upgrades: int) -> None:
        """First from the code of this commit, which knows nothing of upgrades, with systemd's sockets; then so many."""
        code = self._folder / "code"
        code.mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
        with contextlib.ExitStack() as held:
            sockets: dict[str, socket.socket] = {}
            plain: dict[str, int] = {}
            secured: dict[str, int] = {}
            for front, name in FRONTS.items():
                for ports, kept, called in ((plain, front, name), (secured, f"{front}-tls", f"{name} over TLS")):
                    sockets[kept] = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
                    ports[called] = sockets[kept].getsockname()[1]
            self._configure("systemd:domain=INET:name={front}", None)
            environment = {"PYTHONPATH": str(code)}
            options = ("--config=broker.toml", "--allow-anonymous")  # it does not know where those sockets are
            with Line(self._folder, *options, sockets=sockets, environment=environment) as line:
                line.ready()
                self._begin(plain)
                began = time.monotonic()
                line.stop()
            self._configure("systemd:domain=INET:name={front}", "systemd:domain=INET:name={front}-tls")
            with Line(self._folder, "--config=broker.toml", sockets=sockets) as line:
                line.ready()
                self.took = time.monotonic() - began
                self.upgrades += 1
                self._upgrade(line, secured, upgrades, plain["HTTP"])

    def _configure(self, plain: str, secured: str | None) -> None:
        certificate, key = self._authority.make("localhost")
        table = f'tls = {{ certificate = "{certificate}", key = "{key}" }}'
        said = {}
        for front in FRONTS:
            said[front] = f'"{plain.format(front=front)}"'
            if secured is not None:
                said[front] += f', {{ listen = "{secured.format(front=front)}", {table} }}'
        (self._folder / "broker.toml").write_text(CONFIGURATION.format(**said, lease=LEASE * 1000))

    def _begin(self, ports: Mapping[str, int]) -> None:
        self._clients += load(ports, self._authority.client(), self.ledger)
        self._work()

    def _upgrade(self, line: Line, ports: Mapping[str, int], upgrades: int, http: int = 0) -> None:
        """Begin at these ports, too; upgrade; look what is there; end."""
        try:
            self._begin(ports)
            for _ in range(upgrades):
                began = time.monotonic()
                line.upgrade()
                self.took = max(self.took, time.monotonic() - began)
                self.upgrades += 1
                assert (self._folder / "twistd.pid").read_text() == str(line.pid)
                self._work()
        finally:
            for one in self._clients:
                one.is_over.set()
            for one in self._clients:
                one.join(LIMIT)
        assert not any(one.is_alive() for one in self._clients), "a client does not end"
        self.lost = self.ledger.lost(empty(http or ports["HTTP"], self.ledger))
        line.stop()
        assert "Traceback" not in "".join(line.said), "".join(line.said)

    def _work(self) -> None:
        before, deadline = self.ledger.tally["done"], time.monotonic() + LIMIT
        while self.ledger.tally["done"] < before + BETWEEN and not self.ledger.errors:
            assert time.monotonic() < deadline, f"the clients do not get on: {self.ledger.tally}"
            time.sleep(0.01)

    @property
    def flaws(self) -> list[str]:
        """All that must not be, and was."""
        ledger = self.ledger
        flaws = [f"lost: {body.decode()}" for body in sorted(self.lost)]
        flaws += [f"came back: {body.decode()}" for body in sorted(ledger.came_back)]
        flaws += [f"a client failed: {error!r}" for error in ledger.errors]
        return flaws + [f"refused: {ledger.tally['refused']}"] * (ledger.tally["refused"] > 0)

    def report(self) -> str:
        """A line for each number."""
        ledger = self.ledger
        numbers: dict[str, object] = {"upgrades": self.upgrades, "confirmed": len(ledger.confirmed)}
        numbers |= {"acked": len(ledger.answered), "refused": ledger.tally["refused"], "lost": len(self.lost)}
        numbers |= {"came back": len(ledger.came_back), "connections ended": ledger.tally["ended"]}
        numbers |= {"errors answered": ledger.tally["turned away"], "longest upgrade": f"{self.took:.2f} s"}
        numbers |= {"longest wait": f"{ledger.longest:.2f} s, {ledger.patient}"}
        return "\n".join(f"{name + ':':18}{number}" for name, number in numbers.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0: all is well."""
    parser = argparse.ArgumentParser(prog="script/upgrades", description=__doc__)
    parser.add_argument("--upgrades", metavar="N", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--from", metavar="COMMIT", dest="commit", help="begin with the code of this commit")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        try:
            if options.commit:
                run.from_the_past(options.commit, options.upgrades)
            else:
                run.go(options.upgrades)
        finally:
            print(run.report())
    for flaw in run.flaws[:100]:
        print(flaw)
    return 1 if run.flaws else 0


if __name__ == "__main__":
    sys.exit(main())
