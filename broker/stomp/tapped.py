"""One connection's frames, in both directions, for whoever looks for the cause of something."""

from __future__ import annotations

from collections.abc import Callable

from broker.stomp.connection import StompProtocol
from broker.stomp.dialect import HANDSHAKE
from broker.stomp.wire import Acks, Frame, FrameError, Limits, Parser, Repeated
from broker.tap import Tell, watched

#: What we send is never longer.
_LIMITS = Limits(line=1024 * 1024, head=16 * 1024 * 1024, headers=10_000, body=1024 * 1024 * 1024)


def watch(connection: StompProtocol, tell: Tell) -> Callable[[], None]:
    """Tell what comes and goes, until what is given is called. Its methods are replaced meanwhile."""
    parser = Parser(HANDSHAKE, _LIMITS)
    gather, gather_ack, obey = connection._gather, connection._gather_ack, connection._obey
    readable = True

    def came(frame: Frame) -> None:
        tell("in", command=frame.command, headers=frame.headers, size=len(frame.body), body=frame.body)

    def gathered(send: Repeated) -> bool:
        taken = gather(send)
        if taken:
            came(send.frame)
        return taken

    def gathered_ack(frame: Frame) -> bool:
        taken = gather_ack(frame)
        if taken:
            came(frame)
        return taken

    def gathered_acks(acks: Acks) -> None:
        for frame in acks.frames:
            if not gathered_ack(frame):
                return

    def obeyed(frame: Frame) -> None:
        came(frame)
        obey(frame)

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

    instead = {
        "_gather": gathered,
        "_gather_ack": gathered_ack,
        "_gather_acks": gathered_acks,
        "_obey": obeyed,
    }
    return watched(connection, tell, instead, went)
