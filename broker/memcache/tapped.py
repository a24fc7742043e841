"""One connection's commands and replies, for whoever looks for the cause of something."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from broker.memcache.commands import Command, Login, Malformed, Set
from broker.memcache.connection import MemcacheProtocol
from broker.tap import Tell, watched


def watch(connection: MemcacheProtocol, tell: Tell) -> Callable[[], None]:
    """Tell what comes and goes, until what is given is called. Its methods are replaced meanwhile."""
    gather, begin = connection._gather, connection._begin

    def came(command: Command) -> None:
        # A login is a `set`, and who mistypes it says anything.
        is_secret = connection._must_login or isinstance(command, Login | Malformed)
        said = {} if is_secret else msgspec.structs.asdict(command)
        said.pop("voice", None)
        if isinstance(command, Set) and not is_secret:
            said["size"] = len(command.body)
        tell("in", command=type(command).__name__.lower(), **said)

    def gathered(command: Set) -> bool:
        taken = gather(command)
        if taken:
            came(command)
        return taken

    def begun(command: Command) -> None:
        came(command)
        begin(command)

    def went(data: bytes) -> None:
        tell("out", size=len(data), body=data)

    return watched(connection, tell, {"_gather": gathered, "_begin": begun}, went)
