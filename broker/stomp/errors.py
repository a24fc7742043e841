"""What an ERROR frame says: one class for what this front refuses, one table for what the core refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping

from broker.errors import (
    BadName,
    BadValue,
    Blocked,
    BrokerError,
    LeaseLost,
    MessageTooLarge,
    NotAllowed,
    NotFound,
    OverLimit,
    QueueFull,
    Stopping,
    StoreRefused,
    StoreUnavailable,
)
from broker.stomp.dialect import VERSIONS
from broker.stomp.flavour import Flavour
from broker.stomp.frames import Frame
from broker.stomp.wire import FrameError

_no_word = re.compile("[^a-z0-9]+")
#: After these the connection ends, whatever the flavour says of errors.
_FATAL = frozenset(
    {
        "already-connected",
        "body-too-large",
        "duplicated-subscription-identifier",
        "processing-error",
        "shutting-down",
        "subscription-cancelled",
        "too-many-subscriptions",
        "too-many-transactions",
        "transaction-too-large",
    }
)


class Refused(Exception):
    """A frame that is not obeyed: `message` is the ERROR's header of that name, `detail` its body.

    `named` is the transaction, delivery or command it is about; `headers` are further ones of the ERROR.
    """

    def __init__(
        self, message: str, detail: str = "", *, named: str = "", headers: Mapping[str, str] = {}, fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail or message
        self.named = named
        self.headers = headers
        #: For programs; the same in every flavour.
        self.code = _no_word.sub("-", message.lower()).strip("-")
        #: The connection ends after it.
        self.fatal = fatal or self.code in _FATAL


#: The core's errors in this front's words. The body is the core's own sentence.
_MESSAGES: dict[type[BrokerError], str] = {
    BadName: "Invalid destination",
    BadValue: "Invalid header",
    MessageTooLarge: "Body too large",
    QueueFull: "Queue full",
    OverLimit: "Limit reached",
    NotFound: "Message not found",
    LeaseLost: "Message not found",
    NotAllowed: "Access refused",
    StoreUnavailable: "Store unavailable",
    StoreRefused: "Message refused",
    Stopping: "Shutting down",
    Blocked: "Blocked by the status",
}


def refusal(error: BaseException) -> Refused | None:
    """What to tell the client; None: this was not foreseen, and the client learns nothing about it."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, FrameError):
        return Refused(error.violation.value, error.detail, fatal=True)
    if isinstance(error, BrokerError):
        message = next((_MESSAGES[kind] for kind in type(error).__mro__ if kind in _MESSAGES), None)
        return None if message is None else Refused(message, error.reason)
    return None


def error_frame(refused: Refused, frame: Frame, flavour: Flavour) -> Frame:
    """The ERROR that answers `frame`, in the words of a flavour."""
    words = flavour.words.get(f"{frame.command} {refused.code}") or flavour.words.get(refused.code)
    message = refused.message if words is None else words.format(command=frame.command, named=refused.named)
    headers = {
        "message": message,
        "error-code": refused.code,
        "version": VERSIONS,
        "content-type": "text/plain",
        **refused.headers,
    }
    if "receipt" in frame.headers:
        headers["receipt-id"] = frame.headers["receipt"]
    return Frame("ERROR", headers, f"{refused.detail}\n".encode(errors="replace"))
