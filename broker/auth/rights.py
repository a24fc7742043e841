"""What users may do: actions, on destinations that a pattern names. Pure, and known to the ``broker`` command.

A pattern is ``KIND:GLOB``. KIND is ``queue``, ``topic`` or ``*`` (both). In GLOB ``*`` stands for any characters, none
included, and dots and slashes too; ``?`` for one character; ``{user}`` for the user's own name, whatever is in it;
everything else for itself, case included. ``*`` alone is ``*:*``, everything.
"""

from __future__ import annotations

import enum
import fnmatch
import glob
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from broker.auth.limits import Quota

if TYPE_CHECKING:
    from broker.core.destination import Destination

KINDS = ("queue", "topic")
#: Stands for the user's name in a pattern.
USER = "{user}"


class Action(enum.Enum):
    """What somebody wants to do."""

    #: Put messages in.
    PUBLISH = "publish"
    #: Take messages, settle them, and give them back.
    SUBSCRIBE = "subscribe"
    #: Have a queue come to be, by any of the other actions.
    CREATE = "create"
    #: Look: at messages without taking them, at numbers, at names.
    BROWSE = "browse"
    #: Purge and delete queues, bind them and unbind them.
    ADMIN = "admin"


class BadPattern(ValueError):
    """Not of the form KIND:GLOB."""


def split(pattern: str) -> tuple[tuple[str, ...], str]:
    """The kinds a pattern is about, and its glob; raises `BadPattern`."""
    if pattern == "*":
        return KINDS, "*"
    kind, colon, name = pattern.partition(":")
    if not colon or not name or kind not in (*KINDS, "*"):
        raise BadPattern(f"{pattern!r} is no pattern: queue:GLOB, topic:GLOB, *:GLOB or *")
    return (KINDS if kind == "*" else (kind,)), name


def translate(name: str, user: str) -> str:
    """The regular expression of a glob for `user`.

    fnmatch's translation gives up no time on names that nearly match, however many stars there are; its brackets are
    escaped, so that they stand for themselves here.
    """
    parts = [part.replace("[", "[[]") for part in name.split(USER)]
    return fnmatch.translate(glob.escape(user).join(parts))


class Rights:
    """One user's rights, translated once."""

    def __init__(self, patterns: Mapping[Action, Sequence[str]], user: str) -> None:
        """Raises `BadPattern`."""
        found: dict[tuple[Action, str], list[str]] = {}
        for action, wanted in patterns.items():
            for pattern in wanted:
                kinds, name = split(pattern)
                for kind in kinds:
                    found.setdefault((action, kind), []).append(name)
        self._matches = {
            key: re.compile("|".join(translate(name, user) for name in names)).match for key, names in found.items()
        }
        self._all = {key for key, names in found.items() if any(not name.strip("*") for name in names)}

    def may(self, action: Action, kind: str, name: str) -> bool:
        """True if a pattern of `action` covers the destination."""
        matches = self._matches.get((action, kind))
        return matches is not None and matches(name) is not None

    def everywhere(self, action: Action) -> bool:
        """True if `action` is allowed on every destination."""
        return all((action, kind) in self._all for kind in KINDS)

    def anywhere(self, action: Action) -> bool:
        """True if `action` is allowed on some destinations."""
        return any((action, kind) in self._matches for kind in KINDS)


NOTHING = Rights({}, "")
EVERYTHING = Rights({action: ["*"] for action in Action}, "")


@attrs.define(eq=False)
class User:
    """Somebody, for as long as he is known: who logs in twice is the same `User`."""

    name: str
    #: They change when the users file is read again.
    rights: Rights
    #: What ends each connection that he logged in on.
    connections: set[Callable[[], None]] = attrs.field(factory=set)
    #: What is left of his limits; None: he has none.
    quota: Quota | None = None

    def remove(self) -> None:
        """He is no user any more: he may do nothing, and his connections end."""
        self.rights = NOTHING
        for end in list(self.connections):
            end()


def may(user: User, action: Action, destination: Destination | None) -> bool:
    """True if `user` may do `action` there; None is the whole broker, which takes the right to every destination."""
    rights = user.rights
    if rights is EVERYTHING:
        return True
    if destination is None:
        return rights.everywhere(action)
    return rights.may(action, destination.kind.value, destination.name)
