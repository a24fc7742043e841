"""What somebody may do to a listener: each attack is a few seconds at most of one or many connections to one port.

They take a `Target` and a source of chance, and return the connections they leave open: who sends slowly, or does not
read, is still there while the others come. What is refused, cut or closed on is no failure of an attack.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import ssl
import struct
from collections.abc import Callable

import attrs

from tests.memcache.fuzz import Fuzz

#: Seconds an attacker waits for anything.
WAIT = 0.3
#: The queue of the client beside them, to which they have no right; theirs begin with ``open.``.
PROBES = "kept.probe"
#: What a path trick would bring to light.
TREASURE = "the content of a file nobody may read"


@attrs.frozen
class Target:
    """One listener."""

    front: str
    port: int
    tls: bool
    #: A file outside of everything the broker serves, whose content must not come back.
    treasure: str

    @property
    def name(self) -> str:
        return f"{self.front}{' over TLS' if self.tls else ''}"

    def connect(self, *, small: bool = False) -> socket.socket:
        """A connection, with `small` buffers or with those of the system; TLS is spoken where that is meant."""
        made = socket.socket()
        if small:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.settimeout(5)
        made.connect(("127.0.0.1", self.port))
        if self.tls:
            made = _context.wrap_socket(made)
        made.settimeout(WAIT)
        return made


Attack = Callable[[Target, random.Random], list[socket.socket]]

_context = ssl.create_default_context()
_context.check_hostname = False
_context.verify_mode = ssl.CERT_NONE


def said(connection: socket.socket, data: bytes, most: int = 1 << 20) -> bytes:
    """What comes back within a moment, for `data` that is sent as far as it is taken."""
    found = b""
    try:
        connection.sendall(data)
    except OSError:
        pass  # it was cut; what it said before is of interest
    try:
        while len(found) < most and (piece := connection.recv(65536)):
            found += piece
    except OSError:
        pass
    return found


def once(target: Target, data: bytes) -> bytes:
    """The same on a connection of its own."""
    with target.connect() as connection:
        return said(connection, data)


# -- what is sound to begin with


def sound(target: Target, chance: random.Random) -> bytes:
    """Something that the front understands."""
    match target.front:
        case "memcache":
            return b"".join(Fuzz(chance.randrange(1 << 30)).session()).replace(b"shutdown", b"shut")
        case "stomp":
            frames = [b"CONNECT\naccept-version:1.0,1.1,1.2\nhost:x\n\n\0"]
            for _ in range(chance.randrange(8)):
                command = chance.choice([b"SEND", b"SUBSCRIBE", b"ACK", b"NACK", b"BEGIN", b"COMMIT", b"UNSUBSCRIBE"])
                headers = {
                    b"destination": chance.choice(
                        [b"/queue/open.a", b"/topic/open.t", b"/queue/", b"/topic/*.>", b"x"]
                    ),
                    b"id": chance.choice([b"1", b"2", b"\xff"]),
                    b"ack": chance.choice([b"auto", b"client", b"client-individual", b"1.1"]),
                    b"selector": chance.choice([b"a = 1", b"a LIKE '%x%'", b"(" * 50, b"a = 'x"]),
                    b"transaction": chance.choice([b"t", b""]),
                    b"content-length": str(chance.choice([0, 3, 5, 10**9, -1])).encode(),
                }
                some = chance.sample(sorted(headers), chance.randrange(len(headers)))
                lines = b"".join(b"%b:%b\n" % (name, headers[name]) for name in some)
                frames.append(b"%b\n%b\nbody\0" % (command, lines))
            return b"".join(frames)
        case _:
            method = chance.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"])
            path = chance.choice(
                ["", "channels", "channels/open.a", "channels/open.a/messages", "topics/open.t", "stats"]
            )
            query = chance.choice(
                ["", "?nowait", "?timeout=0", "?count=-1", "?match=(((", "?since=never", "?" + "a=b&" * 50]
            )
            body = chance.randbytes(chance.randrange(200))
            kind = chance.choice(
                ["application/json", "application/cloudevents-batch+json", "text/plain", "multipart/x"]
            )
            head = f"{method} /{path}{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
            return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


# -- the attacks


def random_bytes(target: Target, chance: random.Random) -> list[socket.socket]:
    """Bytes of no meaning."""
    once(target, chance.randbytes(chance.randrange(1, 1 << chance.randrange(3, 17))))
    return []


def spoiled(target: Target, chance: random.Random) -> list[socket.socket]:
    """Requests in which something is not as it should be."""
    data = bytearray(sound(target, chance))
    for _ in range(chance.randrange(6)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
    once(target, bytes(data))
    return []


def cut_short(target: Target, chance: random.Random) -> list[socket.socket]:
    """Requests of which only a part comes, and then the end, or a reset."""
    data = sound(target, chance)
    connection = target.connect()
    try:
        connection.sendall(data[: chance.randrange(len(data) + 1)])
        if chance.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        connection.close()
    return []


def slow_senders(target: Target, chance: random.Random) -> list[socket.socket]:
    """Connections that begin something, and go on for ever, or never."""
    beginnings = {
        "memcache": [b"set open.a 0 0 1000000\r\nx", b"get ", b"\x80\x01\x00\x05", b""],
        "stomp": [b"CONN", b"CONNECT\naccept-version:1.2\nhost:", b"SEND\ncontent-length:100000\n\nx", b"", b"\n"],
        "http": [
            b"GET / HT",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
            b"POST /channels/open.a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nx",
            b"POST /channels/open.a HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nx",
            b"GET /channels/open.none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"",
        ],
    }
    held = []
    for _ in range(20):
        try:
            connection = target.connect()
            held.append(connection)
            connection.sendall(chance.choice(beginnings[target.front]))
        except OSError:
            pass
    return held


def slow_readers(target: Target, chance: random.Random) -> list[socket.socket]:
    """Connections that ask for much, and read nothing of it."""
    body = b"x" * 20_000
    match target.front:
        case "memcache":
            fill = b"set open.big 0 0 %d\r\n%b\r\n" % (len(body), body)
            ask = fill + b"get open.big/peek\r\n" * 3000
        case "stomp":
            hello = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"
            wish = b"SUBSCRIBE\nid:1\ndestination:/topic/open.t\nack:auto\n\n\0"
            wish += b"SUBSCRIBE\nid:2\ndestination:/queue/open.big\nack:client\nprefetch-count:0\n\n\0"
            send = b"SEND\ndestination:%b\nreceipt:1\n\n" + body + b"\0"
            ask = hello + wish + (send % b"/topic/open.t") * 300 + (send % b"/queue/open.big") * 5
        case _:
            lines = b"Host: 127.0.0.1\r\n"
            post = b"POST /channels/open.big HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (lines, len(body))
            browse = b"GET /channels/open.big/messages?count=100 HTTP/1.1\r\n%b\r\n" % lines
            ask = (post + body) * 3 + browse * 300 + b"GET /metrics HTTP/1.1\r\n%b\r\n" % lines
    connection = target.connect(small=True)
    try:
        connection.sendall(ask)
    except OSError:
        pass  # it does not take more from one who does not read
    return [connection]


def flood(target: Target, chance: random.Random) -> list[socket.socket]:
    """Many connections at once; half of them say nothing, or not even goodbye."""
    made = []
    for _ in range(200):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", target.port))
        made.append(one)
    for one in made:
        if chance.random() < 0.5:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    return []


def logins(target: Target, chance: random.Random) -> list[socket.socket]:
    """Wrong names, passwords and tokens."""
    name = chance.choice(["probe", "root", "x" * 10_000, "probe\0", "../probe", "é", ""])
    password = chance.choice(["", "secret", "x" * 10_000, "\0", "'; drop table queues; --"])
    match target.front:
        case "memcache":
            plain = f"\0{name}\0{password}".encode()
            head = struct.pack(">BBHBBHIIQ", 0x80, 0x21, 5, 0, 0, 0, 5 + len(plain), 0, 0)
            once(target, (head + b"PLAIN" + plain) * 3)
        case "stomp":
            frame = f"CONNECT\naccept-version:1.2\nhost:x\nlogin:{name}\npasscode:{password}\n\n\0"
            once(target, frame.replace("\0probe", "probe").encode())
        case _:
            both = base64.b64encode(f"{name}:{password}".encode()).decode()
            kind = chance.choice([f"Basic {both}", f"Bearer {password}", "Basic !!!", "Digest x", "Bearer"])
            line = f"GET /channels HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {kind}\r\n\r\n"
            once(target, line.encode("utf-8", "surrogateescape") * 3)
    return []


def huge(target: Target, chance: random.Random) -> list[socket.socket]:
    """Heads without end, and lengths beyond everything."""
    million = b"x" * (1 << 20)
    lengths = [b"-1", b"99999999999999999999", b"2147483648", b"1e9", b"0x10", b"+5", b"5 5", "\u0665".encode()]
    length = chance.choice(lengths)
    match target.front:
        case "memcache":
            ways = [
                million,
                b"get " + million + b"\r\n",
                b"get " + b"a " * 200_000 + b"\r\n",
                struct.pack(">BBHBBHIIQ", 0x80, 0x01, 250, 8, 0, 0, 0xFFFFFFFF, 0, 0) + million,
                b"set open.a 0 0 %b\r\nx\r\n" % length,
                b"ms open.a %b\r\nx\r\n" % length,
            ]
        case "stomp":
            hello = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"
            ways = [
                million,
                b"\n" * (1 << 20),
                hello + b"SEND\n" + b"a:b\n" * 200_000,
                b"CONNECT\nhost:" + million,
                hello + b"SEND\ndestination:a\ncontent-length:%b\n\nx\0" % length,
                hello + b"SUBSCRIBE\nid:1\ndestination:open.a\nselector:%b\n\n\0" % (b"(" * 60_000),
            ]
        case _:
            head = b"POST /channels/open.a HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            chunk = chance.choice([b"f" * 30, b"-1", b"zz"])
            nested = b"[" * 100_000
            batch = head.replace(b"open.a", b"open.a/messages") + b"Content-Type: application/json\r\n"
            ways = [
                b"GET /" + million + b" HTTP/1.1\r\n\r\n",
                head + b"X: " + million,
                head + b"X: y\r\n" * 100_000,
                head + b"Content-Length: %b\r\n\r\nx" % length,
                head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
                head + b"Transfer-Encoding: chunked\r\n\r\n%b\r\nx" % chunk,
                batch + b"Content-Length: %d\r\n\r\n%b" % (len(nested), nested),
                b"GET /channels/open.a/messages?match=%b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (b"(" * 10_000),
            ]
    once(target, chance.choice(ways))
    return []


def paths(target: Target, chance: random.Random) -> list[socket.socket]:
    """Names that are paths, and names that are not even names."""
    up = chance.choice(
        ["../" * 12, "..%2f" * 12, "%2e%2e/" * 12, "..\\" * 12, "....//" * 12, "%c0%ae%c0%ae/" * 12, "/", "//"]
    )
    tail = chance.choice(["", "%00", "%00.html", "?", "#", ";x", "/.", "\t", "%0d%0aX: y"])
    name = up + target.treasure.lstrip("/") + tail
    match target.front:
        case "memcache":
            data = f"set {name} 0 0 1\r\nx\r\nget {name}\r\nstats {name}\r\nget file://{name}\r\n".encode()
        case "stomp":
            destination = chance.choice([f"/queue/{name}", f"/topic/{name}", name, f"/temp-queue/{name}"])
            frames = ["CONNECT\naccept-version:1.2\nhost:x\n\n\0"]
            frames += [f"SUBSCRIBE\nid:1\ndestination:{destination}\n\n\0", f"SEND\ndestination:{destination}\n\nx\0"]
            data = "".join(frames).encode()
        case _:
            prefix = chance.choice(
                ["", "channels/", "topics/", "problems/", "http://127.0.0.1/", "web/", "static/", "docs/"]
            )
            data = f"GET /{prefix}{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    assert TREASURE.encode() not in once(target, data), f"{target.name}: {data!r} brought a file to light"
    return []


def wrong_protocol(target: Target, chance: random.Random) -> list[socket.socket]:
    """Another protocol's words: TLS on a plain port, plain on one of TLS, a front's on another's."""
    words = chance.choice(
        [
            bytes.fromhex("16030100f1010000ed0303") + chance.randbytes(236),
            bytes.fromhex("1603010005") + chance.randbytes(5),
            bytes.fromhex("160301ffff") + chance.randbytes(70_000),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"CONNECT\naccept-version:1.2\n\n\0",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(60),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nversion\r\n",
            b"SSH-2.0-x\r\n",
        ]
    )
    with socket.create_connection(("127.0.0.1", target.port), 5) as connection:
        connection.settimeout(WAIT)
        said(connection, words)
    return []


def websocket(target: Target, chance: random.Random) -> list[socket.socket]:
    """A WebSocket, and then frames that are none."""
    if target.front != "http":
        return random_bytes(target, chance)
    key = base64.b64encode(chance.randbytes(chance.choice([16, 16, 3]))).decode()
    version = chance.choice(["13", "13", "8", "x"])
    head = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {version}\r\nSec-WebSocket-Protocol: v12.stomp\r\n\r\n"
    frame = chance.choice(
        [
            chance.randbytes(500),
            b"\x82\xff" + struct.pack(">Q", 1 << 62) + chance.randbytes(100),
            b"\x81\x7f" + b"\xff" * 8,
            b"\x89\xfe\xff\xff" + bytes(100),
            b"\x01\x80\0\0\0\0" * 5000,
        ]
    )
    with target.connect() as connection:
        said(connection, head.encode())
        said(connection, frame)
    return []


def many_requests(target: Target, chance: random.Random) -> list[socket.socket]:
    """Thousands of requests in one go; who sends them reads what comes back."""
    names = [f"open.{chance.randrange(500)}" for _ in range(20)]
    match target.front:
        case "memcache":
            data = b"".join(b"get %b\r\nget %b/t=1\r\n" % (name.encode(), name.encode()) for name in names) * 50
        case "stomp":
            data = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"
            for number, name in enumerate(names * 20):
                data += f"SUBSCRIBE\nid:{number}\ndestination:{name}\n\n\0UNSUBSCRIBE\nid:{number}\n\n\0".encode()
        case _:
            body = json.dumps([{"id": "1"}] * 50).encode()
            lines = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            data = b"".join(b"POST /channels/%b/messages HTTP/1.1\r\n" % name.encode() + lines + body for name in names)
    once(target, data)
    return []


ATTACKS: list[Attack] = [
    random_bytes,
    spoiled,
    cut_short,
    slow_senders,
    slow_readers,
    flood,
    logins,
    huge,
    paths,
    wrong_protocol,
    websocket,
    many_requests,
]
