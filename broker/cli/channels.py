"""``broker browse``, ``pause``, ``resume``, ``purge``, ``stats`` and ``definitions``: a running broker over HTTP."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from broker.cli.client import Client, path_of
from broker.cli.exits import Exit
from broker.cli.output import as_json, printed, short, table
from broker.cli.parsing import Commands, add, count

#: Messages asked for at a time.
_PAGE = 100

Run = Callable[[Client, argparse.Namespace], int]


def add_to(commands: Commands) -> None:
    """Add the commands."""
    browse = add(
        commands,
        "browse",
        _browse,
        help="look at the messages of a queue",
        description="Look at the messages of a queue, the oldest first, without taking them. With --json: all there "
        "is about each.",
    )
    browse.add_argument("queue", metavar="QUEUE")
    browse.add_argument("--state", metavar="S,S", help="only some of ready, hidden, delayed, done (default: not done)")
    browse.add_argument("--match", metavar="FILTER", help="only those that a filter is true of")
    browse.add_argument("--since", metavar="TIME", help="only those from this time on, as RFC 3339 or -1h")
    browse.add_argument("--count", metavar="N", type=count, default=20, help="so many at most (default: 20)")
    for name, says in (("pause", "Deliver nothing of a queue until it is resumed."), ("resume", "Deliver again.")):
        told = add(commands, name, _told(name), help=f"{name} a queue", description=says)
        told.add_argument("queue", metavar="QUEUE")
    says = "Settle everything in a queue, on loan or not."
    purge = add(commands, "purge", _purge, help="empty a queue", description=says)
    purge.add_argument("queue", metavar="QUEUE")
    purge.add_argument("--state", choices=("ready", "hidden", "delayed"), help="only what is in this state")
    says = "Show the numbers of the broker, or of one queue."
    stats = add(commands, "stats", _stats, help="show numbers", description=says)
    stats.add_argument("queue", metavar="QUEUE", nargs="?")
    definitions = add(
        commands,
        "definitions",
        _definitions,
        help="show or apply what was configured",
        description="Print what was configured over HTTP, and all bindings, as JSON; or bring about what a file of "
        "that says.",
    )
    definitions.add_argument("--apply", metavar="FILE", help="bring about what this file says; -: standard input")
    definitions.add_argument("--dry-run", action="store_true", help="only say what --apply would change")
    definitions.add_argument("--prune", action="store_true", help="with --apply: end what the file does not name")


def _browse(client: Client, options: argparse.Namespace) -> int:
    wishes = {"state": options.state, "match": options.match, "since": options.since}
    asked = {name: value for name, value in wishes.items() if value is not None}
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None and len(found) < options.count:
        limit = min(options.count - len(found), _PAGE)
        query = urlencode({**asked, "limit": limit, "after": after})
        page = client.json("GET", f"{path_of(options.queue)}/messages?{query}")
        found += page["messages"]
        after = page.get("after")
    if options.json:
        return printed(map(as_json, found), bool(found))
    headings = ("ID", "STATE", "FAILED", "TIME", "BODY")
    return printed(table(headings, map(_row, found), right=(2,)), bool(found))


def _row(message: dict[str, Any]) -> tuple[str, ...]:
    event = message["event"]
    data = event.get("data")
    body = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False) if "data" in event else ""
    if "data_base64" in event:
        body = f"({message['size']} bytes)"
    return str(message["id"]), message["state"], str(message["attempts"]), event["time"], short(body)


def _told(what: str) -> Run:
    def run(client: Client, options: argparse.Namespace) -> int:
        said = client.json("POST", f"{path_of(options.queue)}/{what}", b"")
        return printed([as_json(said)] if options.json else [])

    return run


def _purge(client: Client, options: argparse.Namespace) -> int:
    query = f"?state={options.state}" if options.state else ""
    client.json("DELETE", path_of(options.queue) + query)
    return Exit.DONE


def _stats(client: Client, options: argparse.Namespace) -> int:
    if options.queue is None:
        said = client.json("GET", "/stats")["broker"]
    else:
        said = client.json("GET", f"{path_of(options.queue)}/stats?full=1")
    if options.json:
        return printed([as_json(said)])
    return printed(table(("NAME", "NUMBER"), ((name, _number(value)) for name, value in said.items()), right=(1,)))


def _number(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _definitions(client: Client, options: argparse.Namespace) -> int:
    if options.apply is None:
        said = client.json("GET", "/definitions")
        return printed([as_json(said) if options.json else json.dumps(said, indent=2, ensure_ascii=False)])
    if options.apply == "-":
        wanted = sys.stdin.buffer.read()
    else:
        try:
            with open(options.apply, "rb") as file:
                wanted = file.read()
        except OSError as error:
            print(f"broker: cannot read {options.apply}: {error.strerror}", file=sys.stderr)
            return Exit.USAGE
    asked = urlencode({"dry_run": int(options.dry_run), "prune": int(options.prune)})
    said = client.json("PUT", f"/definitions?{asked}", wanted)
    return printed(map(as_json, said["changes"]))
