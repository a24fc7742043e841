"""Users for tests: a file of them, whose passwords are hashed once for the whole run, and hashes computed at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from zope.interface import implementer

from broker.auth.file import Entry, RightsEntry, dump
from broker.auth.rights import Action, Rights, User
from broker.auth.secret import hash_password, hash_token
from broker.auth.users import IAuthenticator, Users
from tests.support import CANARY

#: Everybody's password in these tests; no log may have it.
PASSWORD = CANARY
TOKEN = "a token of alice's"


_known: set[bytes] = set()


@cache
def hashed(password: str) -> str:
    """A password as it is kept."""
    _known.add(password.encode())
    return hash_password(password)


def verify(password: bytes, stored: str) -> bool:
    """What the real one says of the passwords that were `hashed`, without the time it takes."""
    return password in _known and hashed(password.decode()) == stored


def entry(*, password: str = PASSWORD, tokens: tuple[str, ...] = (), **rights: str) -> Entry:
    """A user; rights are patterns with blanks between them."""
    return Entry(
        password=hashed(password) if password else "",
        tokens=[hash_token(token) for token in tokens],
        rights=RightsEntry(**{action: patterns.split() for action, patterns in rights.items()}),
    )


def everything(pattern: str = "*") -> dict[str, Any]:
    """All rights on what `pattern` covers."""
    return {action.value: pattern for action in Action}


def write(path: Path, users: dict[str, Entry]) -> Path:
    """Make the users file at `path`."""
    path.write_text(dump(users))
    path.chmod(0o600)
    return path


class Hashing:
    """Computes hashes at once, or when told to; counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.at_once = True
        self.waiting: list[Callable[[], None]] = []

    def run(self, work: Callable[[], bool]) -> Deferred[bool]:
        """Do it."""
        self.count += 1
        if self.at_once:
            return execute(work)
        done: Deferred[bool] = Deferred()
        self.waiting.append(lambda: done.callback(work()))
        return done


def users_of(path: Path, clock: Clock, hashing: Hashing | None = None, *, allow_anonymous: bool = False) -> Users:
    """The users of a file, with hashes computed at once."""
    return Users(str(path), run=(hashing or Hashing()).run, now=clock.seconds, allow_anonymous=allow_anonymous)


@implementer(ILogObserver)
class Log:
    """A context manager: what is logged meanwhile, at any level, with every field of every event."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)

    def __enter__(self) -> Self:
        globalLogPublisher.addObserver(self)
        return self

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self)

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(f"{eventAsText(event)} {event!r}" for event in self.events)


@implementer(IAuthenticator)
class Known:
    """Users who are known at once; `late` ones are when they are told."""

    def __init__(self, users: dict[str, dict[str, str]], *, anonymous: dict[str, str] | None = None) -> None:
        self.users = {name: User(name, self.rights(name, rights)) for name, rights in users.items()}
        self.anonymous = None if anonymous is None else User("anonymous", self.rights("anonymous", anonymous))
        self.asked: list[tuple[str, ...]] = []
        self.late = False
        self.waiting: list[Callable[[], None]] = []

    @staticmethod
    def rights(name: str, said: dict[str, str]) -> Rights:
        """Patterns with blanks between them, by action."""
        return Rights({Action(action): patterns.split() for action, patterns in said.items()}, name)

    def allow(self, name: str, **said: str) -> None:
        """From now on that is all this user may do."""
        self.users[name].rights = self.rights(name, said)

    def password(self, name: str, password: str, address: str) -> Deferred[User | None]:
        """Everybody has the same."""
        self.asked.append((name, password, address))
        found = self.users.get(name) if password == PASSWORD else None
        if not self.late:
            return succeed(found)
        answer: Deferred[User | None] = Deferred()
        self.waiting.append(lambda: answer.callback(found))
        return answer

    def token(self, bearer: str, address: str) -> Deferred[User | None]:
        """The first one's."""
        self.asked.append((bearer, address))
        return succeed(next(iter(self.users.values())) if bearer == TOKEN else None)

    def named(self, name: str) -> User | None:
        """Without a password."""
        return self.users.get(name)
