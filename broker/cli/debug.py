"""``broker status`` and ``broker debug``: whether a running broker serves, what it logs, and what it is doing."""

from __future__ import annotations

import argparse
from urllib.parse import urlencode

from broker.cli.client import Client
from broker.cli.exits import Exit
from broker.cli.output import as_json, print_lines, table, unwritten


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add ``status`` and ``debug``."""
    status = commands.add_parser(
        "status",
        parents=[common],
        help="show or change what the broker lets be done",
        description="Show the server's status, or change it, on all fronts: up; writeavoid, a hint; draining, nothing "
        "is put in; readonly, and no queue is emptied or deleted; quiescent, and nothing is taken. A restart keeps it.",
    )
    status.add_argument(
        "status", metavar="LEVEL", nargs="?", choices=("up", "writeavoid", "draining", "readonly", "quiescent")
    )
    status.set_defaults(run=_status, offline=False)
    debug = commands.add_parser(
        "debug",
        help="look into a running broker",
        description="Change what a running broker logs, and see what it is doing. It takes the right to administer.",
    )
    kinds = debug.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, short: str, says: str) -> argparse.ArgumentParser:
        parser = kinds.add_parser(name, parents=[common], help=short, description=says)
        parser.set_defaults(offline=False)
        return parser

    on = add("on", "log a part from another level on", "Log a part of the broker from another level on, until its end.")
    on.add_argument(
        "part", metavar="PART", nargs="?", default="broker", help="a module, as broker.stomp (default: all)"
    )
    on.add_argument("--level", default="debug", choices=("debug", "info", "warn", "error"), help="default: debug")
    on.set_defaults(run=_on)
    off = add("off", "log a part as before", "Log a part of the broker, or all of it, as at its start.")
    off.add_argument("part", metavar="PART", nargs="?", default="", help="a module (default: all)")
    off.set_defaults(run=_off)
    levels = add("levels", "show the levels", "Show from which level on parts of the broker are logged.")
    levels.set_defaults(run=_levels)
    stack = add(
        "stack",
        "show what it is doing",
        "Show what every thread of the broker is doing now, and what its reactor has planned.",
    )
    stack.set_defaults(run=_stack)


def _status(client: Client, options: argparse.Namespace) -> int:
    if options.status is None:
        said = client.json("GET", "/status")
    else:
        said = client.json("PUT", f"/status?status={options.status}", b"{}")
    later = "" if said["holds"] == said["status"] else f" (soon; {said['holds']} until then)"
    return _printed([as_json(said) if options.json else f"{said['status']}{later}"])


def _on(client: Client, options: argparse.Namespace) -> int:
    return _set(client, options, options.level)


def _off(client: Client, options: argparse.Namespace) -> int:
    return _set(client, options, "")


def _set(client: Client, options: argparse.Namespace, level: str) -> int:
    query = urlencode({"part": options.part, "level": level})
    said = client.json("PUT", f"/debug/log?{query}", b"{}")
    return _printed([as_json(said)] if options.json else [])


def _levels(client: Client, options: argparse.Namespace) -> int:
    said = client.json("GET", "/debug")
    if options.json:
        return _printed([as_json(said)])
    rows = [("", said["log"]["level"]), *sorted(said["log"]["parts"].items())]
    return _printed([*table(("PART", "LEVEL"), [(part or "(all others)", level) for part, level in rows])])


def _stack(client: Client, options: argparse.Namespace) -> int:
    text = client.text("/debug/stack")
    return _printed([as_json({"stack": text})] if options.json else text.splitlines())


def _printed(lines: list[str]) -> int:
    try:
        print_lines(lines)
    except OSError as error:
        return unwritten(error)
    return Exit.DONE
