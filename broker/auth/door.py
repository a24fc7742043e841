"""What the fronts ask: who a client is (`Door`), and what he may do with what is there (`Access`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from twisted.internet.defer import Deferred, succeed

from broker.audit import Record, nothing
from broker.auth.limits import Loan
from broker.auth.rights import EVERYTHING, NOTHING, Action, User, may
from broker.auth.users import IAuthenticator
from broker.core.broker import Broker
from broker.core.destination import Destination, Kind
from broker.core.patterns import examples, is_pattern
from broker.errors import NotAllowed, NotFound, OverLimit

_DOING = {
    Action.PUBLISH: "publish to",
    Action.SUBSCRIBE: "take from",
    Action.CREATE: "create",
    Action.BROWSE: "look into",
    Action.ADMIN: "administer",
}
#: Who is there where nobody is asked who he is.
ANYBODY = User("anonymous", EVERYTHING)


class Access:
    """What one user may do. Methods that return nothing raise `NotAllowed`."""

    def __init__(
        self, user: User, broker: Broker, record: Record = nothing, *, address: str = "", front: str = ""
    ) -> None:
        self.user = user
        #: What he asks for at the moment, for the audit log, where that is an administrator's.
        self.doing = ""
        self._broker = broker
        self._record = record
        self._address = address
        self._front = front

    def may(self, action: Action, destination: Destination | None) -> bool:
        """True if the user may do that; None is the whole broker."""
        return may(self.user, action, destination)

    def check(self, action: Action, destination: Destination | None) -> None:
        """That he may do that; None is the whole broker."""
        if not may(self.user, action, destination):
            self._refuse(action, _shown(destination))
        if action is Action.ADMIN:
            self._tell(action, "allowed", _shown(destination))

    def publish(self, destination: Destination) -> None:
        """That he may put something in, and have the queue come to be if it is not there."""
        self.check(Action.PUBLISH, destination)
        self._create(destination)

    def subscribe(self, destination: Destination, *, waits: bool) -> None:
        """That he may take messages; who `waits` for them has the queue come to be.

        Of a pattern of topics: that his rights cover each topic that it could match.
        """
        self._read(destination)
        if waits:
            self._create(destination)

    def bind(self, queue: Destination, source: Destination) -> None:
        """That he may have `queue` get what `source` gets: what is his to administer, from what he may read."""
        self.check(Action.ADMIN, queue)
        self._read(source)
        self._create(queue)

    def settle(self, delivery_id: int) -> None:
        """That he may settle, or take on loan, a message by its id; `NotFound` if there is none."""
        if self.user.rights is EVERYTHING:
            return
        destination = self._broker.queue_of(delivery_id)
        if destination is None:
            raise NotFound("there is no such message")
        self.hide(Action.SUBSCRIBE, destination, "there is no such message")

    def look(self, delivery_id: int) -> None:
        """That he may look at a message by its id; `NotFound` if there is none."""
        if self.user.rights is EVERYTHING:
            return
        destination = self._broker.queue_of(delivery_id)
        if destination is None:
            raise NotFound("there is no such message")
        self.hide(Action.BROWSE, destination, "there is no such message")

    def hide(self, action: Action, destination: Destination, reason: str) -> None:
        """That he may do that with what he has named by a number; else `NotFound`, as if there was no such thing.

        Who may not learns neither that it is there nor where.
        """
        if not may(self.user, action, destination):
            self._tell(action, "refused", _shown(destination))
            raise NotFound(reason)

    def look_around(self) -> None:
        """That he may look at anything at all; what, `seen` says."""
        if not self.user.rights.anywhere(Action.BROWSE):
            self._refuse(Action.BROWSE, "anything")

    def seen(self, kind: Kind, names: Iterable[str]) -> list[str]:
        """Those among the names of queues or topics that he may look into."""
        return [name for name in names if may(self.user, Action.BROWSE, Destination(kind, name))]

    # -- his limits

    def put_in(self, messages: int, size: int) -> None:
        """That he may put in so many messages now, of so many bytes; `OverLimit`. They count from here on."""
        if self.user.quota is not None:
            self.user.quota.publish(messages, size)

    def room(self) -> int:
        """How many messages more he may have on loan; `OverLimit` if none."""
        return sys.maxsize if self.user.quota is None else self.user.quota.room()

    def lent(self, loans: Iterable[Loan]) -> None:
        """These are on loan to him now."""
        if self.user.quota is not None:
            self.user.quota.lent(loans)

    def reserve(self, prefetch: int) -> int:
        """The credit of a subscription that wants so much: less if that is all he may have; `OverLimit` if none."""
        return prefetch if self.user.quota is None else self.user.quota.reserve(prefetch)

    def free(self, prefetch: int, left: Iterable[Loan] = ()) -> None:
        """A subscription with this credit is over; it left these on loan."""
        if self.user.quota is not None:
            self.user.quota.free(prefetch)
            self.user.quota.lent(left)

    def enter(self, end: Callable[[], None]) -> None:
        """Another connection is his, which `end` ends; `OverLimit` if he has as many as he may have."""
        told = {"user": self.user.name, "address": self._address, "front": self._front}
        try:
            if self.user.quota is not None:
                self.user.quota.connect(len(self.user.connections))
        except OverLimit as error:
            self._record("login", "refused", **told, reason=error.reason)
            raise
        self.user.connections.add(end)
        if self.user is not ANYBODY:
            self._record("login", "allowed", **told)

    def leave(self, end: Callable[[], None]) -> None:
        """It is not any more."""
        self.user.connections.discard(end)

    # -- parts

    def _read(self, source: Destination) -> None:
        self.check(Action.SUBSCRIBE, source)
        if self.user.rights is EVERYTHING or source.kind is not Kind.TOPIC or not is_pattern(source.name):
            return
        for name in examples(source.name):
            if not may(self.user, Action.SUBSCRIBE, Destination(Kind.TOPIC, name)):
                self._refuse(Action.SUBSCRIBE, f"every topic that {source.name} matches")

    def _create(self, destination: Destination) -> None:
        if (
            self.user.rights is not EVERYTHING
            and destination.kind is Kind.QUEUE
            and not self._broker.exists(destination.name)
        ):
            self.check(Action.CREATE, destination)
            if self.user.quota is not None:
                self.user.quota.create(self._created)

    def _refuse(self, action: Action, where: str) -> NoReturn:
        self._tell(action, "refused", where)
        raise NotAllowed(f"not allowed: user {self.user.name} has no right to {_DOING[action]} {where}")

    def _tell(self, action: Action, outcome: str, where: str) -> None:
        doing = self.doing if action is Action.ADMIN else ""
        self._record(
            doing or action.value,
            outcome,
            user=self.user.name,
            address=self._address,
            front=self._front,
            right=action.value,
            on=where,
        )

    def _created(self) -> int:
        """How many queues are in use that he may create."""
        return sum(may(self.user, Action.CREATE, Destination(Kind.QUEUE, name)) for name in self._broker.queues())


class Door:
    """The way in to one broker. Without an authenticator everybody may do everything, whatever he says he is."""

    def __init__(
        self,
        broker: Broker,
        authenticator: IAuthenticator | None = None,
        record: Record = nothing,
        front: str = "",
    ) -> None:
        self._broker = broker
        self._authenticator = authenticator
        self._record = record
        self._front = front
        #: The access of those who are not asked, because they may do nothing.
        self.nobody = Access(User("nobody", NOTHING), broker)

    def at(self, front: str) -> Door:
        """The same, for the connections of this front."""
        return Door(self._broker, self._authenticator, self._record, front)

    @property
    def open(self) -> bool:
        """True if nobody is asked who he is."""
        return self._authenticator is None

    @property
    def anonymous(self) -> Access | None:
        """The access of those who name no user; None: everybody must."""
        return self._entering(ANYBODY if self._authenticator is None else self._authenticator.anonymous, "")

    def unnamed(self, transport: object) -> Access | None:
        """The access of who names no user on a connection: his whose certificate was shown there; else `anonymous`."""
        name, address = certified(transport), _peer(transport)
        if self._authenticator is None:
            return self._entering(ANYBODY, address)
        return self._entering(self._authenticator.named(name) if name else self._authenticator.anonymous, address)

    def admits(self, name: str) -> bool:
        """True if who has a certificate in this name may come in."""
        if self._authenticator is None or self._authenticator.named(name) is not None:
            return True
        self._record("login", "refused", front=self._front, reason="the name in the certificate is no user's")
        return False

    def password(self, name: str, password: str, address: str) -> Deferred[Access | None]:
        """The access of who has this name and password, coming from `address`; None if nobody has."""
        if self._authenticator is None:
            return succeed(self._entering(ANYBODY, address))
        known = name if self._authenticator.named(name) is not None else ""  # or it may be a password
        return self._authenticator.password(name, password, address).addCallback(self._access, known, address)

    def token(self, bearer: str, address: str) -> Deferred[Access | None]:
        """The access of who has this token; None if nobody has."""
        if self._authenticator is None:
            return succeed(self._entering(ANYBODY, address))
        return self._authenticator.token(bearer, address).addCallback(self._access, "", address)

    def _access(self, user: User | None, name: str, address: str) -> Access | None:
        if user is None:
            self._broker.stats.logins_failed += 1
            reason = "no such user, password or token"
            self._record("login", "refused", user=name, address=address, front=self._front, reason=reason)
        return self._entering(user, address)

    def _entering(self, user: User | None, address: str) -> Access | None:
        if user is None:
            return None
        return Access(user, self._broker, self._record, address=address, front=self._front)


def _shown(destination: Destination | None) -> str:
    return "the whole broker" if destination is None else f"{destination.kind.value} {destination.name}"


def _peer(transport: object) -> str:
    peer = getattr(transport, "getPeer", None)
    return "" if peer is None else host_of(peer())


def certified(transport: object) -> str:
    """The name in the certificate that was shown on a connection, and verified; empty: none was asked for."""
    return str(getattr(transport, "certified", ""))


def host_of(address: object) -> str:
    """The host of a Twisted address; empty for one on this machine that has none, a Unix socket's."""
    return str(getattr(address, "host", ""))
