"""``broker config``: a configuration file, looked at on this machine; no broker need run.

What knows the configuration is imported when it is needed, so that the other commands start without it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from broker.cli.exits import Exit
from broker.cli.output import aligned, as_json, printed
from broker.cli.parsing import Commands, add, add_group, add_json
from broker.errors import BadName

#: What a value is, and where that comes from.
Row = tuple[str, Any, str]


def add_to(commands: Commands) -> None:
    """Add ``config`` and what it can do."""
    words = add_group(
        commands,
        "config",
        help="look at a configuration file",
        description="Look at a configuration file as the broker does.",
    )

    check = add(
        words,
        "check",
        _check,
        offline=True,
        help="see whether a file is right",
        description="Read a configuration file, and say what is wrong with it.",
        epilog="Whether a place to listen is free, and what the users file says, shows when the broker starts. Exit "
        "status: 0 it is right; 2 wrong usage; 3 it is not, or cannot be read.",
    )
    check.add_argument("file", metavar="FILE", help="the file")

    show = add(
        words,
        "show",
        _show,
        offline=True,
        help="show what holds, and where that comes from",
        description="Show what holds for a queue or topic, and which section says so. Without a name: for the broker, "
        "and for a queue that no section speaks of.",
        epilog="The broker's command line has the last word on what it can say. Exit status: 0 done; 2 wrong usage; "
        "3 the file is not right, or cannot be read; 5 the output could not be written.",
    )
    show.add_argument("--config", metavar="FILE", help="the configuration file; without one, what is built in")
    add_json(show)
    show.add_argument("name", metavar="NAME", nargs="?", help="QUEUE, /queue/QUEUE or /topic/TOPIC")


def _check(options: argparse.Namespace) -> int:
    from broker.config import load

    config = load(options.file)
    counts = (
        _counted(len(config.queue), "queue pattern", "queue patterns"),
        _counted(len(config.topic), "topic pattern", "topic patterns"),
        _counted(len(config.aliases), "alias", "aliases"),
    )
    print(f"{options.file}: ok, {', '.join(counts)}")
    return Exit.DONE


def _counted(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _show(options: argparse.Namespace) -> int:
    try:
        rows = _of_broker(options) if options.name is None else _of_destination(options)
    except BadName as error:
        print(f"broker: {options.name!r}: {error.reason}", file=sys.stderr)
        return Exit.USAGE
    return printed(map(_in_json, rows) if options.json else _in_columns(rows))


def _of_broker(options: argparse.Namespace) -> list[Row]:
    from broker.config import SECTIONS, Config, File, load
    from broker.effective import defaults

    config = Config() if options.config is None else load(options.config)
    rows: list[Row] = [
        (key, getattr(config, key), options.config if key in config.said else "built in")
        for key in File.__struct_fields__
        if key not in (*SECTIONS, "limits")
    ]
    for table, limits in (("limits", config.limits), ("limits.user", config.limits.user)):
        for key, value in msgspec.structs.asdict(limits).items():
            if key != "user":
                rows.append((f"{table}.{key}", value, f"[{table}]" if f"{table}.{key}" in config.said else "built in"))
    for one in defaults(config.policies, config.said).values():
        rows.append((f"defaults.{one.key}", one.value, _bracketed(one.section)))
    return rows


def _of_destination(options: argparse.Namespace) -> list[Row]:
    from broker.config import Config, load
    from broker.effective import destination_of, explained

    config = Config() if options.config is None else load(options.config)
    destination = destination_of(options.name)
    policies = config.policies
    if destination.kind.value == "queue" and destination.name in policies.aliases:
        return [("stands for", [str(target) for target in policies.aliases[destination.name]], "[aliases]")]
    values = explained(policies, config.said, destination).values()
    return [(value.key, value.value, _bracketed(value.section)) for value in values]


def _bracketed(section: str) -> str:
    return f"[{section}]" if section else "built in"


def _in_json(row: Row) -> str:
    key, value, where = row
    return as_json({"key": key, "value": msgspec.to_builtins(value), "from": where})


def _in_columns(rows: list[Row]) -> Iterable[str]:
    return aligned([("key", "value", "from"), *((key, _in_toml(value), where) for key, value, where in rows)])


def _in_toml(value: Any) -> str:
    """A value as the file would have it; "none" for what it cannot say."""
    value = msgspec.to_builtins(value)
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_in_toml(one)}" for key, one in value.items() if one is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_in_toml, value)) + "]"
    return msgspec.json.encode(value).decode()
