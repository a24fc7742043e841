"""Users for tests: a file of them, whose passwords are hashed once for the whole run, and hashes computed at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Self

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from zope.interface import implementer

from broker.auth.file import Entry, RightsEntry, dump
from broker.auth.rights import Action
from broker.auth.secret import hash_password, hash_token
from broker.auth.users import Users

#: Everybody's password in these tests; no log may have it.
PASSWORD = "open-sesame"
TOKEN = "a token of alice's"


@cache
def hashed(password: str) -> str:
    """A password as it is kept."""
    return hash_password(password)


def entry(*, password: str = PASSWORD, tokens: tuple[str, ...] = (), **rights: str) -> Entry:
    """A user; rights are patterns with blanks between them."""
    return Entry(
        password=hashed(password) if password else "",
        tokens=[hash_token(token) for token in tokens],
        rights=RightsEntry(**{action: patterns.split() for action, patterns in rights.items()}),
    )


def everything(pattern: str = "*") -> dict[str, str]:
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
