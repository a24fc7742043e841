"""memcached's ASCII login (``-Y``): until it, nothing but a ``set`` whose body is ``user password`` is obeyed."""

from __future__ import annotations

from broker.auth.door import Access, Door
from broker.memcache.commands import TOO_LARGE, Command, Malformed, Set
from broker.memcache.replies import STORED

UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
BAD_FORMAT = b"CLIENT_ERROR bad authentication token format\r\n"
TOO_LONG = b"CLIENT_ERROR auth token too long\r\n"
FAILURE = b"CLIENT_ERROR authentication failure\r\n"
#: Bytes of ``user password``; memcached's bound is of this size too.
MAX_TOKEN = 1024


class Login:
    """A connection that has not said who it is."""

    def __init__(self, door: Door, address: str) -> None:
        self._door = door
        self._address = address
        #: Set once it has.
        self.access: Access | None = None

    async def answer(self, command: Command) -> bytes:
        """The reply, to a ``noreply`` too."""
        if isinstance(command, Malformed):
            return TOO_LONG if command.reply == TOO_LARGE else UNAUTHENTICATED
        if not isinstance(command, Set):
            return UNAUTHENTICATED
        name, blank, password = command.body.partition(b" ")
        if not blank:
            return BAD_FORMAT
        try:
            entering = self._door.password(name.decode(), password.decode(), self._address)
        except UnicodeDecodeError:
            return FAILURE
        self.access = await entering
        return FAILURE if self.access is None else STORED
