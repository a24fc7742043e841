"""How messages, and other things, are printed."""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

from broker.cli.client import Taken
from broker.cli.exits import Exit


def as_json(value: dict[str, Any]) -> str:
    """One line."""
    return json.dumps(value, ensure_ascii=False)


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
