"""The exit statuses, for scripts."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What became of a command."""

    DONE = 0
    NOTHING = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    UNWRITTEN = 5
