"""Frames out of bytes, for all versions and both directions. No I/O. How frames are written: `broker.stomp.frames`.

The parser's strategy: bytes collect in one buffer; an offset moves over it, and what is behind the offset is dropped
only when it is at least half of the buffer. One search finds the end of a header block, however many lines it has;
the block is then decoded as a whole, by a function of nothing but the block, the dialect and the header limit (so it
can be remembered for blocks that repeat). No byte is searched twice, so the cost is O(n) for any split of the input.

Limits are checked line by line in order of position, as soon as the bytes are there: an error does not depend on how
the input was split, and nobody fills our memory with a line that never ends.
"""

from __future__ import annotations

import enum
import re

import msgspec

from broker.stomp.dialect import HANDSHAKE, Dialect
from broker.stomp.frames import Acks, Frame, Repeated
from broker.stomp.heads import Heads

#: The buffer is cut only when at least this much of it is done with.
COMPACT = 64 * 1024

#: Such ACKs, one after the other; the bounds keep what is looked at again and again small.
_acks = re.compile(
    rb"ACK\nid:([\w.-]{0,64})\.(?:0|[1-9][0-9]{0,17})\n\n\0\n*"
    rb"(?:ACK\nid:\1\.(?:0|[1-9][0-9]{0,17})\n\n\0\n*){0,255}"
)
_ack_number = re.compile(rb"\.([0-9]+)\n\n")
_A = ord("A")

#: What a receipt may consist of that is known without being decoded: no escape, no blank, nothing to be escaped.
_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
_RECEIPT = b"\nreceipt:"


class Limits(msgspec.Struct, frozen=True):
    """What a frame may be; sizes in bytes.

    The defaults stand between RabbitMQ's (100 headers, 100 KiB a header, command 32) and ActiveMQ's (1,000 headers,
    10 KiB a line, command 1,024).
    """

    command: int = 64
    line: int = 10 * 1024
    #: Distinct names; repeated ones do not count.
    headers: int = 128
    #: The command line and all header lines.
    head: int = 128 * 1024
    body: int = 16 * 1024 * 1024
    #: The head and the body together; None: no limit beside theirs.
    frame: int | None = None


#: Before CONNECT: nobody unknown may make us hold more than 64 KiB.
LOGIN = Limits(line=8 * 1024, head=64 * 1024, frame=64 * 1024)


class Violation(enum.Enum):
    """What is wrong with the bytes; the value is the `message` of our ERROR. Each ends the connection."""

    MALFORMED_LINE_END = "malformed line end"
    MALFORMED_HEADER = "malformed header"
    MALFORMED_ESCAPE = "malformed escape"
    NOT_UTF8 = "invalid UTF-8"
    NUL_IN_HEADER = "NUL in a header"
    BAD_LENGTH = "Invalid content-length"
    NO_NUL = "missing NUL after the body"
    COMMAND_TOO_LONG = "Command too long"
    LINE_TOO_LONG = "Header line too long"
    HEAD_TOO_LONG = "Headers too long"
    TOO_MANY_HEADERS = "Too many headers"
    BODY_TOO_LONG = "Body too large"


class FrameError(Exception):
    """The bytes are not a frame. `headers` holds what was understood of the frame before that, perhaps nothing."""

    def __init__(self, violation: Violation, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{violation.value}: {detail}")
        self.violation = violation
        self.detail = detail
        self.headers = headers or {}


_noise = re.compile(rb"[\n\0]*(?:\r\n[\n\0]*)*")
#: The end of a header block, or a NUL, which must not come before it. The command line's own LF is the first octet.
_end_of_head = re.compile(rb"\n\r?\n|\0")
_escape = re.compile(r"\\(.?)", re.DOTALL)
_length = re.compile(r"[ \t]*([0-9]{1,18})[ \t]*", re.ASCII)


def decode_head(head: bytes, dialect: Dialect, max_headers: int) -> tuple[str, dict[str, str]]:
    """The command and the headers of a header block without its empty line; raises `FrameError`."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        raise FrameError(Violation.NOT_UTF8, f"in the header block, at octet {error.start}") from None
    lines = text.split("\n")
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
        if not dialect.cr_is_data and any("\r" in line for line in lines):
            raise FrameError(Violation.MALFORMED_LINE_END, "a CR that no LF follows")
    command = lines[0]
    unescape = dialect.unescape if "\\" in text else None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise FrameError(Violation.MALFORMED_HEADER, "a header line without a name or without a colon", headers)
        if unescape is not None and "\\" in line:
            name, value = _unescape(name, unescape, headers), _unescape(value, unescape, headers)
        if dialect.trims:
            value = value.strip(" \t")
        if name not in headers:  # the first of several counts
            if len(headers) == max_headers:
                raise FrameError(Violation.TOO_MANY_HEADERS, f"more than {max_headers}", headers)
            headers[name] = value
    return command, headers


def _unescape(text: str, table: dict[str, str], headers: dict[str, str]) -> str:
    def meaning(match: re.Match[str]) -> str:
        try:
            return table[match[1]]
        except KeyError:
            raise FrameError(Violation.MALFORMED_ESCAPE, "an undefined escape sequence", headers) from None

    return _escape.sub(meaning, text)


class _State(enum.Enum):
    """Where in a frame the offset stands. The command line is the first line of the head."""

    NOISE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class Parser:
    """Bytes to frames, one at a time: `feed` what came, then take `next_frame` until it is None.

    `dialect` and `limits` may be changed between two frames; they hold for the frames not yet taken.
    """

    def __init__(self, dialect: Dialect = HANDSHAKE, limits: Limits = LOGIN) -> None:
        self.dialect = dialect
        self.limits = limits
        #: Header blocks of SEND that came before, if they are to be remembered; for this dialect and these limits.
        self.heads: Heads | None = None
        #: Whether ACKs that came together are to be given as one, by `take`.
        self.together = False
        self._buffer = bytearray()
        self._state = _State.NOISE
        #: Everything before it is done with.
        self._start = 0
        #: From here on, nothing has been searched yet.
        self._scan = 0
        #: The start of the first line whose length is not checked yet.
        self._line = 0
        self._command = ""
        self._headers: dict[str, str] = {}
        #: Octets of the body as announced; None: it ends at the first NUL.
        self._length: int | None = None
        #: Octets the body may have.
        self._room = 0
        self._error: FrameError | None = None

    @property
    def held(self) -> int:
        """Bytes held and not yet given out in a frame."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """More bytes. After an error they are dropped."""
        if self._error is None:
            self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame; None: more bytes are needed. Raises `FrameError`, and from then on the same again.

        Not for who wants ACKs `together`.
        """
        found = self.take()
        assert not isinstance(found, Acks)
        return found.frame if isinstance(found, Repeated) else found

    def take(self) -> Frame | Repeated | Acks | None:
        """The same, for who can make use of what is `Repeated`, or of `Acks`."""
        if self._error is not None:
            raise self._error
        try:
            frame = self._next()
        except FrameError as error:
            self._error = error
            self._buffer.clear()
            self._start = 0
            raise
        done = self._start
        if done * 2 >= len(self._buffer) and (done >= COMPACT or (frame is None and done)):
            del self._buffer[:done]
            self._scan -= done
            self._line -= done
            self._start = 0
        return frame

    def _next(self) -> Frame | Repeated | Acks | None:
        if self._state is _State.NOISE:
            if not self._skip_noise():
                return None
            if self._buffer[self._start] == _A:
                if self.together and (acks := self._take_acks()) is not None:
                    return acks
            elif self.heads is not None and (repeated := self._take_repeated(self.heads)) is not None:
                return repeated
        if self._state is _State.HEAD and not self._take_head():
            return None
        return self._take_body()

    def _take_acks(self) -> Acks | None:
        """Whole ACKs: 0.5 us each, 7 us as frames; None: there is none, or there is something else about it."""
        match = _acks.match(self._buffer, self._start)
        if match is None:
            return None
        acks = Acks(match[1].decode(), [int(number) for number in _ack_number.findall(match[0])])
        self._start = match.end()
        self._state = _State.NOISE
        return acks

    def _take_repeated(self, heads: Heads) -> Repeated | None:
        """A whole SEND whose header block came before; None: it did not, or there is something else about it.

        Blocks are remembered that were within the limits, and hold neither CR nor NUL.
        """
        buffer, start = self._buffer, self._start
        end = buffer.find(b"\n\n", start, start + heads.LONGEST)
        if end < 0:
            return None
        block, receipt = _without_receipt(buffer, start, end)
        head = heads.get(block)
        if head is None:
            return None
        begin = end + 2
        stop = buffer.find(b"\0", begin) if head.length is None else begin + head.length
        if not begin <= stop < len(buffer) or buffer[stop] or stop - begin > self.limits.body:
            return None
        self._start = stop + 1
        self._state = _State.NOISE
        return Repeated(head, receipt, _cut(buffer, begin, stop))

    def _remember(self, heads: Heads, start: int, end: int) -> None:
        """The header block that was just decoded may come again."""
        block, _ = _without_receipt(self._buffer, start, end)
        if b"\r" not in block and _RECEIPT not in block:
            heads.came(block, self._headers, self._length)

    def _skip_noise(self) -> bool:
        """Skip heart-beats, line ends after the last frame, and stray NULs; True at the first octet of a frame."""
        buffer = self._buffer
        if self._start < len(buffer) and buffer[self._start] < 32:
            match = _noise.match(buffer, self._start)
            self._start = match.end() if match else self._start
        rest = len(buffer) - self._start
        if rest == 0:
            return False
        if buffer[self._start] == 13:
            if rest == 1:
                return False
            raise FrameError(Violation.MALFORMED_LINE_END, "a CR that no LF follows, between frames")
        self._scan = self._line = self._start
        self._state = _State.HEAD
        return True

    def _take_head(self) -> bool:
        """Decode the command and the headers, once they are there."""
        buffer, start = self._buffer, self._start
        match = _end_of_head.search(buffer, self._scan)
        if match is None:
            self._check_lines(len(buffer))
            # A line end may be cut in two or three.
            self._scan = max(start, len(buffer) - 2)
            return False
        end = match.start()
        limits = self.limits
        if end - start > min(limits.line, limits.head) or buffer.find(b"\n", start, start + limits.command + 1) < 0:
            self._check_lines(end)
        if buffer[end] == 0:
            raise FrameError(Violation.NUL_IN_HEADER, "a NUL before the empty line that ends the headers")
        self._command, self._headers = decode_head(bytes(buffer[start:end]), self.dialect, limits.headers)
        self._room = limits.body if limits.frame is None else min(limits.body, limits.frame - (match.end() - start))
        self._length = self._announced()
        if self.heads is not None and self._command == "SEND" and limits.frame is None:
            self._remember(self.heads, start, end)
        self._start = self._scan = match.end()
        self._state = _State.BODY
        return True

    def _check_lines(self, end: int) -> None:
        """Raise the first limit that the lines up to `end` break; the last of them may be cut there."""
        buffer, start, limits = self._buffer, self._start, self.limits
        while True:
            stop = buffer.find(b"\n", self._line, end)
            if stop < 0 and (end == self._line or (end == self._line + 1 and buffer[self._line] == 13)):
                return  # it may be the empty line, which does not count
            length = (end if stop < 0 else stop) - self._line
            is_command = self._line == start
            limit = limits.command if is_command else limits.line
            room = limits.head - (self._line - start)
            if length > min(limit, room):
                if room < limit:
                    raise FrameError(Violation.HEAD_TOO_LONG, f"more than {limits.head} octets")
                if is_command:
                    raise FrameError(Violation.COMMAND_TOO_LONG, f"more than {limit} octets")
                raise FrameError(Violation.LINE_TOO_LONG, f"more than {limit} octets")
            if stop < 0:
                return
            self._line = stop + 1

    def _announced(self) -> int | None:
        header = self._headers.get("content-length")
        if header is None:
            return None
        match = _length.fullmatch(header)
        if match is None:
            raise FrameError(Violation.BAD_LENGTH, "content-length must be a count of octets", self._headers)
        length = int(match[1])
        if length > self._room:
            raise self._too_large()
        return length

    def _take_body(self) -> Frame | None:
        buffer, start = self._buffer, self._start
        if self._length is not None:
            end = start + self._length
            if end >= len(buffer):
                return None
            if buffer[end]:
                raise FrameError(Violation.NO_NUL, f"after the {self._length} octets announced", self._headers)
        else:
            end = buffer.find(b"\0", self._scan)
            if (len(buffer) if end < 0 else end) - start > self._room:
                raise self._too_large()
            if end < 0:
                self._scan = len(buffer)
                return None
        frame = Frame(self._command, self._headers, _cut(buffer, start, end))
        self._start = end + 1
        self._state = _State.NOISE
        return frame

    def _too_large(self) -> FrameError:
        return FrameError(Violation.BODY_TOO_LONG, f"at most {max(self._room, 0)} octets", self._headers)


def _without_receipt(buffer: bytearray, start: int, end: int) -> tuple[bytes, bytes | None]:
    """A header block without its first receipt, and that; or with it, if it has to be decoded to be understood."""
    block = bytes(buffer[start:end])
    before, found, rest = block.partition(_RECEIPT)
    if found:
        receipt, line_end, after = rest.partition(b"\n")
        if not receipt.translate(None, _SAFE):
            return before + line_end + after, receipt
    return block, None


def _cut(buffer: bytearray, start: int, end: int) -> bytes:
    """These octets. To copy a few of them twice takes 0.2 us, to make a view of them first 0.5."""
    if end - start <= 4096:
        return bytes(buffer[start:end])
    with memoryview(buffer) as view:
        return bytes(view[start:end])
