"""memcache's text protocol: bytes in, commands out. No I/O.

Strategy: the bytes of each read are kept as they came, with an offset; a command is cut out of them by one `find` and
one `split`. Only what a read left unfinished, a part of a line or of a body, is copied to the side, so that no byte is
copied more than four times, however the peer cuts its stream. What can never become a command is dropped as it arrives.

A line ends with LF, with or without CR before it; any number of blanks separates words (memcached; python-memcached
and libmemcached send trailing ones). Commands may be in upper case (Kestrel, Siberite).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from broker.memcache.commands import (
    BAD_CHUNK,
    BAD_DELAY,
    BAD_DELETE,
    BAD_FORMAT,
    ERROR,
    LINE_TOO_LONG,
    NO_BINARY,
    TOO_LARGE,
    Command,
    Delete,
    Flush,
    FlushAll,
    Get,
    Malformed,
    Quit,
    Refused,
    Reload,
    Set,
    Stats,
    Verbosity,
    Version,
)

#: The longest command line without its line end. memcached closes at 2 KB; 250 bytes of name, each as an escape, and
#: every option take less than 1 KB.
MAX_LINE = 8 * 1024
#: The longest line of a `get` or `gets`, whose lists of keys memcached accepts beyond its limit too.
MAX_GET_LINE = 64 * 1024
#: The longest key as sent: a name of 250 bytes, each as an escape of three, and all its options.
MAX_KEY = 1024
#: Bodies beyond this are not believed: such a length is a malformed line, as in memcached (INT_MAX).
MAX_LENGTH = 2**31 - 3
#: Small pieces of an unfinished body are gathered up to this, so that the bound on memory holds byte by byte too.
PIECE = 64 * 1024

_VERSION, _QUIT, _RELOAD = Version(), Quit(), Reload()
_SYNTAX, _UNKNOWN = Malformed(BAD_FORMAT), Malformed(ERROR)


def _number(word: bytes, least: int, most: int) -> int:
    """The decimal number `word`; ValueError if it is none, or not within `least` and `most`."""
    # int() alone would take blanks, underscores, and any length.
    if (not word.isdigit() and not (word[:1] == b"-" and word[1:].isdigit())) or len(word) > 20:
        raise ValueError
    number = int(word)
    if not least <= number <= most:
        raise ValueError
    return number


class Parser:
    """One connection's commands. `feed` what was read, then `next_command` until it gives None.

    `max_message_size` (bytes) bounds a body; a larger one is answered with `TOO_LARGE` and swallowed. With `text` the
    first byte of a binary client is a line's first like any other.
    """

    def __init__(self, max_message_size: int, *, text: bool = False) -> None:
        #: May be changed between two commands.
        self.max_message_size = max_message_size
        # What was read last and where in it we are; then what was fed before that was used up.
        self._data = b""
        self._at = 0
        self._later: deque[bytes] = deque()
        self._later_size = 0
        self._started = text
        # The beginning of an unfinished line, how long it may get, and whether it is only to be passed over.
        self._line = bytearray()
        self._max_line = MAX_LINE
        self._skip_line = False
        # An unfinished payload: what is still to come of it (None: we are not in one), whether the CR after it was
        # seen, the command that waits for it (None: swallow it), and what there is of it.
        self._missing: int | None = None
        self._cr = False
        self._set: Set | None = None
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
                command = self._payload()
                if command is not None:
                    return command
                continue
            if not self._started:
                self._started = True
                if data[at] == 0x80:  # a binary client would wait for an answer it understands
                    return self._close(NO_BINARY)
            end = data.find(b"\n", at)
            if end < 0:
                self._at = len(data)
                if not self._skip_line:
                    self._line += data[at:]
                    if self._too_long(self._line):
                        return self._close(LINE_TOO_LONG)
                continue
            self._at = end + 1
            if self._skip_line:
                self._skip_line = False
                continue
            line = data[at:end]
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            if self._too_long(line):
                return self._close(LINE_TOO_LONG)
            self._max_line = MAX_LINE
            words = line.split()
            if not words:
                return _UNKNOWN
            word = words[0]
            parse = _commands.get(word) or _commands.get(word.lower())
            if parse is None:
                return _UNKNOWN
            command = parse(self, words)
            if command is not None:
                return command
        return None

    # -- lines

    def _too_long(self, line: bytes | bytearray) -> bool:
        if len(line) > self._max_line == MAX_LINE:
            first = bytes(line[:MAX_LINE]).split(None, 1)[:1]
            if first and first[0].lower() in (b"get", b"gets"):
                self._max_line = MAX_GET_LINE
        return len(line) > self._max_line

    def _close(self, reply: bytes) -> Malformed:
        self.closed = True
        self._data = b""
        self._at = 0
        self._later.clear()
        self._later_size = 0
        self._line.clear()
        return Malformed(reply, close=True)

    # -- payloads

    def _storage(self, words: list[bytes]) -> Command | None:
        """``<command> <key> <flags> <exptime> <bytes> [noreply]``; ``cas`` has its unique after the length."""
        name = words[0].lower()
        count = len(words)
        least = 6 if name == b"cas" else 5
        if count < least:
            return _UNKNOWN
        try:
            length = _number(words[4], 0, MAX_LENGTH)
        except ValueError:
            return _SYNTAX  # what follows is read as commands: nobody knows how much of it is a body
        noreply = count > least and words[-1] == b"noreply"
        command: Command
        try:
            if count > least + 1 or len(words[1]) > MAX_KEY:
                raise ValueError
            flags = _number(words[2], 0, 0xFFFFFFFF)
            exptime = _number(words[3], -0x80000000, 0xFFFFFFFF)
            if least == 6:
                _number(words[5], 0, 0xFFFFFFFFFFFFFFFF)
        except ValueError:
            command = Malformed(b"" if noreply else BAD_FORMAT)
        else:
            if name != b"set":
                command = Refused(name.decode(), noreply)
            elif length > self.max_message_size:
                command = Malformed(b"" if noreply else TOO_LARGE)
            else:
                at = self._at
                end = at + length
                data = self._data
                if data[end : end + 2] == b"\r\n":  # the usual case: the whole body is there
                    self._at = end + 2
                    return Set(words[1], flags, exptime, data[at:end], noreply)
                self._missing = length
                self._set = Set(words[1], flags, exptime, b"", noreply)
                return None
        self._missing = length
        return command

    def _meta_set(self, words: list[bytes]) -> Command:
        """``ms <key> <bytes> <flags>*``."""
        if len(words) < 3:
            return _UNKNOWN
        try:
            self._missing = _number(words[2], 0, MAX_LENGTH)
        except ValueError:
            return _SYNTAX
        return Refused("ms")

    def _payload(self) -> Command | None:
        """Go on with the payload as far as the present data goes; the command it completes or spoils, or None."""
        data = self._data
        at = self._at
        if self._missing:
            end = min(at + self._missing, len(data))
            self._at = end
            self._missing -= end - at
            if self._set is not None:
                self._keep(data[at:end])
            return None
        if not self._cr and data[at] == 0x0D:
            self._cr = True
            self._at = at + 1
            return None
        complete = self._cr and data[at] == 0x0A
        self._cr = False
        self._missing = None
        wanted, self._set = self._set, None
        pieces, self._pieces = self._pieces, []
        tail, self._tail = self._tail, bytearray()
        if complete:
            self._at = at + 1
            if wanted is None:
                return None
            return Set(wanted.key, wanted.flags, wanted.exptime, b"".join((*pieces, tail)), wanted.noreply)
        # Not the end that was announced: go on at the next line. What was swallowed is answered already.
        self._skip_line = True
        return None if wanted is None else Malformed(b"" if wanted.noreply else BAD_CHUNK)

    def _keep(self, piece: bytes) -> None:
        """Keep a part of the body: in pieces of a size that matters, so that no buffer grows in steps of its size."""
        if not self._tail and len(piece) >= PIECE // 4:
            self._pieces.append(piece)
            return
        self._tail += piece
        if len(self._tail) >= PIECE:
            self._pieces.append(bytes(self._tail))
            self._tail.clear()

    # -- commands without payload

    def _get(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return _UNKNOWN
        if len(words) == 2:
            if len(words[1]) > MAX_KEY:
                return _SYNTAX
        elif max(map(len, words)) > MAX_KEY:
            return _SYNTAX
        return Get(words[1:], len(words[0]) == 4)

    def _delete(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return _UNKNOWN
        noreply = len(words) > 2 and words[-1] == b"noreply"
        rest = words[2:-1] if noreply else words[2:]
        # A time of 0 is what old clients send; memcached refuses any other.
        if rest not in ([], [b"0"]):
            return Malformed(b"" if noreply else BAD_DELETE)
        if len(words[1]) > MAX_KEY:
            return Malformed(b"" if noreply else BAD_FORMAT)
        return Delete(words[1], noreply)

    def _flush(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return _UNKNOWN
        return _SYNTAX if len(words[1]) > MAX_KEY else Flush(words[1])

    def _flush_all(self, words: list[bytes]) -> Command:
        noreply = len(words) > 1 and words[-1] == b"noreply"
        rest = words[1:-1] if noreply else words[1:]
        # A delayed flush would empty what was put in after it: it is refused, not done at once.
        if rest not in ([], [b"0"]):
            return Malformed(b"" if noreply else BAD_DELAY)
        return FlushAll(noreply)

    def _stats(self, words: list[bytes]) -> Command:
        return Stats(words[1].lower() if len(words) > 1 else b"")

    def _reload(self, words: list[bytes]) -> Command:
        return _RELOAD

    def _version(self, words: list[bytes]) -> Command:
        return _VERSION

    def _verbosity(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return _UNKNOWN
        noreply = len(words) > 2 and words[-1] == b"noreply"
        try:
            _number(words[1], 0, 0xFFFFFFFF)
        except ValueError:
            return Malformed(b"" if noreply else BAD_FORMAT)
        return Verbosity(noreply)

    def _quit(self, words: list[bytes]) -> Command:
        return _QUIT

    def _refused(self, words: list[bytes]) -> Command:
        return Refused(words[0].lower().decode(), len(words) > 1 and words[-1] == b"noreply")


_commands: dict[bytes, Callable[[Parser, list[bytes]], Command | None]] = {
    b"get": Parser._get,
    b"gets": Parser._get,
    b"set": Parser._storage,
    b"delete": Parser._delete,
    b"flush": Parser._flush,
    b"flush_all": Parser._flush_all,
    b"stats": Parser._stats,
    b"reload": Parser._reload,
    b"version": Parser._version,
    b"verbosity": Parser._verbosity,
    b"quit": Parser._quit,
    **dict.fromkeys((b"add", b"replace", b"append", b"prepend", b"cas"), Parser._storage),
    b"ms": Parser._meta_set,
    # Known to some of memcached, Starling, Kestrel and Darner, and without a payload.
    **dict.fromkeys(
        b"incr decr touch gat gats mg md ma me mn cache_memlimit flush_expired flush_all_expired dump_stats"
        b" dump_config monitor confirm status shutdown".split(),
        Parser._refused,
    ),
}
