"""What only the HTTP front can count, for ``/stats``."""

from __future__ import annotations

import attrs


@attrs.define
class Counts:
    """Requests since the start."""

    #: ``GET /channels/C``, whatever came of it.
    takes: int = 0
    #: ``DELETE /channels/C``.
    drains: int = 0
