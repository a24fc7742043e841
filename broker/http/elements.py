"""Long arrays of JSON, element by element.

A decoder of C holds the interpreter until it is through, in whichever thread it runs: 8 MiB of ``{},`` took it 1.2 s,
and everybody else waited. Here it is called once for each element, which has a length of its own, so that another
thread may go on in between; and whoever has seen enough elements stops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from broker.http.problem import Problem

_find_end = json.JSONDecoder().raw_decode

#: Possessive: two of them side by side would try every way to share 8 MiB of blanks.
_BLANK = r"[ \t\n\r]*+"


class Around(NamedTuple):
    """Where the array stands."""

    opening: re.Pattern[str]
    closing: re.Pattern[str]
    #: What a JSON pointer to it is.
    pointer: str
    #: What a body with it looks like.
    looks: str


def _around(before: str, after: str, pointer: str, looks: str) -> Around:
    opening = re.compile(f"{_BLANK}{before}{_BLANK}\\[{_BLANK}")
    return Around(opening, re.compile(f"{_BLANK}\\]{_BLANK}{after}{_BLANK}"), pointer, looks)


#: An array alone, and one that is the only member of an object.
ARRAY = _around("", "", "", "[...]")
OPS = _around(rf'\{{{_BLANK}"ops"{_BLANK}:', r"\}", "/ops", '{"ops":[...]}')

_comma = re.compile(f"{_BLANK},{_BLANK}")


def elements(body: bytes, longest: int, around: Around = ARRAY) -> Iterator[bytes]:
    """The elements, as they came, of the array in `body`; each is JSON, or nearly: decode it to be sure.

    Raises `Problem` with the place where it is none, or where an element has more than `longest` characters. For any
    thread.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, "bad-parameter", f"The body is not UTF-8: {error}") from None
    found = around.opening.match(text)
    if found is None:
        raise Problem(400, "bad-parameter", f"The body does not begin as {around.looks} does.")
    at, number = found.end(), 0
    if around.closing.fullmatch(text, at):
        return
    while True:
        piece = text[at : at + longest]
        try:
            _, length = _find_end(piece)
        except (ValueError, RecursionError) as error:
            if at + longest < len(text):
                reason = f"Element {number} is broken, or has more than {longest} characters."
                raise wrong(413, "too-large", reason, around, number) from None
            raise wrong(400, "bad-parameter", f"Element {number} is not JSON: {error}", around, number) from None
        yield piece[:length].encode()
        at += length
        comma = _comma.match(text, at)
        if comma is None:
            break
        at, number = comma.end(), number + 1
    if not around.closing.fullmatch(text, at):
        reason = f"Behind element {number} is neither a comma nor the end of the array and the body."
        raise wrong(400, "bad-parameter", reason, around, number)


def wrong(status: int, kind: str, reason: str, around: Around, number: int, within: str = "") -> Problem:
    """The problem of element `number`, or of what the pointer `within` it names."""
    pointer = f"{around.pointer}/{number}{within}"
    return Problem(status, kind, reason, said={"errors": [{"detail": reason, "pointer": pointer}]})
