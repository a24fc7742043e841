"""Who somebody is: `IAuthenticator`, and the users of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from zope.interface import Attribute, Interface, implementer

from broker.auth import file
from broker.auth.limits import Bounds, Buckets, Limits, Quota
from broker.auth.memory import Failures, Verified, network
from broker.auth.rights import NOTHING, Rights, User
from broker.auth.secret import BadSecret, encode, hash_token, unknown, verify
from broker.errors import ConfigError

T = TypeVar("T")
#: Runs something slow elsewhere.
Run = Callable[[Callable[[], bool]], Deferred[bool]]
#: What a users file says, and the rights that amounts to, by name.
Entries = dict[str, tuple[file.Entry, Rights]]

#: Hashes at a time: 16 MiB and a processor each.
AT_A_TIME = 2
#: Logins that may wait for their turn (23 s of hashing); a further one is refused.
MAX_WAITING = 1000
#: Wrong passwords for one name: so many at once, then one in so many seconds. 14,400 guesses a day.
NAME_BURST, NAME_PERIOD = 10, 6.0
#: The same for one address, which may be a proxy's, with many users behind it.
ADDRESS_BURST, ADDRESS_PERIOD = 50, 1.0


class IAuthenticator(Interface):
    """Tells who somebody is. Methods return Deferreds, which do not fail."""

    anonymous: User | None = Attribute("Who names no user; None: everybody must.")

    def password(name: str, password: str, address: str) -> Deferred[User | None]:
        """The user of that name, if that is his password; None for any other reason.

        `address` is the client's, or empty for one on this machine. What is answered, and how late, tells nothing about
        whether there is such a user.
        """

    def token(bearer: str, address: str) -> Deferred[User | None]:
        """The user who has this token; None if nobody has."""

    def named(name: str) -> User | None:
        """The user of that name, who has shown elsewhere that it is his: by a certificate; None if there is none."""


class HashingThreads:
    """Threads of their own for password hashes: they neither delay the reactor's other work nor take all processors."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=AT_A_TIME, name="passwords")

    def start(self) -> None:
        """Once, after the process has gone to the background."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for what is under way."""
        if self._pool.started:
            self._pool.stop()

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Do `work` in a thread."""
        return cast("Deferred[T]", deferToThreadPool(self._reactor, self._pool, work))


@implementer(IAuthenticator)
class Users:
    """The users of the file at `path`, which is read now; raises `ConfigError`.

    `run` hashes elsewhere, `now` gives seconds. With `allow_anonymous` the file's user `anonymous` is who names none.
    `bounds` has the limits of every user, as far as the file gives him none of his own, and how often one address may
    ask for a hash.
    """

    _log = Logger()

    def __init__(
        self,
        path: str,
        *,
        run: Run,
        now: Callable[[], float],
        allow_anonymous: bool = False,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        self.path = path
        self._run = run
        self._now = now
        self._allow_anonymous = allow_anonymous
        self._verified = Verified()
        self._by_name = Failures(now, burst=NAME_BURST, period=NAME_PERIOD)
        self._by_address = Failures(now, burst=ADDRESS_BURST, period=ADDRESS_PERIOD)
        self.bound(bounds)
        self._turn = DeferredSemaphore(AT_A_TIME)
        self._unknown = unknown()
        self._users: dict[str, User] = {}
        self._stored: dict[str, str] = {}
        self._tokens: dict[str, User] = {}
        self.reload()

    def __len__(self) -> int:
        return len(self._users)

    def reload(self) -> None:
        """Read the file again, and go by it. Raises `ConfigError`, and nothing has changed then."""
        self.take(self.read())

    def read(self) -> Entries:
        """What the file says now, for `take`; raises `ConfigError`. It may be called in a thread."""
        entries = file.load(self.path)
        if self._allow_anonymous and file.ANONYMOUS not in entries:
            raise ConfigError(
                f"{self.path}: user.{file.ANONYMOUS}: missing, and allow_anonymous is set: give it rights"
            )
        return {name: (entry, entry.compiled(name)) for name, entry in entries.items()}

    def take(self, entries: Entries) -> None:
        """Go by these from now on.

        Who is logged in has his new rights at once; the connections of who is gone from the file end.
        """
        old, self._users, self._stored, self._tokens = self._users, {}, {}, {}
        for name, (entry, rights) in entries.items():
            user = self._users[name] = old.get(name) or User(name, NOTHING)
            user.rights = rights
            self._limit(user, entry.limited(self._limits))
            self._stored[name] = entry.password
            self._tokens |= dict.fromkeys(entry.tokens, user)
        for name, user in old.items():
            if name not in entries:
                user.remove()

    def bound(self, bounds: Bounds) -> None:
        """From the next `take` on these are the limits of every user; logins go by them at once."""
        self._limits = bounds.user
        self._logins = Buckets(bounds.address_logins, self._now)

    @property
    def anonymous(self) -> User | None:
        """Who names no user."""
        return self._users.get(file.ANONYMOUS) if self._allow_anonymous else None

    # -- IAuthenticator

    def token(self, bearer: str, address: str) -> Deferred[User | None]:
        """The user who has this token. It is not limited: nobody guesses 256 bits."""
        user = self._of_token(bearer)
        if user is None:
            self._failed(None, address, "an unknown token")
        return succeed(user)

    def password(self, name: str, password: str, address: str) -> Deferred[User | None]:
        """The user of that name, if that is his password or one of his tokens."""
        user = self._of_token(password)
        if user is not None and user.name == name:
            return succeed(user)
        return Deferred.fromCoroutine(self._password(name, password, network(address)))

    async def _password(self, name: str, password: str, address: str) -> User | None:
        try:
            octets = encode(password)
            name.encode()
        except (BadSecret, UnicodeEncodeError):
            octets = b""  # nobody has it; it takes as long as any other
        stored = self._stored.get(name) or self._unknown
        digest = self._verified.digest(name, octets, stored) if octets else b""
        # Before the limit: guesses at somebody's password must not lock out those who have it.
        if digest in self._verified:
            return self._users.get(name)
        if self._limited(name, address):
            return None
        if self._logins.take(address):
            self._log.debug("more logins from {address} than are allowed: refused", address=address)
            return None
        if len(self._turn.waiting) >= MAX_WAITING:
            self._log.warn("too many logins at once, one from {address} is refused", address=address or "this machine")
            return None
        await self._turn.acquire()
        try:
            # Meanwhile others may have shown that it is right, or have used up the tries.
            if digest not in self._verified:
                if self._limited(name, address):
                    return None
                if not await self._run(lambda: verify(octets, stored)) or not octets:
                    self._failed(name, address, "a wrong password")
                    return None
                self._verified.add(digest)
        finally:
            self._turn.release()
        return self._users.get(name) if self._stored.get(name) == stored else None

    def named(self, name: str) -> User | None:
        """The user of that name."""
        return self._users.get(name)

    # -- parts

    def _of_token(self, bearer: str) -> User | None:
        # Found by its hash: how long that takes tells something about the hash, and a hash tells nothing about a token.
        return self._tokens.get(hash_token(bearer))

    def _limit(self, user: User, limits: Limits) -> None:
        """Have him have these limits."""
        if user.quota is None:
            user.quota = Quota(limits, self._now) if limits != Limits() else None
        elif user.quota.limits != limits:
            user.quota.change(limits)

    def _limited(self, name: str, address: str) -> bool:
        return self._by_name.spent(name) or self._by_address.spent(address)

    def _failed(self, name: str | None, address: str, why: str) -> None:
        """Count it, and say so: a line for every failure that was looked at. Names that are none may be passwords."""
        whose = name if name in self._users else "nobody we know" if name is not None else "somebody"
        self._log.info(
            "login of {name} from {address} failed: {why}", name=whose, address=address or "this machine", why=why
        )
        over = self._by_address.count(network(address))
        if name is not None:
            over = self._by_name.count(name) or over
        if over:
            self._log.warn("no more tries for {name} from {address} for now", name=whose, address=address)
