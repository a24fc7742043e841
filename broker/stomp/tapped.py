"""One connection's frames, in both directions, for whoever looks for the cause of something."""

from __future__ import annotations

from collections.abc import Callable

from broker.stomp.connection import StompProtocol
from broker.stomp.dialect import HANDSHAKE
from broker.stomp.frames import Acks, Frame, Repeated
from broker.stomp.wire import FrameError, Limits, Parser
from broker.tap import Tell, replaced, watched

#: What we send is never longer.
_LIMITS = Limits(line=1024 * 1024, head=16 * 1024 * 1024, headers=10_000, body=1024 * 1024 * 1024)


def watch(connection: StompProtocol, tell: Tell) -> Callable[[], None]:
    """Tell what comes and goes, until what is given is called. Methods of it are replaced meanwhile."""
    parser = Parser(HANDSHAKE, _LIMITS)
    taken = connection._parser.take
    readable = True

    def take() -> Frame | Repeated | Acks | None:
        found = taken()
        frames = found.frames if isinstance(found, Acks) else [found.frame if isinstance(found, Repeated) else found]
        for frame in frames:
            if frame is not None:
                tell("in", command=frame.command, headers=frame.headers, size=len(frame.body), body=frame.body)
        return found

    def went(data: bytes) -> None:
        nonlocal readable
        try:
            if readable:
                parser.dialect = connection._parser.dialect
                parser.feed(data)
                while (one := parser.next_frame()) is not None:
                    tell("out", command=one.command, headers=one.headers, size=len(one.body), body=one.body)
        except FrameError:
            readable = False  # it began in the middle of a frame
            tell("out", unreadable=True, size=len(data))

    untake = replaced(connection._parser, "take", take)
    unwatch = watched(connection, tell, {}, went)

    def end() -> None:
        untake()
        unwatch()

    return end
