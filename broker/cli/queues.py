"""``broker queues``: the queues of a running broker, with their numbers."""

from __future__ import annotations

import argparse
from typing import Any

from broker.cli.client import Client
from broker.cli.exits import Exit
from broker.cli.output import aligned, as_json, printed
from broker.cli.parsing import Commands, add

_HEADINGS = ("QUEUE", "READY", "ON LOAN", "CONSUMERS", "AGE", "STATE")
#: Milliseconds of a unit of time, the longest first.
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}


def add_to(commands: Commands) -> None:
    """Add ``queues``."""
    queues = add(
        commands,
        "queues",
        _queues,
        help="show the queues",
        description="Show the queues that exist, sorted by name: messages that wait, messages on loan, consumers, how "
        "long the last message delivered had waited, and whether the queue is paused or blocked. With --json: all "
        "numbers there are.",
    )
    queues.add_argument(
        "glob", metavar="GLOB", nargs="?", default="*", help="only those: * is any run of characters, ? any one"
    )


def _queues(client: Client, options: argparse.Namespace) -> int:
    found = client.queues(options.glob)
    if not found:
        return Exit.NOTHING
    return printed(map(as_json, found) if options.json else aligned([_HEADINGS, *map(_row, found)], right=range(1, 5)))


def _row(queue: dict[str, Any]) -> tuple[str, ...]:
    said = ["paused"] * bool(queue["paused"]) + [f"blocked: {queue['blocked']}"] * bool(queue["blocked"])
    numbers = (str(queue[key]) for key in ("ready", "on_loan", "consumers"))
    return (queue["name"], *numbers, _age(queue["oldest_ms"]), ", ".join(said))


def _age(milliseconds: int) -> str:
    """Rounded down to the longest unit that fits: ``3h``."""
    for unit, length in _UNITS.items():
        if milliseconds >= length:
            return f"{milliseconds // length}{unit}"
    return "0s"
