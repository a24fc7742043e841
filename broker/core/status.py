"""What the whole broker does at the moment for whoever asks: the one notion of it, whichever front is asked."""

from __future__ import annotations

from broker.core.level import Level
from broker.core.publishing import Publishing
from broker.core.supply import Supply
from broker.errors import Blocked, BrokerError, Stopping


class Status:
    """Has the way in and the way out keep to a level."""

    def __init__(self, publishing: Publishing, supply: Supply) -> None:
        self._publishing = publishing
        self._supply = supply
        self.level = Level.UP
        self._stopped = False

    def become(self, level: Level) -> None:
        """From now on this holds; what was begun goes on, and who waits for messages waits on."""
        if self._stopped:
            return
        self.level = level
        self._publishing.refusal = self._refusal
        self._publishing.stopping = level.value >= Level.DRAINING.value
        if level is Level.QUIESCENT:
            self._supply.hold(self._refusal())
        elif self._supply.held:
            self._supply.go_on()

    def stop(self) -> None:
        """The broker ends: nothing is put in any more."""
        self._stopped = True
        self._publishing.refusal = _stopping
        self._publishing.stopping = True

    def check_take(self) -> None:
        """Raise `Blocked` where nothing may be taken."""
        if self._supply.held:
            raise self._refusal()

    def check_purge(self) -> None:
        """Raise `Blocked` where no queue may be emptied or deleted."""
        if self.level.value >= Level.READONLY.value:
            raise self._refusal()

    def _refusal(self) -> BrokerError:
        if self.level is Level.DRAINING:
            return Stopping("the broker drains: it takes no new messages")
        return Blocked(f"the server's status is {self.level.name}")


def _stopping() -> BrokerError:
    return Stopping("the broker is stopping")
