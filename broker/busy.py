"""What a connection is told that may not come in, in the words of each protocol: it has said nothing yet."""

from __future__ import annotations

from broker.config import HttpListener, MemcacheListener, StompListener
from broker.errors import BrokerError
from broker.gate import Words
from broker.http import problem
from broker.memcache.dialect import DIALECTS
from broker.memcache.words import texts_of
from broker.stomp.dialect import HANDSHAKE
from broker.stomp.errors import error_frame, refusal
from broker.stomp.flavour import FLAVOURS
from broker.stomp.frames import Frame, encode


def words(front: str, said: MemcacheListener | StompListener | HttpListener | None) -> Words:
    """How a listener of `front`, of which that is said, tells of an error."""
    match front:
        case "memcache":
            # A line; who speaks the binary protocol sees a broken answer, which closes as well.
            dialect = DIALECTS[said.dialect if isinstance(said, MemcacheListener) else "default"]
            return lambda error: texts_of(dialect).loud.failed(error)[0]
        case "stomp":
            flavour = FLAVOURS[said.flavour if isinstance(said, StompListener) else "default"]

            def stomp(error: BrokerError) -> bytes:
                refused = refusal(error)
                assert refused is not None
                return encode(error_frame(refused, Frame(""), flavour), HANDSHAKE)

            return stomp
        case _:
            return _http


def _http(error: BrokerError) -> bytes:
    """An answer, to whatever is asked."""
    rendered = problem.render(problem.of(error))
    fields = [*rendered.headers, (b"Content-Length", b"%d" % len(rendered.body)), (b"Connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (rendered.status, rendered.reason, head, rendered.body)
