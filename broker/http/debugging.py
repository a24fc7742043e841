"""What helps to find out why the broker does what it does."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from broker import debug, tap
from broker.core.destination import check_name
from broker.debug import Levels
from broker.errors import BadValue, Stopping
from broker.http.call import Answer, Call, Sink, Stream, json, text
from broker.http.rendering import NDJSON, accepts
from broker.http.streams import EVENTS, KEEP_ALIVE
from broker.tap import Taps


class Debugging:
    """``/debug``."""

    def __init__(self, levels: Levels, taps: Taps, reactor: IReactorTime) -> None:
        self._levels = levels
        self._taps = taps
        self._reactor = reactor

    async def show(self, call: Call) -> Answer:
        """``GET /debug``: from which level on parts are logged."""
        return json(200, {"log": {"level": self._levels.default, "parts": self._levels.parts}})

    async def set_level(self, call: Call) -> Answer:
        """``PUT /debug/log``: from this level on a part is logged; without a part and a level, all as at the start."""
        part, level = call.parameters.text("part"), call.parameters.text("level")
        if level is None:
            raise BadValue(f"level is missing: {', '.join(debug.NAMES)}, or nothing for the one that holds otherwise.")
        asked = f"{call.access.user.name} over HTTP"
        if part or level:
            self._levels.set(part or debug.WHOLE, level, asked)
        else:
            self._levels.clear(asked)
        return await self.show(call)

    async def stack(self, call: Call) -> Answer:
        """``GET /debug/stack``: what every thread is doing now, and what the reactor has planned."""
        return text(200, debug.stack(self._reactor))

    async def trace(self, call: Call) -> Answer | Stream:
        """``GET /debug/trace``: what passes over a connection, or becomes of a queue's messages, as it happens."""
        parameters = call.parameters
        queue, connection = parameters.text("queue"), parameters.text("connection")
        if (queue is None) == (connection is None):
            raise BadValue("Say which queue, or which connection, and not both.")
        if queue is not None:
            check_name(queue)
        seconds = parameters.integer("seconds", least=1, called="seconds") or tap.SECONDS
        size = parameters.integer("bytes", least=0, called="bytes")
        size = tap.BYTES if size is None else size
        if seconds > tap.MAX_SECONDS or size > tap.MAX_BYTES:
            raise BadValue(f"At most {tap.MAX_SECONDS} seconds, and {tap.MAX_BYTES} bytes of a body.")
        logs, lines = parameters.flag("log"), accepts(call, EVENTS, NDJSON) == NDJSON
        fields = [(b"Content-Type", (NDJSON if lines else EVENTS).encode()), (b"Cache-Control", b"no-store")]
        self._taps.check(connection)
        if call.method == "HEAD":
            return Answer(200, fields=fields)

        async def run(sink: Sink) -> None:
            over: Deferred[None] = Deferred()

            def end() -> None:
                if not over.called:
                    over.callback(None)

            def flow(goes_on: bool) -> None:
                tapped.full = not goes_on

            def write(line: bytes) -> None:
                sink.write(line + b"\n" if lines else b"data: %b\n\n" % line)

            def say_so() -> None:
                if not tapped.full:
                    sink.write(b"\n" if lines else b":\n\n")

            tapped, stop = self._taps.tap(write, queue=queue, connection=connection, size=size, logs=logs)
            tapped.over, sink.flow = end, flow
            timer = self._reactor.callLater(seconds, end)
            alive = LoopingCall(say_so)
            alive.clock = self._reactor
            _ = alive.start(KEEP_ALIVE)
            try:
                await over
            except CancelledError:
                raise Stopping("The broker is stopping.") from None
            finally:
                stop()
                alive.stop()
                if timer.active():
                    timer.cancel()

        return Stream(run, fields)
