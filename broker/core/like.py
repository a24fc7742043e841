"""SQL's ``LIKE``, at a cost that nobody who writes a pattern can make large."""

from __future__ import annotations

import re
from collections.abc import Callable


def like(pieces: list[list[str | None]]) -> Callable[[str], bool]:
    """Whether a text matches; `pieces` stand between the pattern's ``%``, and None is any one character.

    The first is at the beginning and the last at the end; each of the others is taken at the first place it is found,
    which leaves the most for those after it. So nothing is looked at twice, as a regular expression would.
    """
    patterns = [
        re.compile("".join("." if one is None else re.escape(one) for one in piece), re.DOTALL) for piece in pieces
    ]
    head, inner, tail, tail_length = patterns[0], patterns[1:-1], patterns[-1], len(pieces[-1])

    def matches(text: str) -> bool:
        found = head.match(text)
        for piece in inner:
            if found is None:
                return False
            found = piece.search(text, found.end())
        start = len(text) - tail_length
        return found is not None and found.end() <= start and tail.match(text, start) is not None

    return matches if len(patterns) > 1 else lambda text: head.fullmatch(text) is not None
