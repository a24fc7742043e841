"""What an ERROR frame says: one class for what this front refuses, one table for what the core refuses."""

from __future__ import annotations

from collections.abc import Mapping

from broker.errors import (
    BadName,
    BadValue,
    BrokerError,
    LeaseLost,
    MessageTooLarge,
    NotAllowed,
    NotFound,
    QueueFull,
    Stopping,
    StoreRefused,
    StoreUnavailable,
)
from broker.stomp.wire import FrameError


class Refused(Exception):
    """A frame that is not obeyed: `message` is the ERROR's header of that name, `detail` its body."""

    def __init__(self, message: str, detail: str = "", *, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail or message
        #: Further headers of the ERROR.
        self.headers = headers


#: The core's errors in this front's words. The body is the core's own sentence.
_MESSAGES: dict[type[BrokerError], str] = {
    BadName: "Invalid destination",
    BadValue: "Invalid header",
    MessageTooLarge: "Body too large",
    QueueFull: "Queue full",
    NotFound: "Message not found",
    LeaseLost: "Message not found",
    NotAllowed: "Access refused",
    StoreUnavailable: "Store unavailable",
    StoreRefused: "Message refused",
    Stopping: "Shutting down",
}


def refusal(error: BaseException) -> Refused | None:
    """What to tell the client; None: this was not foreseen, and the client learns nothing about it."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, FrameError):
        return Refused(error.violation.value, error.detail)
    if isinstance(error, BrokerError):
        message = next((_MESSAGES[kind] for kind in type(error).__mro__ if kind in _MESSAGES), None)
        return None if message is None else Refused(message, error.reason)
    return None
