"""``broker status``, ``trace`` and ``debug``: whether a broker serves, what it logs, and what it is doing."""

from __future__ import annotations

import argparse
from urllib.parse import urlencode

from broker.cli.client import Client
from broker.cli.exits import Exit
from broker.cli.output import as_json, printed, table
from broker.cli.parsing import Commands, add, add_group


def add_to(commands: Commands) -> None:
    """Add ``status``, ``trace`` and ``debug``."""
    trace = add(
        commands,
        "trace",
        _trace,
        help="show what passes over a connection, or becomes of a queue's messages",
        description="Show, while it happens, what comes and goes over one connection, or is published to, delivered "
        "from and settled in one queue, as an object of JSON a line. Secrets are hidden, bodies are cut.",
    )
    which = trace.add_mutually_exclusive_group(required=True)
    which.add_argument("--queue", metavar="QUEUE")
    which.add_argument(
        "--connection", metavar="NAME", help="where it comes from, 192.0.2.1:50000, or its name in the log"
    )
    trace.add_argument("--seconds", metavar="S", default="60", help="so long (default: 60, at most 3600)")
    trace.add_argument("--bytes", metavar="N", default="32", help="so much of each body (default: 32, at most 4096)")
    trace.add_argument("--log", action="store_true", help="write it to the broker's log too")
    status = add(
        commands,
        "status",
        _status,
        help="show or change what the broker lets be done",
        description="Show the server's status, or change it, on all fronts: up; writeavoid, a hint; draining, nothing "
        "is put in; readonly, and no queue is emptied or deleted; quiescent, and nothing is taken. A restart keeps it.",
    )
    status.add_argument(
        "status", metavar="LEVEL", nargs="?", choices=("up", "writeavoid", "draining", "readonly", "quiescent")
    )
    kinds = add_group(
        commands,
        "debug",
        help="look into a running broker",
        description="Change what a running broker logs, and see what it is doing. It takes the right to administer.",
    )
    says = "Log a part of the broker from another level on, until its end."
    on = add(kinds, "on", _on, help="log a part from another level on", description=says)
    on.add_argument(
        "part", metavar="PART", nargs="?", default="broker", help="a module, as broker.stomp (default: all)"
    )
    on.add_argument("--level", default="debug", choices=("debug", "info", "warn", "error"), help="default: debug")
    says = "Log a part of the broker, or all of it, as at its start."
    off = add(kinds, "off", _off, help="log a part as before", description=says)
    off.add_argument("part", metavar="PART", nargs="?", default="", help="a module (default: all)")
    says = "Show from which level on parts of the broker are logged."
    add(kinds, "levels", _levels, help="show the levels", description=says)
    says = "Show what every thread of the broker is doing now, and what its reactor has planned."
    add(kinds, "stack", _stack, help="show what it is doing", description=says)


def _status(client: Client, options: argparse.Namespace) -> int:
    if options.status is None:
        said = client.json("GET", "/status")
    else:
        said = client.json("PUT", f"/status?status={options.status}", b"{}")
    later = "" if said["holds"] == said["status"] else f" (soon; {said['holds']} until then)"
    return printed([as_json(said) if options.json else f"{said['status']}{later}"])


def _trace(client: Client, options: argparse.Namespace) -> int:
    asked = {"queue": options.queue, "connection": options.connection, "seconds": options.seconds}
    asked |= {"bytes": options.bytes, "log": str(int(options.log))}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    for line in client.lines(f"/debug/trace?{query}"):
        if done := printed([line]):
            return done
    return Exit.DONE


def _on(client: Client, options: argparse.Namespace) -> int:
    return _set(client, options, options.level)


def _off(client: Client, options: argparse.Namespace) -> int:
    return _set(client, options, "")


def _set(client: Client, options: argparse.Namespace, level: str) -> int:
    query = urlencode({"part": options.part, "level": level})
    said = client.json("PUT", f"/debug/log?{query}", b"{}")
    return printed([as_json(said)] if options.json else [])


def _levels(client: Client, options: argparse.Namespace) -> int:
    said = client.json("GET", "/debug")
    if options.json:
        return printed([as_json(said)])
    rows = [("", said["log"]["level"]), *sorted(said["log"]["parts"].items())]
    return printed(table(("PART", "LEVEL"), [(part or "(all others)", level) for part, level in rows]))


def _stack(client: Client, options: argparse.Namespace) -> int:
    text = client.text("/debug/stack")
    return printed([as_json({"stack": text})] if options.json else text.splitlines())
