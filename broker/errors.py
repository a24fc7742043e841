"""Every error the broker means to tell somebody about: one family, raised where it is known, translated once per front.

``retryable`` says whether the same request may succeed later without being changed.
"""


class BrokerError(Exception):
    """What went wrong, in a sentence a client may read."""

    retryable = False

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadName(BrokerError):
    """A destination's name is empty, longer than 250 bytes, or holds control characters."""


class BadValue(BrokerError):
    """A parameter is not of its type or outside its range."""


class MessageTooLarge(BrokerError):
    """A body is over ``max_message_size``."""


class QueueFull(BrokerError):
    """A queue holds ``max_messages``; it takes more when some are settled."""

    retryable = True


class NotFound(BrokerError):
    """No such message, delivery, transaction or subscription (any more)."""


class NotAllowed(BrokerError):
    """This user may not do that."""


class OverLimit(BrokerError):
    """A limit of this user, or of all together, is reached; `after` so many seconds it may not be any more."""

    retryable = True
    after = 1.0

    def __init__(self, reason: str, after: float = 1.0) -> None:
        super().__init__(reason)
        self.after = after


class LeaseLost(BrokerError):
    """The delivery is no longer on loan to the one who speaks of it."""


class StoreUnavailable(BrokerError):
    """The store could not commit or read; nothing of the request was kept."""

    retryable = True


class StoreRefused(BrokerError):
    """The store refuses this very content, whatever else is in its group."""


class Stopping(BrokerError):
    """The broker is shutting down and takes no new work."""

    retryable = True


class Blocked(BrokerError):
    """The server's status does not let it be done."""

    retryable = True


class ConfigError(BrokerError):
    """The configuration or the surroundings do not let the broker start; one line says why."""


class NothingToReload(BrokerError):
    """The broker was started without a file."""

    def __init__(self) -> None:
        super().__init__("nothing to reload: there is no configuration, users file or certificate")


class NotUpgraded(BrokerError):
    """No new process takes over: it cannot, or none can now. This one goes on."""
