"""What clients get wrong, as bytes, and the answer each must get in its protocol's own terms.

The broker they are sent to takes bodies of 1,000,000 bytes at most, by all three protocols.
"""

from __future__ import annotations

import attrs

LIMIT = 1_000_000
LONG_NAME = b"n" * 251
#: Does not fit 64 bits.
HUGE = b"18446744073709551616"


@attrs.frozen
class Misuse:
    """Bytes, a pattern of all that is answered, and whether the connection must be closed by the broker then."""

    sent: bytes
    answer: bytes
    closes: bool = False


def _line(line: bytes, answer: bytes) -> Misuse:
    """A memcache line that is an error; the connection goes on."""
    return Misuse(line + b"\r\nversion\r\n", answer + rb"\r\nVERSION [0-9.]+\r\n")


_FORMAT = b"CLIENT_ERROR bad command line format"
_NAME = rb"CLIENT_ERROR [^\r\n]+"

MEMCACHE = {
    "garbage": Misuse(bytes(range(0x81, 0x100)) * 40 + b"\r\nversion\r\n", rb"ERROR\r\nVERSION [^\n]+\r\n"),
    "HTTP": Misuse(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", rb"(ERROR\r\n){3}"),
    "binary, lengths that contradict each other": Misuse(
        b"\x80\x00\x00\x05" + bytes(20), rb"\x81\x00.{4}\x00\x04.{16}Invalid arguments", closes=True
    ),
    "line too long": Misuse(b"x" * 9000, rb"CLIENT_ERROR line too long\r\n", closes=True),
    "get too long": Misuse(b"get" + b" key" * 20_000, rb"CLIENT_ERROR line too long\r\n", closes=True),
    "unknown command": _line(b"push q 1", b"ERROR"),
    "set without length": _line(b"set q 0 0", b"ERROR"),
    "get without key": _line(b"get", b"ERROR"),
    "body too large": _line(b"set q 0 0 1000001\r\n" + bytes(LIMIT + 1), b"SERVER_ERROR object too large for cache"),
    "body longer than announced": _line(b"set q 0 0 1\r\nxyz", b"CLIENT_ERROR bad data chunk"),
    "negative length": _line(b"set q 0 0 -1", _FORMAT),
    "huge length": _line(b"set q 0 0 " + HUGE, _FORMAT),
    "huge flags": _line(b"set q " + HUGE + b" 0 1\r\nx", _FORMAT),
    "huge exptime": _line(b"set q 0 " + HUGE + b" 1\r\nx", _FORMAT),
    "huge cas": _line(b"cas q 0 0 1 " + HUGE + b"\r\nx", _FORMAT),
    "huge wait": _line(b"get q/t=" + HUGE, rb"CLIENT_ERROR t= [^\r\n]+"),
    "set of a long name": _line(b"set " + LONG_NAME + b" 0 0 1\r\nx", _FORMAT),
    "get of a long name": _line(b"get " + LONG_NAME, _FORMAT),
    "delete of a long name": _line(b"delete " + LONG_NAME, _FORMAT),
    "control character in a set": _line(b"set q\x01 0 0 1\r\nx", _NAME),
    "control character in a get": _line(b"get q\x7f", _NAME),
    "no UTF-8": _line(b"set q\xff 0 0 1\r\nx", _NAME),
    "empty name": _line(b"set /queue/ 0 0 1\r\nx", _NAME),
    "get of a topic": _line(b"get /topic/t", _NAME),
    "half a line": Misuse(b"set q 0 0", b""),
    "half a body": Misuse(b"set q 0 0 500000\r\n" + bytes(100_000), b""),
}


def _frame(frame: bytes, message: bytes) -> Misuse:
    """A frame of a connected client that is an error, and so the end."""
    return Misuse(b"CONNECT\naccept-version:1.2\nhost:x\n\n\0" + frame, _CONNECTED + _error(message), closes=True)


def _error(message: bytes) -> bytes:
    return rb"ERROR\nmessage:" + message + rb"\n[^\0]*\0"


_CONNECTED = rb"CONNECTED\n[^\0]*\0"


def _send(headers: bytes, message: bytes) -> Misuse:
    return _frame(b"SEND\n" + headers + b"\n\nx\0", message)


STOMP = {
    "garbage": Misuse(bytes(range(0x81, 0x100)) * 40, _error(b"Command too long"), closes=True),
    "HTTP": Misuse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0", _error(b"not connected"), closes=True),
    "TLS": Misuse(b"\x16\x03\x01\x02\x00\x01\x00", b"", closes=True),
    "unknown version": Misuse(
        b"CONNECT\naccept-version:3.7\nhost:x\n\n\0",
        _error(rb"version not supported\n[^\0]*version:1.0,1.1,1.2"),
        closes=True,
    ),
    "SEND before CONNECT": Misuse(b"SEND\ndestination:q\n\nx\0", _error(b"not connected"), closes=True),
    "huge heart-beat": Misuse(
        b"CONNECT\naccept-version:1.2\nhost:x\nheart-beat:%b,1\n\n\0" % HUGE, _error(b"Invalid heart-beat"), closes=True
    ),
    "login too long": Misuse(b"CONNECT\n" + b"a:b\n" * 20_000, _error(b"Headers too long"), closes=True),
    "unknown command": _frame(b"PUSH\ndestination:q\n\nx\0", b"Bad command"),
    "CONNECT twice": _frame(b"CONNECT\naccept-version:1.2\nhost:x\n\n\0", b"already connected"),
    "command too long": _frame(b"S" * 10_000, b"Command too long"),
    "header line too long": _frame(b"SEND\ndestination:" + b"q" * 20_000, b"Header line too long"),
    "headers too long": _frame(b"SEND\n" + (b"a:" + b"b" * 9000 + b"\n") * 20, b"Headers too long"),
    "too many headers": _frame(
        b"SEND\n" + b"".join(b"h%d:x\n" % n for n in range(200)) + b"\nx\0", b"Too many headers"
    ),
    "header without colon": _send(b"destination", b"malformed header"),
    "unknown escape": _send(rb"destination:\q", b"malformed escape"),
    "no UTF-8": _send(b"destination:\xff", b"invalid UTF-8"),
    "NUL in a header": _frame(b"SEND\ndestination:\0\n\nx\0", b"NUL in a header"),
    "body too large": _frame(b"SEND\ndestination:q\ncontent-length:1000001\n\n", b"Body too large"),
    "body too large, length unknown": _frame(b"SEND\ndestination:q\n\n" + b"x" * (LIMIT + 1), b"Body too large"),
    "body longer than announced": _frame(
        b"SEND\ndestination:q\ncontent-length:1\n\nxyz\0", b"missing NUL after the body"
    ),
    "negative length": _send(b"destination:q\ncontent-length:-1", b"Invalid content-length"),
    "huge length": _send(b"destination:q\ncontent-length:" + HUGE, b"Invalid content-length"),
    "huge flags": _send(b"destination:q\nmemcache-flags:" + HUGE, b"Invalid header"),
    "huge priority": _send(b"destination:q\npriority:" + HUGE, b"Invalid header"),
    "huge expiration": _send(b"destination:q\nexpiration:" + HUGE, b"Invalid header"),
    "huge moment": _send(b"destination:q\nexpires:" + HUGE, b"Invalid header"),
    "long name": _send(b"destination:/queue/" + LONG_NAME, b"Invalid destination"),
    "control character": _send(b"destination:/queue/q\x01", b"Invalid destination"),
    "line end in a name": _send(rb"destination:/queue/a\nb", b"Invalid destination"),
    "empty name": _send(b"destination:/queue/", b"Invalid destination"),
    "no destination": _send(b"receipt:1", b"Missing destination"),
    "no such transaction": _send(b"destination:q\ntransaction:1", b"Bad transaction"),
    "huge prefetch": _frame(b"SUBSCRIBE\nid:1\ndestination:q\nprefetch-count:%b\n\n\0" % HUGE, b"Invalid header"),
    "unknown ack mode": _frame(b"SUBSCRIBE\nid:1\ndestination:q\nack:maybe\n\n\0", b"Invalid ack mode"),
    "subscription without id": _frame(b"SUBSCRIBE\ndestination:q\n\n\0", b"Missing id"),
    "ACK of nothing": _frame(b"ACK\nid:1.%b\n\n\0" % HUGE, b"Message not found"),
    "COMMIT of nothing": _frame(b"COMMIT\ntransaction:1\n\n\0", b"Bad transaction"),
    "half a login": Misuse(b"CONNECT\naccept-ver", b""),
    "half a frame": Misuse(b"CONNECT\n\n\0SEND\ndestination:q\n\nxyz", _CONNECTED),
    "half a body": Misuse(b"CONNECT\n\n\0SEND\ndestination:q\ncontent-length:500000\n\nxyz", _CONNECTED),
}


def _request(line: bytes, status: int, *fields: bytes, body: bytes = b"", closes: bool = False) -> Misuse:
    head = b"".join(field + b"\r\n" for field in (line + b" HTTP/1.1", b"Host: localhost", *fields))
    return Misuse(head + b"\r\n" + body, _status(status), closes)


def _status(status: int) -> bytes:
    return rb"HTTP/1.1 %d [^\n]+\r\n.*" % status


def _post(path: bytes, status: int) -> Misuse:
    return _request(b"POST " + path, status, b"Content-Length: 1", body=b"x")


HTTP = {
    "garbage": Misuse(bytes(range(0x81, 0x100)) * 40 + b"\r\n\r\n", _status(400), closes=True),
    "memcache": Misuse(b"set q 0 0 1\r\nx\r\n", _status(400), closes=True),
    "line too long": Misuse(b"GET /" + b"x" * 200_000, _status(414), closes=True),
    "header too long": Misuse(b"GET / HTTP/1.1\r\nX-Message-A: " + b"x" * 200_000, _status(431), closes=True),
    "too many headers": _request(b"GET /channels/q", 400, *(b"X-%d: 1" % n for n in range(2000)), closes=True),
    "no colon": _request(b"GET /channels/q", 400, b"what", closes=True),
    "unknown method": _request(b"PUSH /channels/q", 405),
    "unknown path": _request(b"GET /queues/q", 404),
    "body too large": _request(b"POST /channels/q", 400, b"Content-Length: 1000001", body=bytes(LIMIT + 1)),
    "body far too large": _request(b"POST /channels/q", 413, b"Content-Length: 99000000"),
    "body without end": _request(
        b"POST /channels/q", 413, b"Transfer-Encoding: chunked", body=(b"10000\r\n" + bytes(0x10000) + b"\r\n") * 40
    ),
    "chunk without size": _request(
        b"POST /channels/q", 400, b"Transfer-Encoding: chunked", body=b"what\r\nx\r\n", closes=True
    ),
    "huge chunk": _request(
        b"POST /channels/q", 413, b"Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n" + bytes(3 * LIMIT)
    ),
    "empty body": _request(b"POST /channels/q", 400, b"Content-Length: 0"),
    "huge length": _request(b"POST /channels/q", 413, b"Content-Length: " + HUGE),
    "negative length": _request(b"POST /channels/q", 400, b"Content-Length: -1", closes=True),
    "no length": _request(b"POST /channels/q", 400, b"Content-Length: many", closes=True),
    "two lengths": _request(b"POST /channels/q", 400, b"Content-Length: 1", b"Content-Length: 2", closes=True),
    "huge priority": _post(b"/channels/q?priority=" + HUGE, 400),
    "huge lease": _post(b"/channels/q?timeout=" + HUGE, 400),
    "huge linger": _post(b"/channels/q?linger=" + HUGE, 400),
    "huge attempts": _post(b"/channels/q?deliver=" + HUGE, 400),
    "no number": _post(b"/channels/q?priority=first", 400),
    "huge wait": _request(b"GET /channels/q?wait=" + HUGE, 400),
    "huge id": _request(b"DELETE /messages/" + HUGE, 400),
    "long id": _request(b"DELETE /messages/" + b"9" * 5000, 400),
    "no id": _request(b"DELETE /messages/first", 404),
    "long name": _post(b"/channels/" + LONG_NAME, 400),
    "control character": _post(b"/channels/q%01", 400),
    "no UTF-8": _post(b"/channels/q%ff", 400),
    "broken escape": _post(b"/channels/q%zz", 400),
    "empty name": _post(b"/channels/", 404),
    "long topic": _post(b"/topics/" + LONG_NAME, 400),
    "foreign host": Misuse(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", _status(403)),
    "broken multipart": _request(
        b"POST /channels/q", 400, b"Content-Type: multipart/form-data", b"Content-Length: 1", body=b"x"
    ),
    "half a head": Misuse(b"POST /channels/q HTTP/1.1\r\nHost: loc", b""),
    "half a body": Misuse(
        b"POST /channels/q HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n" + bytes(100_000), b""
    ),
}
