"""memcache's text and meta protocols: bytes in, commands out. No I/O.

Strategy: the bytes of each read are kept as they came, with an offset; a command is cut out of them by one `find` and
one `split`. Only what a read left unfinished, a part of a line or of a body, is copied to the side, so that no byte is
copied more than four times, however the peer cuts its stream. What can never become a command is dropped as it arrives.

A line ends with LF, with or without CR before it; any number of blanks separates words (memcached; python-memcached
and libmemcached send trailing ones).
"""

from __future__ import annotations

from collections import deque

from broker.memcache.commands import Command, Malformed
from broker.memcache.dialect import DEFAULT, Dialect
from broker.memcache.meta import METAS
from broker.memcache.words import Payload, texts_of

LINE_TOO_LONG = b"CLIENT_ERROR line too long\r\n"
#: The longest command line without its line end. memcached closes at 2 KB; 250 bytes of name, each as an escape, and
#: every option take less than 1 KB.
MAX_LINE = 8 * 1024
#: The longest line of a `get` or `gets`, whose lists of keys memcached accepts beyond its limit too.
MAX_GET_LINE = 64 * 1024
#: Small pieces of an unfinished body are gathered up to this, so that the bound on memory holds byte by byte too.
PIECE = 64 * 1024


class Parser:
    """One connection's commands. `feed` what was read, then `next_command` until it gives None.

    `max_message_size` (bytes) bounds a body; a larger one is refused and swallowed.
    """

    def __init__(self, max_message_size: int, dialect: Dialect = DEFAULT) -> None:
        #: May be changed between two commands.
        self.max_message_size = max_message_size
        self._texts = texts_of(dialect)
        self._metas = METAS if dialect.commands is None else None
        # What was read last and where in it we are; then what was fed before that was used up.
        self._data = b""
        self._at = 0
        self._later: deque[bytes] = deque()
        self._later_size = 0
        # The beginning of an unfinished line, how long it may get, and whether it is only to be passed over.
        self._line = bytearray()
        self._max_line = MAX_LINE
        self._skip_line = False
        # An unfinished payload: what is still to come of it (None: we are not in one), whether the CR after it was
        # seen, the line that announced it (None: swallow it), and what there is of it.
        self._missing: int | None = None
        self._cr = False
        self._payload: Payload | None = None
        self._pieces: list[bytes] = []
        self._tail = bytearray()
        #: True after a `Malformed` that closes: nothing is parsed or kept any more.
        self.closed = False

    @property
    def pending(self) -> int:
        """Bytes fed and not looked at yet."""
        return len(self._data) - self._at + self._later_size

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        if self.closed:
            return
        if self._at < len(self._data):
            self._later.append(data)
            self._later_size += len(data)
        else:
            self._data = data
            self._at = 0

    def next_command(self) -> Command | None:
        """The next command, or None if what was fed holds no further one."""
        while not self.closed:
            at = self._at
            data = self._data
            if at == len(data):
                self._at = 0
                if not self._later:
                    self._data = b""  # an idle connection keeps nothing
                    return None
                self._data = self._later.popleft()
                self._later_size -= len(self._data)
                continue
            if self._missing is not None:
                command = self._go_on()
                if command is not None:
                    return self._given(command)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._at = len(data)
                if not self._skip_line:
                    self._line += data[at:]
                    if self._too_long(self._line):
                        return self._close()
                continue
            self._at = end + 1
            if self._skip_line:
                self._skip_line = False
                continue
            line = data[at:end]
            if not self._line and (known := self._texts.known.get(line)) is not None:
                command = self._follows(known) if isinstance(known, Payload) else known
                if command is not None:
                    return self._given(command)
                continue
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            if self._too_long(line):
                return self._close()
            self._max_line = MAX_LINE
            words = line.split()
            if not words:
                return self._given(self._texts.unknown)
            if self._metas is not None and len(words[0]) == 2 and (meta := self._metas.parse(words)) is not None:
                command = meta if not isinstance(meta, Payload) else self._follows(meta)
            else:
                parsed = self._texts.parse(words)
                self._texts.remember(line, parsed)
                command = parsed if not isinstance(parsed, Payload) else self._follows(parsed)
            if command is not None:
                return self._given(command)
        return None

    # -- lines

    def _too_long(self, line: bytes | bytearray) -> bool:
        if len(line) > self._max_line == MAX_LINE:
            first = bytes(line[:MAX_LINE]).split(None, 1)[:1]
            if first and first[0].lower() in (b"get", b"gets"):
                self._max_line = MAX_GET_LINE
        return len(line) > self._max_line

    def _close(self) -> Malformed:
        self._forget()
        return Malformed(self._texts.loud, LINE_TOO_LONG, close=True)

    def _forget(self) -> None:
        self.closed = True
        self._data = b""
        self._at = 0
        self._later.clear()
        self._later_size = 0
        self._line.clear()

    def _given(self, command: Command) -> Command:
        if isinstance(command, Malformed) and command.close:
            self._forget()
        return command

    # -- payloads

    def _follows(self, payload: Payload) -> Command | None:
        """A body follows: the command, if it is all there or is refused already."""
        if payload.refused is not None:
            self._missing = payload.length
            return payload.refused
        assert payload.make is not None
        if payload.length > self.max_message_size:
            self._missing = payload.length
            return None if payload.broken is None else payload.broken[0]
        at = self._at
        end = at + payload.length
        data = self._data
        if data[end : end + 2] == b"\r\n":  # the usual case: the whole body is there
            self._at = end + 2
            return payload.make(data[at:end])
        self._missing = payload.length
        self._payload = payload
        return None

    def _go_on(self) -> Command | None:
        """Go on with the payload as far as the present data goes; the command it completes or spoils, or None."""
        data = self._data
        at = self._at
        if self._missing:
            end = min(at + self._missing, len(data))
            self._at = end
            self._missing -= end - at
            if self._payload is not None:
                self._keep(data[at:end])
            return None
        if not self._cr and data[at] == 0x0D:
            self._cr = True
            self._at = at + 1
            return None
        complete = self._cr and data[at] == 0x0A
        self._cr = False
        self._missing = None
        wanted, self._payload = self._payload, None
        pieces, self._pieces = self._pieces, []
        tail, self._tail = self._tail, bytearray()
        if complete:
            self._at = at + 1
            if wanted is None or wanted.make is None:
                return None
            return wanted.make(b"".join((*pieces, tail)))
        # Not the end that was announced: go on at the next line. What was swallowed is answered already.
        self._skip_line = True
        return None if wanted is None or wanted.broken is None else wanted.broken[1]

    def _keep(self, piece: bytes) -> None:
        """Keep a part of the body: in pieces of a size that matters, so that no buffer grows in steps of its size."""
        if not self._tail and len(piece) >= PIECE // 4:
            self._pieces.append(piece)
            return
        self._tail += piece
        if len(self._tail) >= PIECE:
            self._pieces.append(bytes(self._tail))
            self._tail.clear()
