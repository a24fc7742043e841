"""Header fields of which text can be had whatever bytes came: twisted.web's fail where they are no UTF-8."""

from __future__ import annotations

from typing import Any

from twisted.web.http_headers import Headers


class Fields(Headers):
    """Bytes that are no UTF-8 are ``\\xNN`` in the text: no name, no token and no key is like that."""

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:
        """The fields of that name, as bytes if the name is bytes, else as text."""
        if isinstance(name, bytes):
            return super().getRawHeaders(name, default)
        values = super().getRawHeaders(name.encode("ascii"))
        return default if values is None else [value.decode("utf-8", "backslashreplace") for value in values]
