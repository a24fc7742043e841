"""What the commands' parsers have in common: how a command is added, options that several have, kinds of values."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

DEFAULT_URL = "http://127.0.0.1:8989"

#: What commands are added to.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(
    commands: Commands,
    name: str,
    run: Callable[..., int],
    *,
    help: str,
    description: str = "",
    offline: bool = False,
    **more: Any,
) -> argparse.ArgumentParser:
    """Add a command; without a `description` its `help`, as a sentence, is one.

    `run` is called with a client of the broker's HTTP and the options, of which ``--url`` and ``--json`` are two;
    `offline`, with the options alone.
    """
    parser = commands.add_parser(name, help=help, description=description or _sentence(help), **more)
    parser.set_defaults(run=run, offline=offline)
    if not offline:
        add_url(parser)
        add_json(parser)
    return parser


def add_group(commands: Commands, name: str, *, metavar: str = "COMMAND", **more: Any) -> Commands:
    """Add a command that has commands of its own; they are added to what is given."""
    return commands.add_parser(name, **more).add_subparsers(required=True, metavar=metavar)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def add_url(parser: argparse.ArgumentParser) -> None:
    """Have it say where the broker's HTTP is."""
    parser.add_argument(
        "--url",
        default=os.environ.get("BROKER_URL", DEFAULT_URL),
        help=f"where the broker's HTTP is (default: $BROKER_URL, else {DEFAULT_URL})",
    )


def add_json(parser: argparse.ArgumentParser, help: str = "print one JSON object per line") -> None:
    """Have it print for programs."""
    parser.add_argument("--json", action="store_true", help=help)


def count(text: str) -> int:
    """A number of messages, or of anything there must be one of."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of messages, 1 or more")
    return int(text)


def host_port(text: str) -> tuple[str, int] | None:
    """An address taken apart; None, and a line on standard error, if it is none."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        print(f"broker: {text!r} is not HOST:PORT", file=sys.stderr)
        return None
    return host.strip("[]"), int(port)
