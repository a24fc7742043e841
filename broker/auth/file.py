"""The users file: TOML, read and written as a whole. Pure, and known to the ``broker`` command.

::

    [user.alice]
    password = "scrypt$14$8$1$..."
    tokens = ["..."]

    [user.alice.rights]
    publish = ["queue:orders.*"]
    subscribe = ["queue:{user}.*"]

    [user.alice.limits]
    messages = 100
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from typing import Any

import msgspec

from broker.auth.limits import Limits
from broker.auth.rights import Action, BadPattern, Rights
from broker.auth.secret import BadSecret, check_stored, check_stored_token
from broker.errors import ConfigError
from broker.toml import in_our_words, read

#: The user that everybody is who names none, where that is allowed. It has rights, and no password.
ANONYMOUS = "anonymous"
#: Bytes of a user's name.
MAX_NAME = 64
#: What others on this machine may not do with the file: read it, or write it, be it as members of its group.
_FORBIDDEN = 0o027
#: A blank ends the name in memcache's login, a colon in HTTP's.
_bad_in_name = re.compile("[\x00-\x20\x7f-\xa0:]")

_HEAD = "# Written by `broker user`, which keeps no comments. The rights may be edited here; SIGHUP makes them count.\n"


class RightsEntry(msgspec.Struct, forbid_unknown_fields=True):
    """Patterns for each action."""

    publish: list[str] = []
    subscribe: list[str] = []
    create: list[str] = []
    browse: list[str] = []
    admin: list[str] = []

    def of(self, action: Action) -> list[str]:
        """The patterns of one action."""
        patterns: list[str] = getattr(self, action.value)
        return patterns


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept of a user; secrets as in `broker.auth.secret`."""

    password: str = ""
    tokens: list[str] = []
    rights: RightsEntry = msgspec.field(default_factory=RightsEntry)
    #: Limits of his own; for what is not here those hold that every user has.
    limits: dict[str, Any] = {}

    def limited(self, common: Limits) -> Limits:
        """His limits, where every user has the `common` ones; raises `msgspec.ValidationError`."""
        own = msgspec.convert(self.limits, Limits)
        return msgspec.structs.replace(common, **{key: getattr(own, key) for key in self.limits})

    def compiled(self, name: str) -> Rights:
        """The rights, for a user of that name; raises `ConfigError`."""
        patterns = {action: self.rights.of(action) for action in Action}
        for action, wanted in patterns.items():
            for place, pattern in enumerate(wanted):
                try:
                    Rights({action: [pattern]}, name)
                except BadPattern as error:
                    raise ConfigError(f"rights.{action.value}[{place}]: {error}") from None
        return Rights(patterns, name)


def check_name(name: str) -> None:
    """Raise `ConfigError` if no user can be called so."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_NAME or _bad_in_name.search(name):
        raise ConfigError(f"a user's name has 1 to {MAX_NAME} bytes of UTF-8, no blanks, colons or control characters")


def load(path: str) -> dict[str, Entry]:
    """The users in the file at `path`; raises `ConfigError`, which names the file and the key."""
    try:
        mode = os.stat(path).st_mode & 0o777
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if mode & _FORBIDDEN:
        raise ConfigError(f"{path}: others may read or write it (mode {mode:04o}); chmod 600, or 640 for its group")
    try:
        return from_dict(read(path))
    except ConfigError as error:
        raise ConfigError(error.reason if path in error.reason else f"{path}: {error.reason}") from None


def from_dict(said: dict[str, Any]) -> dict[str, Entry]:
    """The users that `said`, the content of a file, amounts to; raises `ConfigError`."""
    for key in said:
        if key != "user":
            raise ConfigError(f"{key}: unknown key")
    users = said.get("user", {})
    if not isinstance(users, dict):
        raise ConfigError("user: expected a table for each user, [user.NAME]")
    return {name: _entry(name, fields) for name, fields in users.items()}


def _entry(name: str, said: object) -> Entry:
    prefix = f"user.{key_of(name)}"
    try:
        check_name(name)
        entry = msgspec.convert(said, Entry)
        if entry.password:
            check_stored(entry.password)
    except msgspec.ValidationError as error:
        # Its words are about types and keys, never about a value.
        raise ConfigError(in_our_words(str(error), prefix)) from None
    except ConfigError as error:
        raise ConfigError(f"{prefix}: {error.reason}") from None
    except BadSecret as error:
        raise ConfigError(f"{prefix}.password: {error}") from None
    try:
        entry.limited(Limits())
    except msgspec.ValidationError as error:
        raise ConfigError(in_our_words(str(error), f"{prefix}.limits")) from None
    for place, token in enumerate(entry.tokens):
        try:
            check_stored_token(token)
        except BadSecret as error:
            raise ConfigError(f"{prefix}.tokens[{place}]: {error}") from None
    if name == ANONYMOUS and (entry.password or entry.tokens):
        raise ConfigError(f"{prefix}: {ANONYMOUS} is who names no user, it has neither password nor tokens")
    try:
        entry.compiled(name)
    except ConfigError as error:
        raise ConfigError(f"{prefix}.{error.reason}") from None
    return entry


# -- writing


def dump(users: dict[str, Entry]) -> str:
    """The file that says `users`."""
    lines = [_HEAD]
    for name, entry in sorted(users.items()):
        lines.append(f"[user.{key_of(name)}]\n")
        if entry.password:
            lines.append(f"password = {_string(entry.password)}\n")
        if entry.tokens:
            lines.append(f"tokens = {_list(entry.tokens)}\n")
        lines.append(f"\n[user.{key_of(name)}.rights]\n")
        lines += [
            f"{action.value} = {_list(entry.rights.of(action))}\n" for action in Action if entry.rights.of(action)
        ]
        if entry.limits:
            lines.append(f"\n[user.{key_of(name)}.limits]\n")
            lines += [f"{key} = {most}\n" for key, most in sorted(entry.limits.items())]
        lines.append("\n")
    return "".join(lines).rstrip("\n") + "\n"


def key_of(name: str) -> str:
    """A name as a key in TOML: bare, or a string."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _string(name)


def _list(values: list[str]) -> str:
    return "[" + ", ".join(map(_string, values)) + "]"


def _string(value: str) -> str:
    escaped = re.sub(r'["\\\x00-\x1f\x7f]', lambda found: f"\\u{ord(found[0]):04x}", value)
    return f'"{escaped}"'


@contextlib.contextmanager
def changing(path: str, *, make: bool = False) -> Iterator[dict[str, Entry]]:
    """The users, to be changed in place; the file is replaced at the end, as a whole, unless something is raised.

    With `make` a file that is not there is made. Others who change it wait. Raises `ConfigError`, and `OSError` if it
    cannot be written.
    """
    path = os.path.realpath(path)
    if not make:
        load(path)
    lock = _locked(path)
    try:
        # What a link led to is replaced, with the owner and the mode it had.
        found = os.fstat(lock)
        users = load(path)
        before = dump(users)
        yield users
        if (after := dump(users)) != before:
            _replace(path, after, found)
    finally:
        os.close(lock)


def _locked(path: str) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(path) and os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # somebody has replaced the file while we waited


def _replace(path: str, text: str, like: os.stat_result) -> None:
    new = f"{path}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if (os.geteuid(), os.getegid()) != (like.st_uid, like.st_gid):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), like.st_mode & 0o777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
