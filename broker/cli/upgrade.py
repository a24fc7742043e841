"""``broker upgrade``: new code without stopping."""

from __future__ import annotations

import argparse
import sys
import time

from broker.cli.client import Client, Refused, Unreachable
from broker.cli.exits import Exit
from broker.cli.output import as_json
from broker.cli.parsing import Commands, add

#: Seconds the new process has to prove itself, as the broker sees it, and more.
PROOF = 65
#: Seconds in which one must serve: the data file's format may have to be changed.
LIMIT = 900.0


def add_to(commands: Commands) -> None:
    """Add ``upgrade``."""
    add(
        commands,
        "upgrade",
        _upgrade,
        help="have a new process, of the code on disk, take over",
        description="Have a new process of the broker, of the code that is installed now, take over; no client is "
        "refused meanwhile. If it cannot serve, the one that runs goes on. It takes the right to administer.",
    )


def _upgrade(client: Client, options: argparse.Namespace) -> int:
    began = time.monotonic()
    said = client.json("POST", "/upgrade", patience=PROOF)
    # Nobody accepts any more; who does next is the new process, or the old one again.
    client.close()
    serving = _serving(client, began + LIMIT)
    if serving not in (None, said["to"]):
        print(f"broker: process {said['to']} failed, {serving} serves: its log says why", file=sys.stderr)
        return Exit.REFUSED
    took = time.monotonic() - began
    if options.json:
        print(as_json({**said, "seconds": round(took, 3)}))
    else:
        print(f"process {said['to']} has taken over from {said['from']}, after {took:.1f} s")
    return Exit.DONE


def _serving(client: Client, until: float) -> int | None:
    """The process that answers; None if it answers, but does not tell us."""
    while True:
        try:
            return int(client.json("GET", "/stats")["pid"])
        except Refused:
            return None
        except Unreachable as error:
            if time.monotonic() > until or "refused" in str(error):
                raise
