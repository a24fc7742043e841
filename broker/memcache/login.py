"""How a client says who it is: memcached's ASCII login (``-Y``), a `set` of ``user password``; or SASL PLAIN.

Until it has, it may do nothing but that, and in the binary protocol ask for a version.
"""

from __future__ import annotations

from broker.auth.door import Access, Door
from broker.memcache.binary import AUTH_ERROR, UNKNOWN, WORDS, BinaryVoice
from broker.memcache.commands import Command, Malformed, Set, Version
from broker.memcache.commands import Login as Sasl
from broker.memcache.dialect import DEFAULT

BAD_FORMAT = b"CLIENT_ERROR bad authentication token format\r\n"
TOO_LONG = b"CLIENT_ERROR auth token too long\r\n"
FAILURE = b"CLIENT_ERROR authentication failure\r\n"
STORED = b"STORED\r\n"
#: Bytes of ``user password``; memcached's bound is of this size too.
MAX_TOKEN = 1024
#: What SASL may be spoken in; nothing else is used in practice.
MECHANISMS = b"PLAIN"
AUTHENTICATED = b"Authenticated"


class Login:
    """A connection that has not said who it is, or says it anew."""

    def __init__(self, door: Door, address: str) -> None:
        self._door = door
        self._address = address
        #: It has said a name and a password.
        self.tried = False
        #: Set once it has said who it is.
        self.access: Access | None = None

    async def answer(self, command: Command) -> bytes:
        """The reply, to a ``noreply`` too."""
        voice = command.voice
        match command:
            case Sasl():
                assert isinstance(voice, BinaryVoice)
                return await self._sasl(voice, command.mechanism, command.token)
            case Version() if isinstance(voice, BinaryVoice):
                return voice.text(b"")
            case Malformed() if isinstance(voice, BinaryVoice):
                return command.reply if command.close else voice.unauthenticated()
            case Malformed() if command.reply == DEFAULT.too_large:
                return TOO_LONG
            case Set() if voice.logs_in:
                return await self._text(command.body)
        return voice.unauthenticated()

    async def _text(self, token: bytes) -> bytes:
        name, blank, password = token.partition(b" ")
        if not blank:
            return BAD_FORMAT
        return STORED if await self._enter(name, password) else FAILURE

    async def _sasl(self, voice: BinaryVoice, mechanism: bytes | None, token: bytes) -> bytes:
        if self._door.open:
            return voice.packet(UNKNOWN, value=WORDS[UNKNOWN])  # what bmemcached takes for "no login needed"
        if mechanism is None:
            return voice.packet(0, value=MECHANISMS)
        _, _, said = token.partition(b"\0")  # before it stands who he wants to act as: himself
        name, nul, password = said.partition(b"\0")
        if mechanism == MECHANISMS and nul and await self._enter(name, password):
            return voice.packet(0, value=AUTHENTICATED)
        return voice.packet(AUTH_ERROR, value=WORDS[AUTH_ERROR])

    async def _enter(self, name: bytes, password: bytes) -> bool:
        self.tried = True
        try:
            entering = self._door.password(name.decode(), password.decode(), self._address)
        except UnicodeDecodeError:
            return False
        self.access = await entering
        return self.access is not None
