"""``broker user``: the users file, changed on this machine; no broker need run."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Callable

from broker.auth import secret
from broker.auth.file import ANONYMOUS, Entry, changing, check_name, load
from broker.auth.rights import Action, BadPattern, split
from broker.cli.exits import Exit
from broker.cli.output import as_json
from broker.cli.parsing import Commands, add, add_group, add_json
from broker.errors import ConfigError

DEFAULT_FILE = "users.toml"

Allowed = tuple[list[Action], str]


def add_to(commands: Commands) -> None:
    """Add ``user`` and what it can do."""
    words = add_group(
        commands,
        "user",
        help="change the users file",
        description="Change the users file. A running broker reads it again at SIGHUP.",
        epilog="A password is asked for on a terminal, else it is the first line of standard input.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--users",
        metavar="FILE",
        default=os.environ.get("BROKER_USERS", DEFAULT_FILE),
        help=f"the users file (default: $BROKER_USERS, else {DEFAULT_FILE})",
    )
    named = argparse.ArgumentParser(add_help=False, parents=[common])
    named.add_argument("name", metavar="NAME", type=_name)

    says = "Add a user. The file is made if it is not there."
    new = add(words, "add", _add, offline=True, parents=[named], help="add a user", description=says)
    new.add_argument(
        "--allow",
        metavar="ACTIONS=PATTERN",
        type=_allowed,
        action="append",
        default=[],
        help="what the user may do, and where: publish,subscribe=queue:orders.*; may be given several times. Actions: "
        + ", ".join(action.value for action in Action)
        + ", all",
    )
    new.add_argument("--no-password", action="store_true", help="ask for none: the user logs in with tokens only")
    says = "Set a user's password."
    add(words, "passwd", _passwd, offline=True, parents=[named], help="set a password", description=says)

    token = add(
        words,
        "token",
        _token,
        offline=True,
        parents=[named],
        help="make a token",
        description="Make a token for a user and print it. It is shown this once; the file keeps its hash.",
    )
    token.add_argument("--revoke", action="store_true", help="make none, and forget all the user has")
    add(words, "remove", _remove, offline=True, parents=[named], help="remove a user")
    add_json(add(words, "list", _list, offline=True, parents=[common], help="list the users"))


def _name(text: str) -> str:
    try:
        check_name(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.reason) from None
    return text


def _allowed(text: str) -> Allowed:
    words, equals, pattern = text.partition("=")
    known = {action.value: [action] for action in Action} | {"all": list(Action)}
    if not equals or not all(word in known for word in words.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not ACTIONS=PATTERN with actions {', '.join(known)}")
    try:
        split(pattern)
    except BadPattern as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return [action for word in words.split(",") for action in known[word]], pattern


# -- the commands


def _add(options: argparse.Namespace) -> int:
    if os.path.exists(options.users) and options.name in load(options.users):
        return _refuse(f"there is a user {options.name} already")
    needs_none = options.no_password or options.name == ANONYMOUS
    password = "" if needs_none else secret.hash_password(_ask())
    entry = Entry(password=password)
    for actions, pattern in options.allow:
        for action in actions:
            if pattern not in entry.rights.of(action):
                entry.rights.of(action).append(pattern)
    with changing(options.users, make=True) as users:
        if options.name in users:
            return _refuse(f"there is a user {options.name} already")
        users[options.name] = entry
    if not options.allow:
        print(f"broker: {options.name} may do nothing yet: add rights in {options.users}", file=sys.stderr)
    return Exit.DONE


def _passwd(options: argparse.Namespace) -> int:
    if options.name not in load(options.users):
        return _nobody(options)
    if options.name == ANONYMOUS:
        return _refuse(f"{ANONYMOUS} is who names no user, it has no password")
    password = secret.hash_password(_ask())

    def change(entry: Entry) -> None:
        entry.password = password

    return _change(options, change)


def _token(options: argparse.Namespace) -> int:
    if options.name == ANONYMOUS:
        return _refuse(f"{ANONYMOUS} is who names no user, it has no tokens")
    token = secret.new_token()

    def change(entry: Entry) -> None:
        entry.tokens = [] if options.revoke else [*entry.tokens, secret.hash_token(token)]

    status = _change(options, change)
    if status == Exit.DONE and not options.revoke:
        print(token)
    return status


def _remove(options: argparse.Namespace) -> int:
    with changing(options.users) as users:
        if users.pop(options.name, None) is None:
            return _nobody(options)
    return Exit.DONE


def _change(options: argparse.Namespace, change: Callable[[Entry], None]) -> int:
    with changing(options.users) as users:
        if options.name not in users:
            return _nobody(options)
        change(users[options.name])
    return Exit.DONE


def _list(options: argparse.Namespace) -> int:
    users = load(options.users)
    for name, entry in sorted(users.items()):
        rights = {action.value: entry.rights.of(action) for action in Action if entry.rights.of(action)}
        if options.json:
            limits = {"limits": entry.limits} if entry.limits else {}
            known = {"name": name, "password": bool(entry.password), "tokens": len(entry.tokens)}
            print(as_json(known | rights | limits))
            continue
        ways = ["password"] * bool(entry.password) + [f"tokens: {len(entry.tokens)}"] * bool(entry.tokens)
        print(f"{name} ({', '.join(ways) or 'no login'})")
        for action, patterns in rights.items():
            print(f"    {action}: {' '.join(patterns)}")
        if entry.limits:
            print(f"    limits: {' '.join(f'{key}={most}' for key, most in sorted(entry.limits.items()))}")
    return Exit.DONE if users else Exit.NOTHING


def _refuse(why: str) -> int:
    print(f"broker: refused: {why}", file=sys.stderr)
    return Exit.REFUSED


def _nobody(options: argparse.Namespace) -> int:
    print(f"broker: there is no user {options.name} in {options.users}", file=sys.stderr)
    return Exit.NOTHING


def _ask() -> str:
    """The new password; `secret.BadSecret` if it is none. Never from the command line, which all may read."""
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        try:
            return re.sub("\r?\n$", "", line.decode())
        except UnicodeDecodeError:
            raise secret.BadSecret("the password is not UTF-8") from None
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise secret.BadSecret("those were two passwords")
    return password
