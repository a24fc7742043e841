"""How messages, and other things, are printed."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from broker.cli.client import Taken
from broker.cli.exits import Exit


def as_json(value: dict[str, Any]) -> str:
    """One line."""
    return json.dumps(value, ensure_ascii=False)


def print_lines(lines: Iterable[str]) -> None:
    """Print; a name may hold what the terminal's encoding has not. Raises `OSError`."""
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode())
    sys.stdout.buffer.flush()


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """The lines of a table; `right` are the columns of numbers. On a terminal rich draws it, if it is installed."""
    lines = [tuple(row) for row in rows]
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            drawn = Table(box=None, pad_edge=False)
            for number, heading in enumerate(headings):
                drawn.add_column(heading, justify="right" if number in right else "left", overflow="fold")
            for line in lines:
                drawn.add_row(*(Text(cell) for cell in line))
            with (console := Console()).capture() as captured:
                console.print(drawn)
            yield from captured.get().splitlines()
            return
    widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    for line in (tuple(headings), *lines):
        cells = (
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def write(message: Taken, *, in_json: bool, newline: bool) -> None:
    """Write `message` to standard output and flush it; raises `OSError`."""
    out = sys.stdout.buffer
    if in_json:
        out.write(as_json(_fields(message)).encode() + b"\n")
    else:
        out.write(message.body + b"\n" * newline)
    out.flush()


def unwritten(error: OSError) -> int:
    """Say that standard output took no more; the exit status."""
    print(f"broker: cannot write: {error.strerror}", file=sys.stderr)
    # Python would complain about the same once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.UNWRITTEN


def _fields(message: Taken) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": message.id,
        "content_type": message.content_type,
        "delivered": message.delivered,
    }
    try:
        fields["body"] = message.body.decode()
    except UnicodeDecodeError:
        fields["body_base64"] = base64.b64encode(message.body).decode()
    return fields
