"""Upgrades under load: ``script/upgrades``. Nobody is refused, nothing confirmed is lost, nothing settled comes back.

After each upgrade the clients work on for a moment; in the end everything is emptied and compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.test_tls import Authority
from tests.upgrade.load import LEASE, Ledger, empty, load
from tests.upgrade.support import Line

#: Things all clients together have done between two upgrades.
BETWEEN = 500
#: Seconds until they must have.
LIMIT = 30.0

CONFIGURATION = """
memcache = ["127.0.0.1:0", {{ listen = "127.0.0.1:0", {tls} }}]
stomp = ["127.0.0.1:0", {{ listen = "127.0.0.1:0", {tls} }}]
http = ["127.0.0.1:0", {{ listen = "127.0.0.1:0", {tls} }}]
[defaults]
lease = {lease}
"""


class Run:
    """One data file, and the processes that serve it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger()
        self.upgrades = 0
        self.lost: set[bytes] = set()
        self.took = 0.0
        self._folder = folder

    def go(self, upgrades: int) -> None:
        """So many upgrades."""
        authority = Authority(self._folder)
        certificate, key = authority.make("localhost")
        tls = f'tls = {{ certificate = "{certificate}", key = "{key}" }}'
        config = self._folder / "broker.toml"
        config.write_text(CONFIGURATION.format(tls=tls, lease=LEASE * 1000))
        with Line(self._folder, "--config", str(config)) as line:
            ports = line.ports()
            clients = load(ports, authority.client(), self.ledger)
            try:
                self._work()
                for _ in range(upgrades):
                    began = time.monotonic()
                    line.upgrade()
                    self.took = max(self.took, time.monotonic() - began)
                    self.upgrades += 1
                    assert (self._folder / "twistd.pid").read_text() == str(line.pid)
                    self._work()
            finally:
                for one in clients:
                    one.is_over.set()
                for one in clients:
                    one.join(LIMIT)
            assert not any(one.is_alive() for one in clients), "a client does not end"
            self.lost = self.ledger.lost(empty(ports["HTTP"], self.ledger))
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
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        try:
            run.go(options.upgrades)
        finally:
            print(run.report())
    for flaw in run.flaws[:100]:
        print(flaw)
    return 1 if run.flaws else 0


if __name__ == "__main__":
    sys.exit(main())
