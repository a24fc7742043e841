"""How messages, and other things, are printed."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from broker.cli.exits import Exit

#: Characters of a body that a table shows.
_SHOWN = 60


def as_json(value: dict[str, Any]) -> str:
    """One line."""
    return json.dumps(value, ensure_ascii=False)


def printed(lines: Iterable[str], anything: bool = True) -> int:
    """Print; the exit status. `anything`: it was not for nothing that somebody asked."""
    # a name may hold what the terminal's encoding has not
    said = "".join(f"{line}\n" for line in lines).encode()
    try:
        sys.stdout.buffer.write(said)
        sys.stdout.buffer.flush()
    except OSError as error:
        return unwritten(error)
    return Exit.DONE if anything else Exit.NOTHING


def short(text: str) -> str:
    """What a table shows of a body."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."


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
    yield from aligned([headings, *lines], right)


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Lines whose columns stand one below the other; `right` are the columns of numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def write(fields: dict[str, Any], body: bytes, *, in_json: bool, newline: bool) -> None:
    """Write a message to standard output and flush it; `fields` stand beside its body in JSON. Raises `OSError`."""
    out = sys.stdout.buffer
    if in_json:
        try:
            said = {"body": body.decode()}
        except UnicodeDecodeError:
            said = {"body_base64": base64.b64encode(body).decode()}
        out.write(as_json(fields | said).encode() + b"\n")
    else:
        out.write(body + b"\n" * newline)
    out.flush()


def unwritten(error: OSError) -> int:
    """Say that standard output took no more; the exit status."""
    print(f"broker: cannot write: {error.strerror}", file=sys.stderr)
    # Python would complain about the same once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.UNWRITTEN
