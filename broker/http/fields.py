"""Header fields of requests: as they came, and what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from twisted.web.http_headers import Headers

from broker.http import metadata


class Said:
    """What the fields of a request say. Asked once, it is known for all requests with the same fields.

    With paths that are matched once, a POST makes 30 calls of functions less, of 605.
    """

    def __init__(self, fields: Iterable[tuple[bytes, Sequence[bytes]]]) -> None:
        self._values = {name.lower(): values for name, values in fields}
        self._last: dict[str, str | None] = {}

    @cached_property
    def content_type(self) -> str | None:
        """The body's type as it came; None if it says nothing."""
        return metadata.content_type(self._values.items())

    @cached_property
    def message(self) -> dict[str, str]:
        """The headers that a message keeps."""
        return metadata.message_headers(self._values.items())

    @cached_property
    def accept(self) -> str:
        """All of ``Accept``."""
        return b",".join(self._values.get(b"accept", ())).decode("latin-1")

    def last(self, name: str) -> str | None:
        """The last field of this name, which is in lower case; None if there is none."""
        if name not in self._last:
            values = self._values.get(name.encode())
            self._last[name] = metadata.decoded(values[-1]).strip() if values else None
        return self._last[name]


class Fields(Headers):
    """The fields themselves. Text can be had whatever bytes came: twisted.web's fails where they are no UTF-8.

    Bytes that are no UTF-8 are ``\\xNN`` in the text: no name, no token and no key is like that.
    """

    _said: Said | None = None

    @property
    def said(self) -> Said:
        """What they say, once they have all come."""
        if self._said is None:
            self._said = Said(self.getAllRawHeaders())
        return self._said

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:
        """The fields of that name, as bytes if the name is bytes, else as text."""
        if isinstance(name, bytes):
            return super().getRawHeaders(name, default)
        values = super().getRawHeaders(name.encode("ascii"))
        return default if values is None else [value.decode("utf-8", "backslashreplace") for value in values]
