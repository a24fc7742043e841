"""What a stage raises to say what becomes of its input; any other exception is a `Retry` with its own words."""

from __future__ import annotations


class Retry(Exception):
    """It failed, and may succeed later: after `after` seconds, else as the stage's ``backoff`` says."""

    def __init__(self, reason: str = "", after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Reject(Exception):
    """It will never succeed: straight to the dead channel."""


class Later(Exception):
    """Not now (a quota, a shutdown): back to its place, and no attempt was made."""


class Undecodable(Reject, ValueError):
    """The input is not what its content type says."""


class Unencodable(TypeError):
    """An output that no message can be made of."""


class LeaseLost(Exception):
    """The lease of the input is lost: somebody else has it, and nothing of this run counts."""
